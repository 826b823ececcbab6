"""Equal faults of the event loop, told once a minute with their number: repeating ones must not fill the log."""

from collections.abc import Hashable

_MINUTE = 60.0
_MOST_KINDS = 1000


class FaultTally:
    """Counts faults by what they say."""

    def __init__(self) -> None:
        self._told: dict[Hashable, tuple[float, int]] = {}

    def count(self, fault: Hashable, now: float) -> int:
        """How many equal ones there are to tell of now, this one included; 0 where that was done within a minute.

        `now` is in seconds of a monotonic clock.
        """
        told_at, silent = self._told.get(fault, (now - _MINUTE, 0))
        if now - told_at < _MINUTE:
            self._told[fault] = (told_at, silent + 1)
            return 0
        if len(self._told) >= _MOST_KINDS:
            self._told.clear()
        self._told[fault] = (now, 0)
        return silent + 1
