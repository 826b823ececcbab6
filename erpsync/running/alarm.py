"""Things to do later, on the clock that is passed in: one sleeper for all, whatever their number."""

import asyncio
import heapq
import itertools
from collections.abc import Callable

from erpsync.core.background import guarded
from erpsync.core.clock import Clock

_NAP = 30.0  # seconds at most: the sleep may stand still while the machine is suspended, the boot-time clock does not


class Alarm:
    """Calls functions at instants of the boot-time clock; each has a key, and a new one replaces the old."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._calls: dict[object, tuple[int, Callable[[], object]]] = {}
        self._heap: list[tuple[float, int, object]] = []
        self._numbers = itertools.count()
        self._until = 0.0
        self._sleeper: asyncio.Task[None] | None = None

    def set(self, key: object, seconds: float, call: Callable[[], object]) -> None:
        """Call once, in the event loop, `seconds` from now."""
        at = self._clock.boot() + max(seconds, 0.0)
        number = next(self._numbers)
        self._calls[key] = (number, call)
        heapq.heappush(self._heap, (at, number, key))
        if self._sleeper is None or at < self._until:
            self._sleep()

    def is_set(self, key: object) -> bool:
        """Whether a call with this key is still to come."""
        return key in self._calls

    def clear(self, key: object) -> None:
        """Forget it; nothing where there is none."""
        self._calls.pop(key, None)
        if len(self._heap) > 2 * len(self._calls) + 100:
            self._heap = [entry for entry in self._heap if self._is_due_for(entry)]
            heapq.heapify(self._heap)

    def close(self) -> None:
        """Forget everything."""
        self._calls.clear()
        self._heap.clear()
        if self._sleeper is not None:
            self._sleeper.cancel()
            self._sleeper = None

    def _is_due_for(self, entry: tuple[float, int, object]) -> bool:
        return self._calls.get(entry[2], (None,))[0] == entry[1]

    def _sleep(self) -> None:
        if self._sleeper is not None:
            self._sleeper.cancel()
        self._sleeper = asyncio.create_task(self._watch(), name="alarm")

    async def _watch(self) -> None:
        while self._heap:
            now = self._clock.boot()
            self._until = min(self._heap[0][0], now + _NAP)
            if self._until > now:
                await self._clock.sleep(self._until - now)
            self._ring()
        self._sleeper = None

    def _ring(self) -> None:
        now = self._clock.boot()
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if self._is_due_for(entry):
                _, call = self._calls.pop(entry[2])
                with guarded("what was to be done now"):
                    call()
