"""Time, passed in: the wall clock for instants, the boot-time clock for durations, and how long it was awake."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the rooms know of time."""

    def now(self) -> datetime:
        """The wall clock: an aware UTC instant; may step."""
        ...

    def boot(self) -> float:
        """Seconds since boot, suspend included; never steps back."""
        ...

    def awake(self) -> float:
        """Seconds since boot, suspend left out; never steps back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass in which the machine is awake."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def awake(self) -> float:
        return time.clock_gettime(time.CLOCK_MONOTONIC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only when told; `sleep` returns once `advance` has gone past its end."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._wall = start
        self._boot = self._awake = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._wall

    def boot(self) -> float:
        return self._boot

    def awake(self) -> float:
        return self._awake

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._awake + seconds, future))
        await future

    def advance(self, by: timedelta) -> None:
        """Let time pass on all clocks and wake who slept long enough."""
        self.suspend(by)
        self._awake += by.total_seconds()
        due = [future for end, future in self._sleepers if end <= self._awake]
        self._sleepers = [(end, future) for end, future in self._sleepers if end > self._awake]
        for future in due:
            if not future.done():
                future.set_result(None)

    def suspend(self, by: timedelta) -> None:
        """Let time pass while the machine sleeps: nobody wakes."""
        self._wall += by
        self._boot += by.total_seconds()

    def step(self, by: timedelta) -> None:
        """Set the wall clock forward or back; the others do not notice."""
        self._wall += by
