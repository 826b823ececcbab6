"""One attempt while it lives: its work, and the ways of ending it."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from erpsync.core.job import Job
from erpsync.core.run import Run
from erpsync.running.channel import Done, counts_of
from erpsync.running.fault import Fault, fault_of
from erpsync.running.process import ProcessAttempt
from erpsync.running.reporter import RunReporter
from erpsync.running.verdict import GENTLE, Cause, Ending


class LiveAttempt:
    """Work in a task of its own, in a child process where `child` is set; it may be asked, told and made to end."""

    def __init__(self, run: Run, job: Job, reporter: RunReporter) -> None:
        self.run = run
        self.job = job
        self.reporter = reporter
        self.child: ProcessAttempt | None = None
        self.cause: Cause | None = None
        self._cause_text = ""
        self._forced = False
        self._ignored: list[str] = []
        self._left_behind = False
        self._task: asyncio.Task[Done | Fault] | None = None
        self._answer: asyncio.Future[Done | Fault] = asyncio.get_running_loop().create_future()

    def start(self, work: Coroutine[Any, Any, Done | Fault]) -> None:
        """Begin; an attempt that was told to end meanwhile does not."""
        if self._forced:
            work.close()
            self._give(Fault("stopped", "RunCancelledError", "the attempt had not begun"))
            return
        self._task = asyncio.create_task(work, name=f"run {self.run.id}")
        self._task.add_done_callback(self._finished)

    @property
    def was_entered(self) -> bool:
        """Whether its work has begun; what never did can be begun again, whatever it is."""
        return self._task is not None

    @property
    def is_told_to_end(self) -> bool:
        return self._forced

    async def answer(self) -> Done | Fault:
        """What came of it, once it has ended."""
        return await self._answer

    def ending(self, answer: Done | Fault) -> Ending:
        """How it ended, with this answer."""
        counts = counts_of(self.reporter.counts.document())
        text, hint = self._cause_text + self._resistance(), self._remedy()
        return Ending(answer, counts, self.cause, text, self._forced, hint)

    def ignores(self, request: str) -> None:
        """It has not ended although it had its time after "its cancellation", "SIGTERM", …."""
        self._ignored.append(request)

    def _resistance(self) -> str:
        """How far one had to go, for people."""
        text = f"; the plugin ignored {' and '.join(self._ignored)}" if self._ignored else ""
        if self._left_behind:
            where = "is left behind" if self.child is not None else "goes on unseen in the daemon"
            text += f" and {where}" if text else f"; the plugin {where}"
        return text

    def _remedy(self) -> str:
        if self.child is None:
            return 'give the job isolation = "process", so that it can be killed' if self._left_behind else ""
        return "call ctx.checkpoint() wherever the plugin may end" if self._ignored else ""

    def ask(self, cause: Cause, text: str) -> None:
        """End at the next checkpoint. A gentle cause does not hide that a person, or the time-out, came before."""
        if self.cause is None or cause not in GENTLE:
            self.cause, self._cause_text = cause, text
        self.reporter.stop()
        if self.child is not None:
            self.child.interrupt()

    def force(self) -> None:
        """End now: cancelled, in a child cancelled as far as that goes."""
        self._forced = True
        if self.child is not None:
            self.child.cancel()
        elif self._task is not None:
            self._task.cancel()

    def kill(self, number: signal.Signals) -> bool:
        """Send a signal to the child's process group; False where there is no child or it has ended."""
        if self.child is None or self._answer.done():
            return False
        self.child.kill(number)
        return True

    def abandon(self) -> bool:
        """Stop waiting for work that ignores its cancellation; False where it has ended."""
        if self._answer.done():
            return False
        self._left_behind = True
        self._give(Fault("stopped", "RunCancelledError", "the plugin was left behind"))
        return True

    def _finished(self, task: "asyncio.Task[Done | Fault]") -> None:
        if task.cancelled():
            self._give(fault_of(asyncio.CancelledError()))
        elif (error := task.exception()) is not None:
            self._give(fault_of(error))
        else:
            self._give(task.result())

    def _give(self, answer: Done | Fault) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)
