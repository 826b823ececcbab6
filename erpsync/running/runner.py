"""Takes pending runs and sees each through to its recorded end."""

import asyncio
import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from erpsync.core.calendar import opens_at
from erpsync.core.clock import Clock
from erpsync.core.errors import RunError, StoreError
from erpsync.core.event import Emit
from erpsync.core.job import Job
from erpsync.core.redaction import Redactor
from erpsync.core.run import Outcome, Run, RunFailure, RunTrigger, State
from erpsync.core.secret import SecretReference
from erpsync.erpnet.slots import SlotBook
from erpsync.plugins.discovery import PluginCatalog
from erpsync.running.admission import Admission
from erpsync.running.alarm import Alarm
from erpsync.running.attempt import LiveAttempt
from erpsync.running.attempt_runner import AttemptRunner, NotBegunError
from erpsync.running.connection import Connection
from erpsync.running.endings import Ended, Endings, HandOver
from erpsync.running.escalation import Escalation
from erpsync.running.events import RunEvents
from erpsync.running.fork import ForkServer
from erpsync.running.patience import PAUSE, PatientWriter
from erpsync.running.plugin_host import PluginHost
from erpsync.running.preparation import Preparation
from erpsync.running.recovery import recover
from erpsync.running.reporter import RunReporter
from erpsync.running.verdict import LICENCE, UNCONFIGURED
from erpsync.running.waiting import START_BY, Following, WaitingRoom
from erpsync.store.dead_letters import DeadLetters, settles, taken_up
from erpsync.store.history import find_run
from erpsync.store.ledger import Finish
from erpsync.store.pauses import Pause, read_pauses
from erpsync.store.run_log import RunLog
from erpsync.store.state import Store

_GRACE = timedelta(seconds=10)
_REPLACED = "replaced by a newer run"
_SHUT_DOWN = "interrupted by the daemon's shut-down"


class Runner:
    """Runs what is pending, within the limits, and records how it ended. To be used in one event loop.

    `connections` gives a job's way to its instance, None for a job without any. `secrets` resolves one reference.
    `patience` bounds how long an end is tried to be written while the state refuses it; None: for ever, as a
    daemon must.
    `grace` is the time between cancelling an attempt and SIGTERM, half of it that between SIGTERM and SIGKILL.
    `pools` holds the slots of each, `books` the licence slots of instances that have some. `following` gives the
    first fire time of a job after an instant. `hand_over` is called in the transaction that finishes a run, in
    another thread.
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
        pools: Mapping[str, int] | None = None,
        books: Mapping[str, SlotBook] | None = None,
        following: Following = lambda job, instant: None,
        hand_over: HandOver = lambda connection, finished, now: [],
        patience: timedelta | None = None,
        grace: timedelta = _GRACE,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._jobs = jobs
        # the last part tells this runner from every other one, also of this process and pid
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"
        self._patience = patience
        self._store = store
        self._data = data
        self._run_logs = run_logs
        self._clock = clock
        self._events = RunEvents(emit)
        self._writer = PatientWriter(store, clock, self._events, patience)
        self._redactor = redactor
        self._grace = grace.total_seconds()
        self._preparation = Preparation(catalog, secrets, store)
        self._fork_server = ForkServer(redactor.knows)
        self._host = PluginHost(
            preparation=self._preparation,
            connections=connections,
            fork_server=self._fork_server,
            catalog=catalog,
            data=data,
            clock=clock,
            emit=emit,
            redactor=redactor,
        )
        self._endings = Endings(hand_over)
        self._books = {} if books is None else books  # may grow
        self._admission = Admission(max_runs, instance_limits, pools, self._books)
        self._alarm = Alarm(clock)
        self._room = WaitingRoom(
            jobs=jobs,
            store=store,
            clock=clock,
            alarm=self._alarm,
            events=self._events,
            following=following,
            ready=self._queue,
            late=self._miss,
        )
        self._escalation = Escalation(self._alarm, clock, self._events, self._grace)
        self._attempts = AttemptRunner(
            owner=self._owner,
            store=store,
            patient=self._writer if patience is not None else None,
            host=self._host,
            preparation=self._preparation,
            escalation=self._escalation,
            events=self._events,
            clock=clock,
            redactor=redactor,
            jitter=jitter,
        )
        self._live: dict[str, LiveAttempt] = {}
        # of runs that are not finished, since this runner knows them
        self._licence_waits: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fresh: list[Run] = []
        self._pumping = False
        self._accepting = True
        self._idle = asyncio.Event()
        self._idle.set()
        self._waiters: dict[str, list[asyncio.Future[Run]]] = {}

    # -- what others ask for ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Close what a dead owner left behind and take up every unfinished run, those of paused jobs to wait.

        May be repeated, as after a failure: what this runner has taken up already goes on.

        Raises:
            StoreError: not all was taken up.
        """
        self._room.set_pauses(await self._store.read(read_pauses))
        await self._preparation.read_cursors(self._jobs)
        if await asyncio.to_thread(self._preparation.needs_children, self._jobs.values()):
            self._fork_server.start()
        left = await self.recover()
        # written last, whatever the clock said
        newest = {run.job: run.created_at for run in left if run.trigger is not RunTrigger.BACKFILL}
        for run in left:
            if run.id in self._live:  # begun since it was read
                continue
            if self._replaces(run) and run.created_at != newest[run.job]:
                await self._finish(
                    run, Outcome.CANCELLED, "replaced", RunFailure("RunCancelledError", _REPLACED)
                )
            elif self._room.is_late(run):
                self._miss(run, run.waiting_for or START_BY)
            else:
                self._room.enter(run)

    def _replaces(self, run: Run) -> bool:
        job = self._jobs.get(run.job)
        return job is not None and job.overlap == "replace" and run.trigger is not RunTrigger.BACKFILL

    async def recover(self) -> list[Run]:
        """Close what a dead owner left running; every unfinished run, not taken up yet, the oldest first.

        Only the owner of the state may ask this. What it runs itself is left alone.
        """
        return await recover(
            self._store,
            self._jobs,
            self._preparation,
            self._clock,
            self._events,
            self._endings,
            owner=self._owner,
            conclude=self._conclude,
        )

    def offer(self, runs: Iterable[Run]) -> None:
        """Take unfinished runs; those that the ledger holds and nobody offers are taken at the next start."""
        for run in runs:
            if run.id not in self._live:
                self._room.enter(run)

    def adopt(
        self,
        jobs: Mapping[str, Job],
        touched: Collection[str],
        renamed: Mapping[str, str],
        *,
        max_runs: int,
        instance_limits: Mapping[str, int],
        pools: Mapping[str, int],
    ) -> None:
        """Go on with other jobs and limits; `touched` are new or changed, `renamed` gives new names by former ones.

        Attempts that run keep the settings they began with; what waits takes the new ones. What waits of a removed
        job is abandoned, what runs of it is finished.
        """
        self._jobs = jobs
        self._admission.limit(max_runs, instance_limits, pools)
        self._preparation.forget([*renamed, *renamed.values()])
        for attempt in self._live.values():
            if attempt.run.job in renamed:
                attempt.run = replace(attempt.run, job=renamed[attempt.run.job])
        for job in {*touched, *renamed}:
            for run in self._room.of_job(job):
                self._admission.withdraw(run.id)  # its pool or its name may be another one
        self._room.adopt(jobs, touched, renamed)
        self._pump_soon()

    def forget_cursor(self, job: str) -> None:
        """The ledger has another cursor for this job now."""
        self._preparation.forget([job])

    def pause(self, pause: Pause) -> None:
        """Start nothing of a job until it is resumed or the pause is over; what of it runs goes on."""
        self._room.set_pauses({**self._room.pauses, pause.job: pause})

    def resume(self, job: str) -> None:
        """Go on with what waits because the job is paused; nothing where it is not."""
        self._room.set_pauses({name: pause for name, pause in self._room.pauses.items() if name != job})

    def replace(self, run_ids: Iterable[str]) -> None:
        """End runs, for a newer one of their job takes their place; it waits until they have ended."""
        text = _REPLACED
        for run_id in run_ids:
            if (attempt := self._live.get(run_id)) is not None:
                self._escalation.end(attempt, "replaced", text)
            elif (run := self._room.leave(run_id)) is not None:
                self._withdraw(run_id)
                error = RunFailure("RunCancelledError", text)
                self._spawn(self._finish(run, Outcome.CANCELLED, "replaced", error))

    async def cancel(self, run_id: str, requested_by: str, reason: str | None = None) -> bool:
        """End a run; False where it has ended already, or never was. Does not wait for a running one's end."""
        text = f"cancelled by {requested_by}" + (f": {reason}" if reason else "")
        if (attempt := self._live.get(run_id)) is not None:
            self._escalation.end(attempt, "cancelled", text)
            return True
        error = RunFailure("RunCancelledError", text)
        finish = Finish(run_id, Outcome.CANCELLED, self._clock.now(), "requested", error)
        ended = await self._store.write(self._endings.finish, finish)
        if ended is None:
            return False
        self._withdraw(run_id)
        self._room.leave(run_id)
        self._conclude(ended)
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
            is_over = run.state is State.FINISHED and run_id not in self._live  # else it is being concluded
            return run if is_over else await waiter
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
        self._close()
        for grace, end in ((timeout.total_seconds(), LiveAttempt.ask), (self._grace, self._escalation.end)):
            if await self._is_idle_within(grace):
                return
            for attempt in list(self._live.values()):
                end(attempt, "stopping", _SHUT_DOWN)
        await self._is_idle_within(2 * self._grace)

    async def stop(self, patience: float | None = None) -> None:
        """End everything now; children are killed. Stopping twice is fine.

        After `patience` seconds, by default the grace, what has not ended is left behind.
        """
        patience = self._grace if patience is None else patience
        self._close()
        for attempt in list(self._live.values()):
            self._escalation.end(attempt, "stopping", _SHUT_DOWN)
            self._escalation.kill(attempt)
        await self._is_idle_within(patience)
        for attempt in list(self._live.values()):
            self._escalation.abandon(attempt)
        await self._is_idle_within(patience)
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
        job = self._jobs.get(run.job)
        if job is None:  # nobody can say how to run it
            self._withdraw(run.id)
            self._spawn(self._finish(run, Outcome.ABANDONED, UNCONFIGURED))
            return
        self._admission.put(run, job.pool)
        self._fresh.append(run)
        self._pump_soon()

    def _withdraw(self, run_id: str) -> None:
        if self._admission.withdraw(run_id):
            self._pump_soon()  # others may have stood behind it

    def _pump_soon(self) -> None:
        """Start what can start at the end of this turn of the loop: what came together starts in one transaction."""
        if not self._pumping and self._accepting:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        for run in self._admission.take():
            if self._room.may_start(run):
                self._begin(run)
            else:
                self._admission.release(run.id)
        fresh, self._fresh = self._fresh, []
        for run in fresh:
            if reason := self._admission.lacks(run):
                self._room.wait(run, reason, self._explanation(run) if reason == LICENCE else "")
        if (seconds := self._admission.awaits_slot()) is not None:
            self._alarm.set(LICENCE, seconds, self._pump_soon)

    def _explanation(self, run: Run) -> str:
        return self._books[run.instance or ""].explanation(run.identity or "")

    def _begin(self, run: Run) -> None:
        self._room.leave(run.id)
        reporter = RunReporter(run.id, self._run_logs, self._redactor, self._clock)
        attempt = LiveAttempt(run, self._jobs[run.job], reporter)
        self._live[run.id] = attempt
        self._idle.clear()
        self._spawn(self._see_through(attempt))

    def _miss(self, run: Run, reason: str) -> None:
        """A run has not made its first start in time."""
        if self._accepting:
            self._withdraw(run.id)
            self._room.leave(run.id)
            self._spawn(self._finish(run, Outcome.MISSED, reason))

    async def _finish(self, run: Run, outcome: Outcome, reason: str, error: RunFailure | None = None) -> None:
        """End a run that waits, however long that takes to write."""
        finish = Finish(run.id, outcome, self._clock.now(), reason, error)
        try:
            ended = await self._writer.write(self._endings.finish, finish, run)
            await self._over(run, ended)
        except Exception as fault:  # noqa: BLE001 - the others go on; the next start finds this run again
            self._events.lost(run, fault)
            self._room.ended(run)

    async def _over(self, run: Run, ended: Ended | None) -> None:
        """A run has ended, here or, where there is nothing to tell, by somebody else's hand."""
        if ended is not None:
            self._conclude(ended)
            return
        self._room.ended(run)
        try:
            found = await self._store.read(find_run, run.id)
        except StoreError as error:
            self._resolve(run.id, partial(_fail, error=error))
            return
        if found is not None and found.state is State.FINISHED:
            self._resolve(run.id, lambda waiter: waiter.set_result(found))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _close(self) -> None:
        self._accepting = False
        self._room.close()
        self._admission.clear()

    # -- one attempt, from begin to end ----------------------------------------------------------------

    async def _see_through(self, attempt: LiveAttempt) -> None:
        ended: Ended | None = None
        try:
            if await self._attempts.begin(attempt):
                self._turn_back_late(attempt)
                end = await self._attempts.perform(attempt, self._licence_waits[attempt.run.id])
                ended = await self._writer.write(self._endings.end, end, attempt.run)
                if taken_up(ended.run) and settles(ended.run):
                    await asyncio.to_thread(DeadLetters(self._data / "dead").remove, taken_up(ended.run))
                if end.store_cursor:
                    self._preparation.cursor_moved(attempt.run.job, end.cursor_after)
        except NotBegunError:
            self._spawn(self._offer_later(attempt.run))
            return
        except Exception as error:  # noqa: BLE001 - one run's end must not be the end of the others
            self._events.lost(attempt.run, error)
            self._resolve(attempt.run.id, partial(_fail, error=error))
        finally:
            self._release(attempt)
        if ended is not None and ended.run.state is not State.FINISHED:
            self._go_on(ended.run)
        else:
            await self._over(attempt.run, ended)

    def _turn_back_late(self, attempt: LiveAttempt) -> None:
        """The window may have closed while the beginning was written: no start is outside it, also not a late one."""
        if opens_at(attempt.job, self._clock.now()) is not None:
            attempt.ask("window", "the job's window closed before the plugin was entered")
            attempt.force()

    async def _offer_later(self, run: Run) -> None:
        """Let a run begin again from where it waits, when the state has had time to recover."""
        await self._clock.sleep(PAUSE)
        self.offer([run])

    def _go_on(self, run: Run) -> None:
        """After an attempt that was not the last."""
        if run.error is not None:
            self._events.failed(run)
        if run.state is State.WAITING:
            self._events.waiting(run)
        if run.waiting_for == LICENCE:
            self._licence_waits[run.id] += 1
        self._room.enter(run)

    def _release(self, attempt: LiveAttempt) -> None:
        run_id = attempt.run.id
        self._escalation.over(attempt)
        del self._live[run_id]
        self._admission.release(run_id)
        self._run_logs.close(run_id)
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

    def _conclude(self, ended: Ended) -> None:
        """The end of a run, for the log, for those who wait for it, and for the runs that come after it."""
        run = ended.run
        self._licence_waits.pop(run.id, None)
        self._events.finished(run)
        self._resolve(run.id, lambda waiter: waiter.set_result(run))
        self._room.ended(run)
        self._take_over(ended.handed)

    def _take_over(self, handed: Sequence[Run]) -> None:
        for run in handed:
            if run.state is State.FINISHED:
                self._events.finished(run)
                continue
            self._events.claimed(run)
            job = self._jobs.get(run.job)
            if job is not None and job.overlap == "replace":
                live = [attempt.run for attempt in self._live.values() if attempt.run.job == run.job]
                others = [*live, *self._room.of_job(run.job)]
                self.replace([each.id for each in others if each.trigger is not RunTrigger.BACKFILL])
            self.offer([run])

    def _resolve(self, run_id: str, resolve: Callable[["asyncio.Future[Run]"], None]) -> None:
        for waiter in self._waiters.get(run_id, ()):
            if not waiter.done():
                resolve(waiter)


def _fail(waiter: "asyncio.Future[Run]", error: Exception) -> None:
    waiter.set_exception(error)
