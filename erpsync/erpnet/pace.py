"""A pace for requests: so many a second, evenly, whoever asks."""

from erpsync.core.clock import Clock


class Pace:
    """Lets `rate` requests a second pass. One object serves all who share the limit."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self._interval = 1.0 / rate
        self._clock = clock
        self._free_at = 0.0

    async def turn(self) -> None:
        """Wait for the next place in line."""
        now = self._clock.boot()
        start = max(now, self._free_at)
        self._free_at = start + self._interval
        if start > now:
            await self._clock.sleep(start - now)
