"""The engine: gathers hints that jobs are due, claims them in one transaction, hands the claimed runs over."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from erpsync.core.background import guarded
from erpsync.core.clock import Clock
from erpsync.core.errors import ErpsyncError
from erpsync.core.event import Emit
from erpsync.core.job import Job, Manual, new_run
from erpsync.core.run import Run, RunTrigger, State, new_run_id, utc_text
from erpsync.scheduling.alarm import AlarmClock
from erpsync.scheduling.claim import (
    Claimed,
    Look,
    Request,
    claim_backfills,
    claim_due,
    claim_requested,
    claimed_ahead,
    last_parked,
)
from erpsync.scheduling.clock_watch import ClockWatch
from erpsync.scheduling.due_times import DueTimes
from erpsync.scheduling.explain import next_start
from erpsync.scheduling.handover import Succession, forget_parents, successions
from erpsync.scheduling.planner import CORRECTION, IDENTITY, PARKED
from erpsync.scheduling.timetable import Timetable, timetable
from erpsync.scheduling.trigger import MOMENT, next_after
from erpsync.store.history import last_runs
from erpsync.store.marks import Mark, read_marks
from erpsync.store.pauses import Pause, read_pauses, write_pauses
from erpsync.store.rename import Rename, Renamed, rename_job
from erpsync.store.state import Store

SWEEP = timedelta(seconds=10)
"""So often the engine looks for due jobs of which no hint came, and for steps of the clock."""
LEFT_BEHIND = "give the job a name that is new to the state, or take the former name out of `formerly`"
"""What to do where the state knows a job already that would take its former name over."""
_BACKOFF_FIRST, _BACKOFF_LAST = 0.25, 10.0  # seconds between tries while the store refuses


@dataclass(frozen=True, slots=True)
class Adoption:
    """Other jobs for an engine, with all that can fail done; `touched` are new or changed."""

    jobs: Mapping[str, Job]
    parked: Collection[str]
    tables: Mapping[str, Timetable]
    rules: Mapping[str, Sequence[Succession]]
    touched: frozenset[str]


class Engine:
    """Writes pending runs for whatever is due and calls `on_claimed` with them, in the event loop.

    The runs of one call are in the order in which they should start: by priority, then by fire time. They are
    durable before the call. Where the store refuses nothing starts; the engine tells and tries again. Runs that
    end as skipped or missed are told as `run.finished`. `on_replace` is called with the ids of runs that are to be
    cancelled (reason "replaced") before those that take their place are handed over. `left_behind` maps former names
    of which the state holds something to the jobs that cannot take it over.
    """

    def __init__(
        self,
        jobs: Mapping[str, Job],
        store: Store,
        clock: Clock,
        emit: Emit,
        on_claimed: Callable[[Sequence[Run]], None],
        on_replace: Callable[[Sequence[str]], None] = lambda run_ids: None,
        has_nobody: Callable[[Job], bool] = lambda job: False,
        parked: Collection[str] = (),
    ) -> None:
        """`has_nobody` says that a person has to sign in before the job can run, `parked` names jobs that cannot run
        before somebody changes something: then their fire times are skipped.

        Raises ValueError where a job's schedule is not valid."""
        self._jobs = jobs
        self._tables: Mapping[str, Timetable] = {name: timetable(job) for name, job in jobs.items()}
        self._store = store
        self._clock = clock
        self._emit = emit
        self._on_claimed = on_claimed
        self._on_replace = on_replace
        self._has_nobody = has_nobody
        self._parked = parked
        self._were_parked: set[str] = set()  # when they were looked at last
        self.left_behind: dict[str, str] = {}
        self._rules: Mapping[str, Sequence[Succession]] = successions(jobs.values(), parked)
        self._pauses: dict[str, Pause] = {}
        self._ahead: dict[str, datetime] = {}  # the ledger has fire times of these jobs beyond their marks
        self._looking = asyncio.Lock()
        self._marks: dict[str, Mark] = {}
        self._due = DueTimes()  # when each job's next start is due, by its durable mark
        self._alarms = AlarmClock(self._hint)
        self._hints: set[str] = set()
        self._wake = asyncio.Event()
        self._backoff = 0.0
        self._retry: asyncio.TimerHandle | None = None
        self._jumped = False
        self._watch = ClockWatch(clock)
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Claim what is due since the last time, then keep doing so; returns when the first look is done.

        Raises:
            StoreError: the store cannot be used; nothing was started.
        """
        await self._store.write(forget_parents, self._rules)
        await self._learn_again()
        await self._retire_removed()
        claimed = await self._look(self._tables)
        if claimed.corrected:
            ahead = max(mark.until for mark in claimed.corrected) - self._clock.now()
            self._tell_step(-ahead)
        self._alarms.set((table, self._due.by_job.get(name)) for name, table in self._tables.items())
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
        if self._tasks:
            claiming, sweeping = self._tasks
            sweeping.cancel()
            await asyncio.wait([claiming, sweeping])
            self._tasks = []

    @property
    def rules(self) -> Mapping[str, Sequence[Succession]]:
        """Who comes after whom, for `hand_over`."""
        return self._rules

    def following_fire(self, job: str, instant: datetime) -> datetime | None:
        """The first nominal fire time of a job later than `instant`; None also for a job that is not known."""
        table = self._tables.get(job)
        return next_after(table.trigger, instant) if table else None

    def next_fire(self, job: str) -> datetime | None:
        """The next fire time of a job that is not claimed yet, without its spread; None where there is none."""
        table, pause = self._tables[job], self.paused(job)
        if pause is not None:
            return next_after(table.trigger, pause.until - table.delay - MOMENT) if pause.until else None
        if (due := self._due.by_job.get(job)) is not None:
            return due - table.delay
        return None if self._tasks else next_after(table.trigger, self._clock.now())

    def next_start(self, job: str) -> datetime | None:
        """When the next fire time can start: moved by spread, blackout and window; None where there is none."""
        fire = self.next_fire(job)
        return next_start(self._tables[job], fire) if fire is not None else None

    def starting_within(self, ahead: timedelta) -> list[tuple[str, datetime]]:
        """The jobs that can start between now and `ahead` of it, not claimed yet, and when."""
        now = self._clock.now()
        late, due = set(self._due.until(now)), self._due.until(now + ahead)
        due = [job for job in due if job not in late and job not in self._parked]
        starts = ((job, self.next_start(job)) for job in due)
        return [(job, start) for job, start in starts if start is not None and start <= now + ahead]

    def paused(self, job: str) -> Pause | None:
        """The pause of a job that is in force now."""
        pause = self._pauses.get(job)
        return pause if pause is not None and pause.holds(self._clock.now()) else None

    async def pause(
        self,
        job: str,
        *,
        until: datetime | None = None,
        reason: str | None = None,
        requested_by: str | None = None,
    ) -> Pause:
        """Plan nothing of a job any more, until it is resumed or `until` has come; durable when it returns.

        Raises:
            StoreError: the job is not paused, or as it was.
        """
        now, before = self._clock.now(), self._pauses.get(job)
        pause = Pause(job, before.since if before else now, until, reason, requested_by)
        async with self._looking:  # a claim under way is before the pause
            await self._store.write(write_pauses, pause)
            self._pauses[job] = pause
        self._set_due(job)
        self._alarms.set([(self._tables[job], self._due.by_job.get(job))])
        self._emit("job.paused", job=job, until=until, reason=reason, requested_by=requested_by)
        return pause

    async def resume(self, job: str, *, requested_by: str | None = None) -> bool:
        """End a job's pause: what passed meanwhile follows its catch_up. False where it was not paused.

        Raises:
            StoreError: it is still paused.
        """
        pause = self._pauses.get(job)
        if pause is None:
            return False
        self._pauses[job] = replace(pause, until=min(pause.until or self._clock.now(), self._clock.now()))
        try:
            await self._look([job])
        except BaseException:
            self._pauses[job] = pause
            raise
        self._alarms.set([(self._tables[job], self._due.by_job.get(job))])
        self._emit("job.resumed", job=job, requested_by=requested_by)
        return True

    async def claim_manual(
        self,
        job: str,
        requested_by: str,
        params: Mapping[str, object],
        retry_of: str | None = None,
        wish: str | None = None,
    ) -> Run:
        """A run because somebody asks: pending, or skipped (paused, overlap). Works without `start` too.

        `retry_of` is the run that it does again. The same `wish` asked again gives the run that it has, as it is.

        Raises:
            StoreError: nothing was claimed.
        """
        definition, now = self._jobs[job], self._clock.now()
        run_id = new_run_id(now)
        asked = new_run(
            definition,
            f"manual:{wish or run_id}",
            RunTrigger.RETRY if retry_of else RunTrigger.MANUAL,
            now,
            id=run_id,
            requested_by=requested_by,
            retry_of=retry_of,
            params=dict(params),
        )
        self._store.require_place()
        granted = await self._store.write(claim_requested, Request(asked, definition))
        run = granted.run
        if not granted.is_new:
            return run
        self._replace(granted.replaced)
        if run.state is State.PENDING:
            self._hand_over([run])
        else:
            self._tell_ended(run)
        return run

    async def claim_backfill(
        self, job: str, requested_by: str, name: str, windows: Sequence[tuple[datetime, datetime]]
    ) -> list[Run]:
        """Runs for parts of the past, all claimed in one transaction; those that a backfill of this name has already
        are returned as they are.

        Raises:
            StoreError: nothing was claimed.
        """
        definition, now = self._jobs[job], self._clock.now()
        slices = [
            new_run(
                definition,
                f"backfill:{name}:{utc_text(begins)}",
                RunTrigger.BACKFILL,
                now,
                requested_by=requested_by,
                params={"window": [utc_text(begins), utc_text(ends)]},
            )
            for begins, ends in windows
        ]
        self._store.require_place()
        claimed = await self._store.write(claim_backfills, slices)
        self._hand_over([run for run, new in claimed if new])
        return [run for run, _ in claimed]

    # -- hints ---------------------------------------------------------------------------------------

    def _hint(self, job: str) -> None:
        due = self._due.by_job.get(job)
        if due is not None and due <= self._clock.now():
            self._gather([job])

    def _gather(self, jobs: Iterable[str]) -> None:
        self._hints.update(jobs)
        if self._hints and self._retry is None:
            self._wake.set()

    async def _sweep_loop(self) -> None:
        while True:
            await self._clock.sleep(SWEEP.total_seconds())
            with guarded("the sweep"):
                self._sweep()

    def _sweep(self) -> None:
        """Find what no hint came for, and notice a clock that was set and a machine that slept."""
        passed, now = self._watch.look(), self._clock.now()
        if passed.slept:
            self._tell_jump("suspend", passed.slept)
        if passed.step:
            self._tell_step(passed.step)
            self._jumped = True
            self._gather(self._tables)
        self._gather(self._due.until(now))
        self._alarms.check()

    def _tell_step(self, step: timedelta) -> None:
        now = self._clock.now()
        ahead = [mark.until - now for name, mark in self._marks.items() if name in self._tables]
        correction = step < timedelta(0) and max([-step, *ahead]) > CORRECTION  # several steps may make one
        self._tell_jump("correction" if correction else "back" if step < timedelta(0) else "forward", step)

    def _tell_jump(self, kind: str, by: timedelta) -> None:
        self._emit("clock.jumped", level="warning", kind=kind, seconds=round(by.total_seconds(), 3))

    # -- claims --------------------------------------------------------------------------------------

    async def _claim_loop(self) -> None:
        """One transaction after the other; the hints that come meanwhile wait for the next."""
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            if self._stopping or not self._hints:
                continue
            hints, self._hints = self._hints, set()
            try:
                await self._look(sorted(hints))  # so that the same story is told the same way again
            except Exception as error:  # noqa: BLE001 - the loop outlives whatever went wrong; hints are kept
                self._gather_later(hints, error)
                continue
            if self._backoff:
                self._backoff = 0.0
                self._emit("claim.recovered", jobs=len(hints))
            if self._jumped and len(hints) == len(self._tables):
                self._jumped = False
                self._alarms.set((table, self._due.by_job.get(name)) for name, table in self._tables.items())

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

    async def _look(self, jobs: Iterable[str], removed: Iterable[Timetable] = ()) -> Claimed:
        """Plan these jobs now, durably, and hand over what is to start; those that are paused wait.

        What they are is looked up under the lock, for they may have been changed while this look waited for it.
        """
        async with self._looking:
            now = self._clock.now()
            tables = [table for job in jobs if (table := self._tables.get(job))]
            mine = tuple(table for table in (*tables, *removed) if not self._is_held(table, now))
            names = frozenset(table.job.name for table in mine)
            look = Look(
                mine,
                {job: mark for job in names if (mark := self._marks.get(job))},
                now,
                {job: pause for job, pause in self._pauses.items() if job in names and not pause.holds(now)},
                names.intersection(self._ahead),
                {table.job.name: why for table in mine if (why := self._unable(table.job))},
                names.intersection(self._were_parked).difference(self._parked),
                self._rules,
            )
            self._store.require_place()
            claimed = await self._store.write(claim_due, look)
            self._learn(look, claimed)
            for table in tables:  # paused ones too: their pauses end
                self._set_due(table.job.name)
        for run in claimed.ended:
            self._tell_ended(run)
        for growth in claimed.grown:
            self._emit("run.extended", level="debug", run_id=growth.run_id, fire_count=growth.fire_count)
        self._replace(claimed.replaced)
        self._hand_over(sorted(claimed.pending, key=_start_order))
        return claimed

    def _unable(self, job: Job) -> str | None:
        """Why a job cannot run as things are."""
        return PARKED if job.name in self._parked else IDENTITY if self._has_nobody(job) else None

    def _is_held(self, table: Timetable, now: datetime) -> bool:
        """Whether a pause keeps a job from being planned; not where its mark must be set anew all the same."""
        pause, mark = self._pauses.get(table.job.name), self._marks.get(table.job.name)
        if pause is None or mark is None or not pause.holds(now):
            return False
        return mark.schedule == table.schedule and mark.until - now <= CORRECTION

    def _learn(self, look: Look, claimed: Claimed) -> None:
        """What a look made durable."""
        for mark in claimed.corrected:
            self._ahead[mark.job] = max(mark.until, self._ahead.get(mark.job, mark.until))
        for mark in claimed.marks:
            self._marks[mark.job] = mark
            if mark.until >= self._ahead.get(mark.job, mark.until):
                self._ahead.pop(mark.job, None)
        for job in look.resumed:
            del self._pauses[job]
        self._were_parked -= look.unparked
        self._were_parked |= {job for job, why in look.unable.items() if why == PARKED}

    async def adopt_former(self) -> None:
        """Let renamed jobs take over what the state knows of their former names: before anything is taken up."""
        await self._rename(self._jobs)

    def prepare(self, jobs: Mapping[str, Job], parked: Collection[str] = ()) -> Adoption:
        """Make ready to go on with other jobs; may be called in a thread, and changes nothing.

        A job that is the very object that the engine has is unchanged.

        Raises:
            ValueError: a schedule is not valid.
        """
        same = {name for name, job in jobs.items() if self._jobs.get(name) is job}
        tables = {name: self._tables[name] if name in same else timetable(job) for name, job in jobs.items()}
        rules = successions(jobs.values(), parked)
        return Adoption(jobs, parked, tables, rules, frozenset(jobs.keys() - same))

    async def adopt(self, adoption: Adoption, on_swap: Callable[[Mapping[str, str]], None]) -> None:
        """Go on with other jobs. Unchanged ones keep their timers; of removed ones and of those with another
        schedule the open span is one missed range; new ones begin now.

        `on_swap` is called with the new names of renamed jobs by their former ones, while nothing is being claimed.

        Raises:
            StoreError: the jobs are taken over, and what could not be written is tried again.
        """
        async with self._looking:  # a claim under way is one of the old jobs
            gone = [table for name, table in self._tables.items() if name not in adoption.tables]
            renamed = await self._rename(adoption.jobs)
            unparked = {job for job in self._parked if job in adoption.jobs} - {*adoption.parked}
            self._jobs, self._parked = adoption.jobs, adoption.parked
            self._tables, self._rules = adoption.tables, adoption.rules
            on_swap(renamed)
            for table in gone:
                self._due.set(table.job.name, None)
            if renamed:
                await self._learn_again()
            self._alarms.set((table, None) for table in gone)
        touched = adoption.touched | set(renamed.values()) | unparked
        try:
            await self._store.write(forget_parents, self._rules)
            await self._retire_removed()
            await self._look(sorted(touched))
        except BaseException:
            self._gather(touched)
            raise
        self._alarms.set((self._tables[name], self._due.by_job.get(name)) for name in touched)

    async def _rename(self, jobs: Mapping[str, Job]) -> dict[str, str]:
        """Carry the state of former names over to these jobs; the new name of each, by its former one."""
        former_names = {former: name for name, job in jobs.items() for former in job.formerly}
        follow = {name: self._rules[former] for former, name in former_names.items() if former in self._rules}
        self._rules = {**self._rules, **follow}  # a parent that ends meanwhile has either name
        renamed: dict[str, str] = {}
        self.left_behind = {}
        for former, name in former_names.items():
            became = await self._store.write(rename_job, Rename(former, name))
            if became is Renamed.DONE:
                renamed[former] = name
                self._emit("job.renamed", job=name, former=former)
            elif became is Renamed.REFUSED:
                self.left_behind[former] = name
                self._emit("rename.refused", level="warning", job=name, former=former, hint=LEFT_BEHIND)
        return renamed

    async def _learn_again(self) -> None:
        """What the state holds of each job."""
        self._marks = await self._store.read(read_marks)
        self._pauses = await self._store.read(read_pauses)
        self._ahead = await self._store.read(claimed_ahead)
        self._were_parked = await self._store.read(last_parked)

    async def _retire_removed(self) -> None:
        """A job that is no longer configured has no schedule: what it left open is missed, and should it come
        back, it begins anew."""
        names = [name for name, mark in self._marks.items() if name not in self._tables and mark.schedule]
        if not names:
            return
        last = await self._store.read(last_runs, names)
        await self._look((), [timetable(_removed(name, last.get(name))) for name in names])

    def _set_due(self, job: str) -> None:
        """The instant at which to look at a job again."""
        table, mark, pause = self._tables[job], self._marks.get(job), self._pauses.get(job)
        fire = next_after(table.trigger, mark.until) if mark else None
        due = fire + table.delay if fire else None
        if pause is not None:
            due = pause.until
        self._due.set(job, due)

    def _replace(self, run_ids: Sequence[str]) -> None:
        if run_ids:
            self._on_replace(run_ids)

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


def _removed(name: str, last: Run | None) -> Job:
    """The little that is known of a job that is not configured."""
    plugin, instance = (last.plugin, last.instance) if last else ("", None)
    identity = last.identity if last else None
    return Job(name, name.partition("@")[0], plugin, identity, instance, schedules=(Manual(),))


def _start_order(run: Run) -> tuple[int, datetime]:
    assert run.fire_at is not None
    return -run.priority, run.fire_at
