"""Virtual time: a clock that moves only when an event loop has nothing left to do, and then at once.

Polls are what would make this slow: the daemon looks at the wall clock every few seconds, for it may be set. A look
before which nothing was set finds what the look before it found. So whoever sleeps shortly (`POLL`) sleeps until
something else happens; only after the wall clock was set time goes at their pace for a while.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

Answer = TypeVar("Answer")
POLL = 30.0
"""The longest of the naps that the daemon takes between two looks at the wall clock, in seconds."""
_SETTLED = POLL + 5
_HAIR = 1e-5
"""By so many seconds a note is later than what it is for, whatever floating point makes of that."""


class VirtualClock:
    """A `Clock`; `advance` and `step` are for the world outside."""

    def __init__(self, start: datetime) -> None:
        self._origin = start  # what the wall clock shows at boot
        self._boot = 0.0
        self._slept = 0.0
        self._numbers = itertools.count()
        self._naps: list[tuple[float, int, asyncio.Future[None]]] = []  # by awake time
        self._notes: list[float] = []  # by boot time
        self._settling = 0.0

    def now(self) -> datetime:
        return self._origin + timedelta(seconds=self._boot)

    def boot(self) -> float:
        return self._boot

    def awake(self) -> float:
        return self._boot - self._slept

    async def sleep(self, seconds: float) -> None:
        if not 0 < seconds <= POLL:
            await asyncio.sleep(seconds)
            return
        nap = asyncio.get_running_loop().create_future()
        heapq.heappush(self._naps, (self.awake() + seconds, next(self._numbers), nap))
        await nap

    def note(self, seconds: float) -> None:
        """Something is to happen so long from now: no nap goes beyond."""
        heapq.heappush(self._notes, self._boot + max(seconds, 0.0) + _HAIR)

    def settle(self) -> None:
        """Something happened that only looks find: let them be taken in time."""
        self._settling = self._boot + _SETTLED

    @property
    def is_settled(self) -> bool:
        """Whether the looks at the wall clock have had their time since something happened to it."""
        return self._boot >= self._settling

    def step(self, by: timedelta) -> None:
        """Somebody sets the wall clock; the boot-time clock does not notice."""
        self._origin += by
        self.settle()

    def suspend(self, seconds: float) -> None:
        """The machine sleeps, and with it all timers."""
        self._slept += seconds
        self._boot += seconds
        self.settle()

    def advance(self, seconds: float) -> None:
        """Let time pass, whatever should have happened meanwhile: it happens late."""
        self._boot += seconds
        while self._notes and self._notes[0] <= self._boot:
            heapq.heappop(self._notes)
        while self._naps and self._naps[0][0] <= self.awake():
            nap = heapq.heappop(self._naps)[2]
            if not nap.done():
                nap.set_result(None)

    def until_next(self, timer: float | None) -> float:
        """Seconds until something happens; `timer`: until the loop's next timer."""
        while self._naps and self._naps[0][2].done():  # cancelled
            heapq.heappop(self._naps)
        times = [] if timer is None else [timer]
        times += [note - self._boot for note in self._notes[:1]]
        if not self.is_settled or not times:
            times += [nap[0] - self.awake() for nap in self._naps[:1]]
        assert times, "everybody waits and nothing will ever happen"
        return max(min(times), 0.0)


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop on a virtual clock: one thread, no sockets. Before time passes it calls `idle` with how much."""

    def __init__(self, clock: VirtualClock, idle: Callable[[float], float]) -> None:
        super().__init__()
        self._clock = clock
        self._idle = idle
        self._selector = self  # what waits for sockets elsewhere lets time pass here
        self._clock_resolution = 1e-6
        self._made: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._make)  # type: ignore[arg-type]

    def time(self) -> float:
        return self._clock.awake()

    def select(self, timeout: float | None) -> list[object]:
        """Nobody has anything to do, unless the time-out is 0."""
        if timeout is None or timeout > 0:
            self._clock.advance(self._idle(self._clock.until_next(timeout)))
        return []

    def run_in_executor(
        self, executor: Any, func: Callable[..., Answer], *args: Any
    ) -> asyncio.Future[Answer]:  # type: ignore[override]
        """Here and now."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def die(self) -> None:
        """Everything that was under way ends where it stands; what it still wants to do is not done."""
        while any(not task.done() for task in self._made):
            for task in self._made:
                task.cancel()
            self.call_soon(self.stop)
            self.run_forever()
        for task in self._made:
            if not task.cancelled():
                task.exception()
        self.close()

    def _make(self, loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
        self._made = [task for task in self._made if not task.done()] if len(self._made) > 100 else self._made
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **more)
        self._made.append(task)
        return task

    def _process_events(self, events: list[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """There is no other thread."""
