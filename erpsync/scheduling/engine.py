"""The engine: gathers hints that jobs are due, claims them in one transaction, hands the claimed runs over."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from erpsync.core.clock import Clock
from erpsync.core.errors import ErpsyncError
from erpsync.core.event import Emit
from erpsync.core.job import Job
from erpsync.core.run import Run, RunTrigger, State, new_run_id
from erpsync.scheduling.alarm import AlarmClock
from erpsync.scheduling.claim import Claimed, Look, Request, claim_due, claim_requested
from erpsync.scheduling.timetable import timetable
from erpsync.scheduling.trigger import next_after
from erpsync.store.marks import Mark, read_marks, write_marks
from erpsync.store.state import Store

SWEEP = timedelta(seconds=10)
"""So often the engine looks for due jobs of which no hint came, and for steps of the clock."""
JUMP = timedelta(seconds=1)
"""The wall clock differs from the boot-time clock by more than this since the last look: it jumped."""
PACE = 0.002
"""Seconds from one claim's beginning to the next's at least: many a second share their transactions."""
_BACKOFF_FIRST, _BACKOFF_LAST = 0.25, 10.0  # seconds between tries while the store refuses


class Engine:
    """Writes pending runs for whatever is due and calls `on_claimed` with them, in the event loop.

    The runs of one call are in the order in which they should start: by priority, then by fire time. They are
    durable before the call. Where the store refuses nothing starts; the engine tells and tries again. Runs that
    end as skipped or missed are told as `run.finished`.
    """

    def __init__(
        self,
        jobs: Mapping[str, Job],
        store: Store,
        clock: Clock,
        emit: Emit,
        on_claimed: Callable[[Sequence[Run]], None],
    ) -> None:
        """Raises ValueError where a job's schedule is not valid."""
        self._jobs = jobs
        self._tables = {name: timetable(job) for name, job in jobs.items()}
        self._store = store
        self._clock = clock
        self._emit = emit
        self._on_claimed = on_claimed
        self._marks: dict[str, Mark] = {}
        self._due: dict[str, datetime] = {}  # when each job's next start is due, by its durable mark
        self._alarms = AlarmClock(self._hint)
        self._hints: set[str] = set()
        self._wake = asyncio.Event()
        self._backoff = 0.0
        self._retry: asyncio.TimerHandle | None = None
        self._jumped = False
        self._wall, self._boot = clock.now(), clock.boot()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Claim what is due since the last time, then keep doing so; returns when the first look is done.

        Raises:
            StoreError: the store cannot be used; nothing was started.
        """
        self._marks = await self._store.read(read_marks)
        await self._forget_removed()
        claimed = await self._look(self._tables)
        if claimed.corrected:
            ahead = max(mark.until for mark in claimed.corrected) - self._clock.now()
            self._tell_jump(-ahead)
        self._alarms.set((table, self._due.get(name)) for name, table in self._tables.items())
        self._alarms.start()
        self._tasks = [
            asyncio.create_task(self._claim_loop(), name="claim"),
            asyncio.create_task(self._sweep_loop(), name="sweep"),
        ]
        await asyncio.sleep(0)  # both loops wait for their first event now

    async def stop(self) -> None:
        """Claim no more; what is being claimed is handed over first. Stopping twice is fine."""
        self._stopping = True
        self._alarms.stop()
        if self._retry is not None:
            self._retry.cancel()
        self._wake.set()
        tasks, self._tasks = self._tasks, []
        if tasks:
            claiming, sweeping = tasks
            sweeping.cancel()
            await asyncio.wait([claiming, sweeping])

    def next_fire(self, job: str) -> datetime | None:
        """The next fire time of a job that is not claimed yet, without its spread; None where there is none."""
        table = self._tables[job]
        if job in self._due:
            return self._due[job] - table.delay
        return None if self._tasks else next_after(table.trigger, self._clock.now())

    async def claim_manual(self, job: str, requested_by: str, params: Mapping[str, object]) -> Run:
        """A run because somebody asks: pending, or skipped with reason overlap. Works without `start` too.

        Raises:
            StoreError: nothing was claimed.
        """
        definition, now = self._jobs[job], self._clock.now()
        run_id = new_run_id(now)
        asked = Run(
            id=run_id,
            job=job,
            claim=f"manual:{run_id}",
            plugin=definition.plugin,
            trigger=RunTrigger.MANUAL,
            created_at=now,
            instance=definition.instance,
            identity=definition.identity,
            requested_by=requested_by,
            params=dict(params),
            priority=definition.priority,
        )
        run = await self._store.write(claim_requested, Request(asked, definition))
        if run.state is State.PENDING:
            self._hand_over([run])
        else:
            self._tell_ended(run)
        return run

    # -- hints ---------------------------------------------------------------------------------------

    def _hint(self, job: str) -> None:
        due = self._due.get(job)
        if due is not None and due <= self._clock.now():
            self._gather([job])

    def _gather(self, jobs: Iterable[str]) -> None:
        self._hints.update(jobs)
        if self._hints and self._retry is None:
            self._wake.set()

    async def _sweep_loop(self) -> None:
        while True:
            await self._clock.sleep(SWEEP.total_seconds())
            self._sweep()

    def _sweep(self) -> None:
        """Find what no hint came for, and notice a clock that was set."""
        now, boot = self._clock.now(), self._clock.boot()
        step = (now - self._wall) - timedelta(seconds=boot - self._boot)
        self._wall, self._boot = now, boot
        if abs(step) > JUMP:
            self._tell_jump(step)
            self._jumped = True
            self._gather(self._tables)
        self._gather([job for job, due in self._due.items() if due <= now])
        self._alarms.check()

    def _tell_jump(self, step: timedelta) -> None:
        self._emit("clock.jumped", level="warning", seconds=round(step.total_seconds(), 3))

    # -- claims --------------------------------------------------------------------------------------

    async def _claim_loop(self) -> None:
        """One transaction after the other; the hints that come meanwhile wait for the next."""
        loop, next_at = asyncio.get_running_loop(), 0.0
        while not self._stopping:
            await self._wake.wait()
            if (early := next_at - loop.time()) > 0:
                await asyncio.sleep(early)
            next_at = loop.time() + PACE
            self._wake.clear()
            if self._stopping or not self._hints:
                continue
            hints, self._hints = self._hints, set()
            try:
                await self._look(hints)
            except Exception as error:  # noqa: BLE001 - the loop outlives whatever went wrong; hints are kept
                self._gather_later(hints, error)
                continue
            if self._backoff:
                self._backoff = 0.0
                self._emit("claim.recovered", jobs=len(hints))
            if self._jumped and len(hints) == len(self._tables):
                self._jumped = False
                self._alarms.set((table, self._due.get(name)) for name, table in self._tables.items())

    def _gather_later(self, hints: set[str], error: Exception) -> None:
        """Keep the hints until the store has had time to recover."""
        first = not self._backoff
        self._backoff = min(self._backoff * 2, _BACKOFF_LAST) or _BACKOFF_FIRST
        self._hints |= hints
        self._emit(
            "claim.failed",
            level="error" if first else "debug",
            jobs=len(self._hints),
            error_type=type(error).__name__,
            error_message=str(error),
            hint=error.hint if isinstance(error, ErpsyncError) else "",
            retry_seconds=self._backoff,
        )
        self._retry = asyncio.get_running_loop().call_later(self._backoff, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._wake.set()

    async def _look(self, jobs: Iterable[str]) -> Claimed:
        """Plan these jobs now, durably, and hand over what is to start."""
        tables = tuple(self._tables[job] for job in jobs)
        marks = {table.job.name: mark for table in tables if (mark := self._marks.get(table.job.name))}
        claimed = await self._store.write(claim_due, Look(tables, marks, self._clock.now()))
        for mark in claimed.marks:
            self._marks[mark.job] = mark
        for table in tables:
            self._set_due(table.job.name)
        for run in claimed.ended:
            self._tell_ended(run)
        for growth in claimed.grown:
            self._emit("run.extended", level="debug", run_id=growth.run_id, fire_count=growth.fire_count)
        self._hand_over(sorted(claimed.pending, key=_start_order))
        return claimed

    async def _forget_removed(self) -> None:
        """A job that is no longer configured has no schedule: should it come back, it begins anew."""
        removed = [mark for name, mark in self._marks.items() if name not in self._tables and mark.schedule]
        retired = [Mark(mark.job, "", mark.until) for mark in removed]
        await asyncio.gather(*(self._store.write(write_marks, mark) for mark in retired))

    def _set_due(self, job: str) -> None:
        table, mark = self._tables[job], self._marks.get(job)
        fire = next_after(table.trigger, mark.until) if mark else None
        if fire is None:
            self._due.pop(job, None)
        else:
            self._due[job] = fire + table.delay

    def _hand_over(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self._emit(
                "run.claimed",
                level="debug",
                run_id=run.id,
                job=run.job,
                trigger=run.trigger.value,
                fire_at=run.fire_at,
            )
        if runs:
            self._on_claimed(runs)

    def _tell_ended(self, run: Run) -> None:
        assert run.outcome is not None
        self._emit(
            "run.finished",
            level="warning",
            run_id=run.id,
            job=run.job,
            instance=run.instance,
            identity=run.identity,
            trigger=run.trigger.value,
            outcome=run.outcome.value,
            reason=run.reason,
            fire_at=run.fire_at,
            fire_until=run.fire_until,
            fire_count=run.fire_count,
        )


def _start_order(run: Run) -> tuple[int, datetime]:
    assert run.fire_at is not None
    return -run.priority, run.fire_at
