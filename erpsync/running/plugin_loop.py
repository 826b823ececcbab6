"""The border between plugins and the event loop: what a plugin starts there is of its run, and ends nobody else."""

import asyncio
import os
import signal
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NoReturn
from weakref import WeakSet

from erpsync.core.errors import LoopMisusedError, TasksLeftError

_LAST_STEPS = 1.0  # seconds for tasks to end by themselves, and again when they are cancelled
_NAMED = 3


class Entered:
    """A run whose plugin is at work in this context: its `tasks`, and the `misdeed` that ends it when it leaves."""

    def __init__(self, run_id: str, job: str) -> None:
        self.run_id = run_id
        self.job = job
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.misdeed: BaseException | None = None

    async def leave(self) -> None:
        """The plugin has ended: so must what it started. What ends by itself within a second has its time.

        Raises:
            TasksLeftError: it had to be cancelled.
            SystemExit, KeyboardInterrupt: one of its callbacks raised that.
            LoopMisusedError: something that it did was refused, whether or not it has swallowed that.
        """
        if left := await self._left(_LAST_STEPS):
            for task in left:
                task.cancel()
            deaf = await self._left(_LAST_STEPS)
            raise _tasks_left(left, deaf)
        if self.misdeed is not None:
            raise self.misdeed

    async def _left(self, seconds: float) -> list[asyncio.Task[Any]]:
        current = asyncio.current_task()
        left = [task for task in self.tasks if task is not current and not task.done()]
        if left:
            await asyncio.wait(left, timeout=seconds)
        return [task for task in left if not task.done()]


def _tasks_left(left: Sequence[asyncio.Task[Any]], deaf: Collection[asyncio.Task[Any]]) -> TasksLeftError:
    names = sorted({getattr(task.get_coro(), "__qualname__", task.get_name()) for task in left})
    count = "a task" if len(left) == 1 else f"{len(left)} tasks"
    end = "ignored its cancellation and goes on" if deaf else "cancelled"
    return TasksLeftError(
        f"the plugin left {count} behind, {end}: {', '.join(names[:_NAMED])}",
        hint="await what it starts, or use asyncio.TaskGroup",
    )


ENTERED: ContextVar[Entered | None] = ContextVar("entered", default=None)
SOMEBODY = threading.Event()
"""Set when a plugin enters a loop of this process. Who waits for that clears it, then asks `is_any_at_work`."""


class PluginLoop(asyncio.SelectorEventLoop):
    """An event loop that no plugin ends, and that goes on in no forked copy.

    asyncio lets SystemExit and KeyboardInterrupt out of a task or a callback, past everybody, to end the program. We
    end by signals, which are callbacks, so here they are what some plugin raised: its task has failed with it, its
    callback is told, and the loop goes on where it was. What would end the loop, its threads or the tasks of others
    is refused to plugins.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told_to_stop = False
        self._main: asyncio.Future[Any] | None = None
        self.set_task_factory(_task_of_its_run)
        _loops.add(self)

    def run_until_complete(self, future: Any) -> Any:
        self._main = asyncio.ensure_future(future, loop=self)
        return super().run_until_complete(self._main)

    def run_forever(self) -> None:
        self._told_to_stop = False
        while True:
            try:
                return super().run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                if self._main is not None and self._main.done():
                    return None  # it was raised by what we run for, whose result it is
                if (handle := _called_by_us(error.__traceback__)) is None:
                    raise  # not a plugin but a signal's handler, between two callbacks
                self._blame(error, handle._context.get(ENTERED))  # type: ignore[attr-defined]
                if self._told_to_stop:  # in the same round as it was raised
                    return None

    def stop(self) -> None:
        _refuse_plugins("stop")
        self._told_to_stop = True
        super().stop()

    async def shutdown_default_executor(self, *timeout: Any) -> None:
        _refuse_plugins("shutdown_default_executor")
        await super().shutdown_default_executor(*timeout)

    def set_default_executor(self, executor: Any) -> None:
        _refuse_plugins("set_default_executor")
        super().set_default_executor(executor)

    def end_with_this_step(self) -> None:
        """In a copy of the process: only what the plugin does before it comes back to us is its own."""
        self._ready: deque[asyncio.Handle]  # asyncio's own
        self._ready.clear()
        self.call_soon(os._exit, 0)

    def _blame(self, error: BaseException, entered: Entered | None) -> None:
        if entered is not None:
            entered.misdeed = error
        who = f"a plugin of job {entered.job}" if entered is not None else "somebody"
        self.call_exception_handler(
            {"message": f"{who} wanted to end the daemon by {type(error).__name__}", "exception": error}
        )


async def enter(entered: Entered, work: Callable[[], Awaitable[object]]) -> object:
    """What the plugin returns, once all that it started has ended; raises what it raised, and as `Entered.leave`."""
    ENTERED.set(entered)
    _at_work.add(entered)
    if not SOMEBODY.is_set():  # else nobody waits for it
        SOMEBODY.set()
    if (task := asyncio.current_task()) is not None:
        entered.tasks.add(task)
    try:
        result = await work()
    except GeneratorExit:
        raise  # there is no time left to wait
    except BaseException:
        with suppress(TasksLeftError):  # it has failed for another reason already
            await entered.leave()
        raise
    else:
        await entered.leave()
        return result
    finally:
        _at_work.discard(entered)


def is_any_at_work() -> bool:
    """Whether a plugin is in a loop of this process; to be asked from any thread."""
    return bool(_at_work)


_at_work: set[Entered] = set()
_loops: WeakSet[PluginLoop] = WeakSet()


def _be_no_daemon() -> None:
    """In a forked copy: its signals are its own, and the next step of the loop is its end."""
    running = [loop for loop in _loops if loop.is_running()]
    if running:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGURG):
            signal.signal(number, signal.SIG_DFL)
    for loop in running:
        loop.end_with_this_step()


os.register_at_fork(after_in_child=_be_no_daemon)


class _Task(asyncio.Task[Any]):
    """A task that no plugin but its own can cancel."""

    def cancel(self, msg: Any = None) -> bool:
        entered = ENTERED.get()
        if entered is not None and self not in entered.tasks and not self.done():
            _note_misdeed(entered, "cancelled a task that is not its own")
            return False  # as if it had ended: an error here would hide from the plugin what is its own
        return super().cancel(msg)


_exit = os._exit


def keep_process() -> None:
    """From now on a plugin in the loop cannot end this process by os._exit; whoever else, and its copies, may."""
    ours = os.getpid()

    def leave(status: int) -> NoReturn:
        if os.getpid() == ours and (entered := ENTERED.get()) is not None:
            raise _note_misdeed(entered, "called os._exit(), which would have ended all others too")
        _exit(status)

    setattr(os, "_exit", leave)  # noqa: B010 - what a module has is not meant to change


def _refuse_plugins(call: str) -> None:
    """Raises LoopMisusedError where a plugin is at work in this context."""
    if (entered := ENTERED.get()) is not None:
        raise _note_misdeed(entered, f"called {call}() of the event loop, which is not its own")


def _note_misdeed(entered: Entered, deed: str) -> LoopMisusedError:
    error = LoopMisusedError(
        f"the plugin {deed}", hint="end what it has started, and leave the loop and the process alone"
    )
    entered.misdeed = entered.misdeed or error
    return error


def _task_of_its_run(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    **options: Any,
) -> asyncio.Task[Any]:
    task = _Task(coroutine, loop=loop, **options)
    context = options.get("context")
    entered = ENTERED.get() if context is None else context.get(ENTERED)
    if entered is not None:
        entered.tasks.add(task)
    return task


def _called_by_us(trace: TracebackType | None) -> asyncio.Handle | None:
    """The callback, or the step of a task, that raised; None where it was in none."""
    while trace is not None:
        if trace.tb_frame.f_code is asyncio.Handle._run.__code__:
            handle: asyncio.Handle = trace.tb_frame.f_locals["self"]
            return handle
        trace = trace.tb_next
    return None
