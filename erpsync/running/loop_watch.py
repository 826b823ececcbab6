"""Noticing a plugin that blocks the event loop: it is named, and what it does is interrupted after a while.

An `async def` plugin that computes or waits without `await` stops every other run of the daemon. A thread asks the
loop again and again for a sign of life; a signal lets the main thread say what it is doing, and raises there once it
has been too long. What does not return to Python, like a long call into C, can be named and not interrupted; for that
systemd's watchdog remains.
"""

import asyncio
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from erpsync.core.errors import LoopBlockedError
from erpsync.core.event import Emit
from erpsync.running.plugin_loop import ENTERED, SOMEBODY, Entered, is_any_at_work

NOTICE, LIMIT = 1.0, 10.0
"""Seconds after which a blocked loop is told, and after which the plugin is interrupted."""
_LOOK = 0.5
_IDLE_LOOK = 2.0  # unless a plugin enters the loop: each look wakes a machine that sleeps
_SIGNAL = signal.SIGURG  # ignored where nobody handles it
_LIBRARIES = tuple(str(Path(sys.modules[name].__file__ or "").parent) for name in ("asyncio", "erpsync"))


class LoopWatch:
    """Watches the running loop of the main thread from `start` to `stop`.

    Time counts while this process is awake and running, so neither a suspend nor a stopped process is blamed on a
    plugin.
    """

    def __init__(self, emit: Emit, *, notice: float = NOTICE, limit: float = LIMIT) -> None:
        self._emit = emit
        self._notice, self._limit = notice, limit
        self._asked = self._answered = 0
        self._blocked = 0.0
        self._seen: tuple[Entered | None, str] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="erpsync-loop-watch", daemon=True)

    def start(self) -> None:
        """To be called in the loop, in the main thread."""
        self._loop = asyncio.get_running_loop()
        self._before = signal.signal(_SIGNAL, self._look)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._over.set()
        SOMEBODY.set()
        self._thread.join()
        signal.signal(_SIGNAL, self._before)

    def _rest(self) -> None:
        """While no plugin is in the loop, and not for long: others can block it too."""
        SOMEBODY.clear()
        if not is_any_at_work() and not self._over.is_set():
            SOMEBODY.wait(_IDLE_LOOK)

    def _answer(self, number: int) -> None:
        self._answered = number

    def _ask(self) -> None:
        self._asked += 1
        self._loop.call_soon_threadsafe(self._answer, self._asked)

    def _watch(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        told = False
        while not self._over.is_set():
            if self._answered == self._asked:
                if told:
                    self._emit("loop.freed", blocked_seconds=round(self._blocked, 1))
                told, self._blocked, self._seen = False, 0.0, None
                self._rest()
                self._ask()
                looked = time.monotonic()
            if self._over.wait(_LOOK):
                return
            now = time.monotonic()
            passed, looked = min(now - looked, 2 * _LOOK), now
            if self._answered == self._asked:
                continue
            self._blocked += passed
            if self._blocked < self._notice:
                continue
            if not told and self._seen is not None:
                told = self._tell(*self._seen)
            elif not told and self._blocked > 2 * self._notice:  # it does not come back from where it is
                told = self._tell(None, _place(sys._current_frames().get(main)))
            signal.pthread_kill(main, _SIGNAL)

    def _look(self, _number: int, frame: FrameType | None) -> None:
        """In the main thread, in the middle of whatever it does."""
        entered = ENTERED.get()
        if self._blocked < self._notice:
            return
        place, before = _place(frame), self._seen
        self._seen = entered, place
        if before is not None and before[0] is not entered:  # not that long: another one has
            self._blocked = self._notice
        elif entered is not None and self._blocked >= self._limit:
            raise LoopBlockedError(
                f"the plugin blocked the daemon's event loop for {self._blocked:.0f} s at {place}",
                hint='await what takes time, use asyncio.to_thread, or set isolation = "process" for the job',
            )

    def _tell(self, entered: Entered | None, place: str) -> bool:
        self._emit(
            "loop.blocked",
            level="warning",
            run_id=entered.run_id if entered else None,
            job=entered.job if entered else None,
            place=place,
            blocked_seconds=round(self._blocked, 1),
        )
        return True


def _place(frame: FrameType | None) -> str:
    """The innermost line that is neither ours nor asyncio's: the plugin's, or that of a library it called."""
    innermost = frame
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((*_LIBRARIES, "<")):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return f"{innermost.f_code.co_filename}:{innermost.f_lineno}" if innermost else "an unknown place"
