"""Takes pending runs and sees each through to its recorded end."""

import asyncio
import os
import random
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from erpsync.core.clock import Clock
from erpsync.core.errors import PluginLoadError, RunError, StoreError
from erpsync.core.event import Emit
from erpsync.core.job import Job
from erpsync.core.redaction import Redactor
from erpsync.core.run import Outcome, Run, RunFailure, State
from erpsync.core.secret import SecretReference
from erpsync.plugins.discovery import PluginCatalog
from erpsync.running.admission import Admission
from erpsync.running.alarm import Alarm
from erpsync.running.attempt import LiveAttempt
from erpsync.running.channel import Done
from erpsync.running.connection import Connection
from erpsync.running.escalation import Escalation
from erpsync.running.events import RunEvents
from erpsync.running.fault import Fault
from erpsync.running.fork import ForkServer
from erpsync.running.preparation import Preparation
from erpsync.running.recovery import recover
from erpsync.running.reporter import RunReporter
from erpsync.running.turns import WAITS_FOR, Turns
from erpsync.running.verdict import Ending, judge
from erpsync.running.workbench import Workbench
from erpsync.store.ledger import (
    Begin,
    End,
    Finish,
    Wait,
    begin_attempts,
    end_attempts,
    find_run,
    finish_runs,
    set_waiting,
)
from erpsync.store.run_log import RunLog
from erpsync.store.state import Store

_GRACE = timedelta(seconds=10)
_SHUT_DOWN = "interrupted by the daemon's shut-down"
_STORE_PAUSE = 1.0  # seconds between two tries to write what must be written; doubled up to
_LONGEST_STORE_PAUSE = 30.0
_LONGEST_STORE_PAUSE = 30.0


class Runner:
    """Runs what is pending, within the limits, and records how it ended. To be used in one event loop.

    `connections` gives a job's way to its instance, None for a job without any. `secrets` resolves one reference.
    `grace` is the time between cancelling an attempt and SIGTERM, half of it that between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        *,
        jobs: Mapping[str, Job],
        catalog: PluginCatalog,
        connections: Callable[[Job], Connection | None],
        secrets: Callable[[SecretReference], str],
        store: Store,
        run_logs: RunLog,
        data: Path,
        clock: Clock,
        emit: Emit,
        redactor: Redactor,
        max_runs: int,
        instance_limits: Mapping[str, int],
        grace: timedelta = _GRACE,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._run_logs = run_logs
        self._clock = clock
        self._events = RunEvents(emit)
        self._redactor = redactor
        self._grace = grace.total_seconds()
        self._jitter = jitter
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._preparation = Preparation(catalog, secrets, store)
        self._fork_server = ForkServer()
        self._workbench = Workbench(
            preparation=self._preparation,
            connections=connections,
            fork_server=self._fork_server,
            catalog=catalog,
            data=data,
            clock=clock,
            emit=emit,
            redactor=redactor,
        )
        self._turns = Turns()
        self._admission = Admission(max_runs, instance_limits)
        self._alarm = Alarm(clock)
        self._escalation = Escalation(self._alarm, self._events, self._grace)
        self._live: dict[str, LiveAttempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._fresh: list[Run] = []
        self._pumping = False
        self._accepting = True
        self._idle = asyncio.Event()
        self._idle.set()
        self._waiters: dict[str, list[asyncio.Future[Run]]] = {}

    # -- what others ask for ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Close what a dead owner left behind and take up every unfinished run."""
        if await asyncio.to_thread(self._preparation.needs_children, self._jobs.values()):
            self._fork_server.start()
        self.offer(await self.recover())

    async def recover(self) -> list[Run]:
        """Close what a dead owner left running; every unfinished run, not taken up yet, the oldest first.

        Only the owner of the state may ask this, before anything runs.
        """
        found = await recover(self._store, self._jobs, self._preparation, self._clock, self._events)
        for run in found:
            if run.state is State.FINISHED:
                self._announce(run)
        return [run for run in found if run.state is not State.FINISHED]

    def offer(self, runs: Iterable[Run]) -> None:
        """Take unfinished runs; those that the ledger holds and nobody offers are taken at the next start."""
        for run in runs:
            self._take_up(run)

    async def cancel(self, run_id: str, requested_by: str) -> bool:
        """End a run; False where it has ended already, or never was. Does not wait for a running one's end."""
        text = f"cancelled by {requested_by}"
        if (attempt := self._live.get(run_id)) is not None:
            self._escalation.end(attempt, "cancelled", text)
            return True
        error = RunFailure("RunCancelledError", text)
        finish = Finish(run_id, Outcome.CANCELLED, self._clock.now(), "requested", error)
        run = await self._store.write(finish_runs, finish)
        if run is None:
            return False
        self._admission.withdraw(run_id)
        self._alarm.clear(run_id)
        self._announce(run)
        return True

    async def wait(self, run_id: str) -> Run:
        """The run, once it is finished.

        Raises:
            RunError: there is no such run, or this runner stopped before its end.
        """
        waiter: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(run_id, [])
        waiters.append(waiter)
        try:
            run = await self._store.read(find_run, run_id)
            if run is None:
                raise RunError(f'there is no run "{run_id}"')
            return run if run.state is State.FINISHED else await waiter
        finally:
            waiters.remove(waiter)
            if not waiters:
                self._waiters.pop(run_id, None)

    def progress(self, run_id: str) -> tuple[int, int | None] | None:
        """(done, total or None) of a running attempt, as its plugin last said; None where it said nothing."""
        attempt = self._live.get(run_id)
        return attempt.reporter.done if attempt else None

    def running(self) -> list[Run]:
        """The runs that hold a slot, with their rows so far, the longest running first."""
        return [replace(attempt.run, counts=attempt.reporter.counts) for attempt in self._live.values()]

    async def drain(self, timeout: timedelta) -> None:
        """Start nothing any more; let what runs end, then ask it to stop at a checkpoint, then make it end.

        What is interrupted counts as nobody's failure. Returns once nothing runs, or what runs cannot be ended.
        """
        self._accepting = False
        self._admission.clear()
        for grace, end in ((timeout.total_seconds(), LiveAttempt.ask), (self._grace, self._escalation.end)):
            if await self._is_idle_within(grace):
                return
            for attempt in list(self._live.values()):
                end(attempt, "stopping", _SHUT_DOWN)
        await self._is_idle_within(2 * self._grace)

    async def stop(self) -> None:
        """End everything now; children are killed. Stopping twice is fine."""
        self._accepting = False
        self._admission.clear()
        for attempt in list(self._live.values()):
            self._escalation.end(attempt, "stopping", _SHUT_DOWN)
            self._escalation.kill(attempt)
        await self._is_idle_within(self._grace)
        for attempt in list(self._live.values()):
            self._escalation.abandon(attempt)
        await self._is_idle_within(self._grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._alarm.close()
        unended = RunError("the daemon stops before the run has ended")
        for run_id in self._waiters:
            self._resolve(run_id, partial(_fail, error=unended))
        await self._fork_server.close()

    # -- from pending to begun -------------------------------------------------------------------------

    def _queue(self, run: Run) -> None:
        if not self._accepting:
            return
        if not self._may_overlap(run) and not self._turns.join(run):
            self._wait(run, WAITS_FOR)
        elif self._admission.put(run):
            self._fresh.append(run)
            self._pump_soon()

    def _may_overlap(self, run: Run) -> bool:
        job = self._jobs.get(run.job)
        return job is not None and job.overlap == "allow"

    def _wait(self, run: Run, reason: str) -> None:
        self._store.submit(set_waiting, Wait(run.id, reason))
        self._events.waiting(replace(run, state=State.WAITING, waiting_for=reason))

    def _pump_soon(self) -> None:
        """Start what can start at the end of this turn of the loop: what came together starts in one transaction."""
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        for run in self._admission.take():
            self._begin(run)
        fresh, self._fresh = self._fresh, []
        for run in fresh:
            if reason := self._admission.lacks(run):
                self._wait(run, reason)

    def _begin(self, run: Run) -> None:
        job = self._jobs.get(run.job)
        reporter = RunReporter(run.id, self._run_logs, self._redactor, self._clock)
        attempt = LiveAttempt(run, job or Job(run.job, run.job, run.plugin), reporter)
        self._live[run.id] = attempt
        self._idle.clear()
        task = asyncio.create_task(self._see_through(attempt, configured=job is not None))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- one attempt, from begin to end ----------------------------------------------------------------

    async def _see_through(self, attempt: LiveAttempt, *, configured: bool) -> None:
        after: Run | None = None
        try:
            if not configured:
                after = await self._give_up(attempt.run)
            elif await self._is_begun(attempt):
                end = await self._attempt(attempt)
                after = await self._written(end_attempts, end, attempt)
                if end.store_cursor:
                    self._preparation.cursor_moved(attempt.run.job, end.cursor_after)
        except Exception as error:  # noqa: BLE001 - one run's end must not be the end of the others
            self._events.lost(attempt.run, error)
            self._resolve(attempt.run.id, partial(_fail, error=error))
        finally:
            self._release(attempt)
        if after is not None:
            self._go_on(after)
        else:
            self._next_turn(attempt.run)

    async def _is_begun(self, attempt: LiveAttempt) -> bool:
        """Make the beginning durable; False where the run has ended meanwhile."""
        begin = Begin(attempt.run.id, self._owner, self._clock.now())
        begun = await self._written(begin_attempts, begin, attempt)
        if begun is None:
            return False
        attempt.run = replace(
            attempt.run,
            state=State.RUNNING,
            waiting_for=None,
            attempts=begun.number,
            started_at=attempt.run.started_at or begun.started_at,
            owner=self._owner,
        )
        self._events.started(attempt.run)
        return True

    async def _attempt(self, attempt: LiveAttempt) -> End:
        self._escalation.limit(attempt)
        attempt.start(self._workbench.work(attempt))
        ending = await attempt.ending()
        self._escalation.over(attempt)
        ending = replace(ending, answer=self._clean(ending.answer))
        if isinstance(ending.answer, Fault):
            self._log_fault(attempt.reporter, ending.answer, ending)
        return judge(
            attempt.job,
            attempt.run,
            ending,
            repeatable=ending.cause == "stopping" and self._repeatable(attempt.job),
            now=self._clock.now(),
            jitter=self._jitter,
        )

    def _go_on(self, run: Run) -> None:
        """After an attempt: the end of the run, or its next attempt."""
        if run.state is State.FINISHED:
            self._announce(run)
            return
        if run.error is not None:
            self._events.failed(run)
        if run.state is State.WAITING:
            self._events.waiting(run)
        self._take_up(run)

    def _take_up(self, run: Run) -> None:
        """Queue a run, once its time has come."""
        if run.next_attempt_at is None:
            self._queue(run)
        else:
            wait = (run.next_attempt_at - self._clock.now()).total_seconds()
            self._alarm.set(run.id, wait, lambda: self._queue(run))

    async def _give_up(self, run: Run) -> Run | None:
        reason = "the job is no longer configured"
        finish = Finish(run.id, Outcome.ABANDONED, self._clock.now(), reason)
        return await self._store.write(finish_runs, finish)

    async def _written(self, operation: Callable[..., Any], item: object, attempt: LiveAttempt) -> Any:
        """Write, and try again for as long as the state database may come back: the end of a run is not lost lightly.

        Raises:
            StoreError: it will not come back by itself, or the run is not ours any more.
        """
        pause = _STORE_PAUSE
        while True:
            try:
                return await self._store.write(operation, item)
            except StoreError as error:
                if not error.retryable:
                    raise
                self._events.unwritten(attempt.run, error)
            await self._clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_STORE_PAUSE)

    def _release(self, attempt: LiveAttempt) -> None:
        run_id = attempt.run.id
        self._escalation.over(attempt)
        del self._live[run_id]
        self._admission.release(run_id)
        self._run_logs.close(run_id)
        if self._accepting:
            self._pump_soon()
        if not self._live:
            self._idle.set()

    async def _is_idle_within(self, seconds: float) -> bool:
        idle = asyncio.ensure_future(self._idle.wait())
        over = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({idle, over}, return_when=asyncio.FIRST_COMPLETED)
            return self._idle.is_set()
        finally:
            idle.cancel()
            over.cancel()

    def _announce(self, run: Run) -> None:
        """The end of a run, for the log and for those who wait for it."""
        self._events.finished(run)
        self._resolve(run.id, lambda waiter: waiter.set_result(run))
        self._next_turn(run)

    def _next_turn(self, run: Run) -> None:
        following = self._turns.leave(run)
        if following is not None:
            self._queue(following)

    def _resolve(self, run_id: str, resolve: Callable[["asyncio.Future[Run]"], None]) -> None:
        for waiter in self._waiters.get(run_id, ()):
            if not waiter.done():
                resolve(waiter)

    def _clean(self, answer: Done | Fault) -> Done | Fault:
        """Without secrets, before anything is kept of it."""
        clean = self._redactor
        if isinstance(answer, Done):
            return msgspec.structs.replace(answer, note=clean(answer.note))
        words = {"message": clean(answer.message), "hint": clean(answer.hint), "trace": clean(answer.trace)}
        return msgspec.structs.replace(answer, **words)

    def _log_fault(self, reporter: RunReporter, fault: Fault, ending: Ending) -> None:
        if fault.kind == "skip":
            return
        if ending.cause:  # we ended it; what it raised by that is nobody's fault
            reporter.log("warning", "attempt.ended", {"cause": ending.cause_text})
            return
        words = {"type": fault.type, "message": fault.message, "hint": fault.hint}
        words |= {"trace": fault.trace}
        reporter.log("error", "attempt.failed", {name: word for name, word in words.items() if word})

    def _repeatable(self, job: Job) -> bool:
        try:
            return self._preparation.repeatable(job)
        except PluginLoadError:
            return True  # it has not been entered: nothing was done that could be done twice


def _fail(waiter: "asyncio.Future[Run]", error: Exception) -> None:
    waiter.set_exception(error)
