"""How a process that runs plugins ends: when it is told to, and whatever plugins have left in it."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Self

URGENT = 1.0
"""Seconds that attempts have to end after a second signal."""
PERSON_NEEDED = 78
"""The exit code where the state is damaged or not in its place: no service manager tries again."""
START_AGAIN = 75
"""The exit code where the next start finds all as it should be."""
_LATEST = 5.0  # seconds after a second signal until the process ends in the middle
_LAST_WORDS = 2.0  # seconds for threads and tasks that are left when all has stopped


@contextmanager
def leaving(code: int) -> Iterator[None]:
    """All has stopped, and the event loop closes meanwhile; the process ends with this exit code if it does not.

    A plugin's thread, or its task that swallows every cancellation, would keep it for ever, and with it the state.
    """
    timer = _leave_within(_LAST_WORDS, code)
    try:
        yield
    finally:
        timer.cancel()


def _leave_within(seconds: float, code: int) -> threading.Timer:
    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # it may be closed already
                stream.flush()
        os._exit(code)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    return timer


class Signals:
    """SIGTERM and SIGINT, while this holds; to be entered in the loop, in the main thread.

    They are heard in the middle of whatever a plugin does, so that the second one ends even a process whose loop is
    blocked.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[int] = asyncio.Queue()
        self._count = 0

    def __enter__(self) -> Self:
        self._before = {
            number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    async def next(self) -> int:
        """The number of the next signal."""
        return await self._heard.get()

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count == 2:
            _leave_within(_LATEST, 128 + number)
        self._loop.call_soon_threadsafe(self._heard.put_nowait, number)
