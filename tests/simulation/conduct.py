"""The conduct of runs: what may start, beside whom, in which order, and what has to start or to end."""

import itertools
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from erpsync.core.calendar import spread_delay
from erpsync.core.job import After, Job, RetryPolicy
from tests.simulation import oracle
from tests.simulation.ledger import Entry
from tests.simulation.oracle import EPOCH
from tests.simulation.virtual_time import POLL, VirtualClock

SLOW = 1.0
"""Seconds in which what is durable becomes known to everybody."""
PUNCTUAL = timedelta(seconds=2 * POLL)
_MOVES = {
    "pending": {"waiting", "running", "finished"},
    "waiting": {"pending", "running", "finished"},
    "running": {"pending", "waiting", "finished"},
    "finished": set[str](),
}
_GIVEN_UP = ("missed", "abandoned", "failed", "timed_out", "cancelled")


@dataclass(frozen=True)
class Limits:
    """How many may run at once: in all, of an instance, of a pool."""

    all: int
    instances: Mapping[str, int]
    pools: Mapping[str, int]

    def have_room(self, running: list[Job], job: Job) -> bool:
        """Whether a run of `job` may start beside these."""
        return (
            len(running) < self.all
            and _has_room(self.instances, job.instance, [each.instance for each in running])
            and _has_room(self.pools, job.pool, [each.pool for each in running])
        )


def _has_room(limits: Mapping[str, int], name: str | None, held: list[str | None]) -> bool:
    return name is None or name not in limits or held.count(name) < limits[name]


@dataclass
class Conduct:
    """Raises AssertionError where a run does what it must not, or does not what it must."""

    clock: VirtualClock
    limits: Limits
    jobs: Mapping[str, Job] = field(default_factory=dict)  # as configured now
    reloading: bool = False  # part of the daemon has other jobs already
    live: dict[str, Entry] = field(default_factory=dict)
    finished: dict[str, Entry] = field(default_factory=dict)
    working: dict[str, Job] = field(default_factory=dict)  # runs whose plugin has been entered
    pauses: dict[str, datetime | None] = field(default_factory=dict)
    _paused_at: dict[str, float] = field(default_factory=dict)  # boot time
    _replaced_at: dict[str, float] = field(
        default_factory=dict
    )  # runs in whose place a newer one is, boot time
    _ready_at: dict[str, float] = field(default_factory=dict)  # the end of a back-off, boot time
    _drawn: dict[str, float] = field(default_factory=dict)  # how long back-offs are, whatever the clock says
    _closings: dict[str, datetime] = field(default_factory=dict)  # when the windows of attempts close

    # -- what the ledger says ---------------------------------------------------------------------------------

    def restarted(self, jobs: Mapping[str, Job], live: list[Entry]) -> None:
        """A new daemon has this configuration and finds these runs."""
        self.jobs = jobs
        self.working.clear()
        self.live = {entry.id: entry for entry in live}
        self._ready_at.clear()
        for entry in live:
            self._note(entry)
            job = jobs.get(entry.job)
            if job is None or job.overlap != "replace":
                self._replaced_at.pop(entry.id, None)

    def reloaded(self, jobs: Mapping[str, Job]) -> None:
        """The daemon has another configuration; what runs goes on as it began."""
        self.jobs = jobs
        for entry in self.live.values():
            self._note(entry)

    def stepped(self) -> None:
        """Somebody has set the wall clock."""
        for entry in self.live.values():
            self._note(entry)

    def paused(self, pauses: dict[str, datetime | None]) -> None:
        """These jobs are paused, until then or for ever."""
        boot = self.clock.boot()
        self._paused_at = {
            job: self._paused_at.get(job, boot) if job in self.pauses and self.holds(job) else boot
            for job in pauses
        }
        self.pauses = pauses

    def changed(self, entries: list[Entry]) -> None:
        """One commit has written these rows."""
        before = Counter(entry.job for entry in self.live.values() if _is_in_the_way(entry))
        known = [entry for entry in entries if _is_in_the_way(entry)]
        ended = Counter(entry.job for entry in known if entry.state == "finished" and entry.id in self.live)
        claimed = Counter(
            entry.job for entry in known if entry.state != "finished" and entry.id not in self.live
        )
        for job in claimed if not self.reloading else ():
            self._require_room(job, before[job] - ended[job], claimed[job])
        for entry in entries if not self.reloading else ():
            self._require_overlap(entry, before[entry.job] + claimed[entry.job])
        older = [entry for entry in self.live.values() if entry.job in claimed and _is_in_the_way(entry)]
        self._require_catch_up(entries)
        for entry in entries:
            known = self.live.get(entry.id) or self.finished.get(entry.id)
            assert known is None or known.state == entry.state or entry.state in _MOVES[known.state], (
                known,
                entry,
            )
            self._move(entry)
        self._replace(older)

    def _move(self, entry: Entry) -> None:
        if entry.state == "finished":
            known = self.live.pop(entry.id, None)
            self.finished[entry.id] = entry
            self.working.pop(entry.id, None)
            if known is not None:
                self._require_end(entry)
                self._require_patience(entry, known)
        else:
            known = self.live.get(entry.id)
            self.live[entry.id] = entry
            if entry.state != "running":
                self.working.pop(entry.id, None)
            elif (known is None or known.state != "running") and self.clock.is_settled and not self.reloading:
                self._require_open(entry, self.jobs[entry.job])
            if known is not None and known.state == "running" and entry.next_attempt_at is not None:
                wait = entry.next_attempt_at - self.clock.now()
                self._drawn[entry.id] = max(wait, RetryPolicy().max_backoff).total_seconds() + SLOW
            self._note(entry)

    def _note(self, entry: Entry) -> None:
        """When something is to become of a run: then nobody naps."""
        job, now = self.jobs.get(entry.job), self.clock.now()
        if entry.state == "running":
            self._ready_at.pop(entry.id, None)
        if job is None or entry.state == "running":
            return
        if entry.next_attempt_at is None:
            self._ready_at.pop(entry.id, None)
        elif entry.id not in self._ready_at:
            seconds = (entry.next_attempt_at - now).total_seconds()
            self._ready_at[entry.id] = self.clock.boot() + min(seconds, self._drawn.get(entry.id, seconds))
        if entry.waiting_for in ("window", "blackout"):
            for change in oracle.changes_until_start(job, now):
                self.clock.note((change - now).total_seconds())
        if entry.attempts == 0:
            self.clock.note((_latest_start(job, entry) - now).total_seconds())

    def _require_room(self, name: str, live: int, claimed: int) -> None:
        job = self.jobs.get(name)
        if job is None or live <= 0:
            return
        assert job.overlap != "skip", f"a run of {name} was claimed beside another"
        assert job.overlap != "queue" or live + claimed <= 2, f"{live + claimed} runs of {name} stand in line"

    def _require_overlap(self, entry: Entry, others: int) -> None:
        """What is skipped for an overlap overlaps with somebody."""
        known, job = self.finished.get(entry.id), self.jobs.get(entry.job)
        is_new = known is None or (known.fire_until or EPOCH) < (entry.fire_until or EPOCH)
        if entry.reason == "overlap" and job is not None and is_new:
            needed = {"skip": 1, "queue": 2}.get(job.overlap)
            assert needed is not None, f"it may overlap: {entry}"
            assert others >= needed, f"it overlaps with nobody: {entry}"

    def _require_catch_up(self, entries: list[Entry]) -> None:
        """No more is caught up than a job wants, and nothing that is too old for it."""
        late = [entry for entry in entries if entry.trigger == "catch_up" and not self._knows_run(entry)]
        for name, count in Counter(entry.job for entry in late).items():
            job = self.jobs[name]
            most = {"none": 0, "last": 1, "all": job.catch_up_limit}[job.catch_up]
            assert count <= most, f"{count} runs of {name} are caught up"
        for entry in late:
            job, at = self.jobs[entry.job], entry.fire_at
            assert at is not None
            too_old = entry.created_at - at - spread_delay(job.name, job.spread) > job.catch_up_window
            assert not too_old, f"too old to be caught up: {entry}"

    def takes_runs(self, job: Job) -> bool:
        """Whether a job that comes after others is claimed now."""
        now = self.clock.now()
        is_over = (job.start is not None and now < job.start) or (job.end is not None and now >= job.end)
        return job.enabled and not is_over and not self.holds(job.name)

    def _knows_run(self, entry: Entry) -> bool:
        return entry.id in self.live or entry.id in self.finished

    def knows(self, name: str) -> bool:
        """Whether a job of this name has runs, or is paused."""
        runs = itertools.chain(self.live.values(), self.finished.values())
        return name in self.pauses or any(entry.job == name for entry in runs)

    def _replace(self, older: list[Entry]) -> None:
        """New runs of these jobs are there; where they replace, the older ones are to end."""
        for entry in older:
            job = self.jobs.get(entry.job)
            if entry.id in self.live and job is not None and job.overlap == "replace":
                self._replaced_at.setdefault(entry.id, self.clock.boot())

    def _require_end(self, entry: Entry) -> None:
        at = self._replaced_at.get(entry.id)
        if at is not None and self.clock.boot() > at + SLOW:
            assert entry.outcome in _GIVEN_UP, f"it was replaced, and yet: {entry}"

    def _require_patience(self, entry: Entry, known: Entry) -> None:
        """What was claimed is missed when its latest start has passed, and no sooner."""
        job = self.jobs.get(entry.job)
        if entry.outcome == "missed" and known.attempts == 0 and job is not None and not self.reloading:
            assert entry.finished_at is not None
            latest = _latest_start(job, entry)
            assert entry.finished_at >= latest, f"it is missed before its latest start, {latest}: {entry}"

    # -- what the plugin sees ---------------------------------------------------------------------------------

    def entered(self, run_id: str, attempts: int, job: Job) -> None:
        """The plugin is entered for an attempt: it may be, and no other of its job is, unless that is allowed."""
        entry, now = self.live[run_id], self.clock.now()
        assert (entry.state, entry.attempts) == ("running", attempts), f"not durably begun: {entry}"
        self._require_open(entry, job)
        recent = self.clock.boot() <= self._paused_at.get(entry.job, 0.0) + SLOW
        assert recent or not self.holds(entry.job), f"it starts while it is paused: {entry}"
        assert self.limits.have_room(list(self.working.values()), job), f"beside {self.working}: {entry}"
        beside = [self.live[other].job for other in self.working if other in self.live]
        assert job.overlap == "allow" or entry.job not in beside, f"two at once: {entry}"
        late = self.clock.is_settled and attempts == 1 and now > _latest_start(job, entry) + PUNCTUAL
        assert not late, f"it starts after its latest start, at {now}: {entry}"
        replaced = self._replaced_at.get(run_id)
        assert replaced is None or self.clock.boot() <= replaced + SLOW, (
            f"it was replaced and starts: {entry}"
        )
        self.working[run_id] = job
        self._closings.pop(run_id, None)
        if job.window is not None and job.window.at_end == "checkpoint":
            closing = oracle.next_change(now, lambda instant: oracle.is_open(job, instant))
            self._closings[run_id] = closing
            self.clock.note((closing - now).total_seconds())

    def _require_open(self, entry: Entry, job: Job) -> None:
        """An attempt begins, or has just begun, where neither window nor blackout forbids it."""
        now = self.clock.now()
        just = now - timedelta(seconds=SLOW)
        assert oracle.is_open(job, now) or oracle.is_open(job, just), f"it starts outside its window: {entry}"
        is_dark = oracle.is_dark(job, now) and oracle.is_dark(job, just)
        assert not is_dark, f"it starts in a blackout: {entry}"

    def page(self, run_id: str, stopping: bool) -> None:
        """The plugin has come to a checkpoint, where it ends if it is stopping."""
        closing = self._closings.get(run_id)
        late = closing is not None and self.clock.is_settled and self.clock.now() > closing + PUNCTUAL
        assert stopping or not late, f"{run_id} goes on after the end of its window"

    def left(self, run_id: str) -> None:
        """The plugin has come back."""
        self.working.pop(run_id, None)

    # -- what has to be ---------------------------------------------------------------------------------------

    def require_busy(self) -> None:
        """Nothing will happen for a while: nobody waits who could start."""
        lines: dict[str, list[bool]] = {}
        for entry in self.live.values():
            job = self.jobs.get(entry.job)
            assert job or entry.id in self.working, f"its job is gone, and it goes on: {entry}"
            if job is None or entry.id in self.working:
                lines.setdefault(entry.job, []).append(False)
                continue
            assert entry.state != "running", f"nobody works at it: {entry}"
            ready = self._is_ready(entry, job)
            assert not (ready and job.overlap == "allow"), f"it could start: {entry}"
            lines.setdefault(entry.job, []).append(ready)
        for name, line in lines.items():
            assert not all(line), f"one of {name} could start: {self.live}"

    def _is_ready(self, entry: Entry, job: Job) -> bool:
        now = self.clock.now()
        return (
            not self.holds(entry.job)
            and self._ready_at.get(entry.id, 0.0) <= self.clock.boot()
            and oracle.may_start(job, now)
            and self.limits.have_room(list(self.working.values()), job)
        )

    def holds(self, job: str) -> bool:
        """Whether a job is paused now."""
        until = self.pauses.get(job)
        return job in self.pauses and (until is None or self.clock.now() < until)

    def require_settled(self, left: Collection[tuple[str, str]], since: datetime) -> None:
        """After calm days nothing old is left that has not ended, and children have taken what was left for them."""
        old = [entry for entry in self.live.values() if entry.created_at < since]
        assert not old, f"never ended: {old}"
        for job in self.jobs.values():
            for after in job.schedules if self.takes_runs(job) else ():
                if isinstance(after, After):
                    all_left = all((job.name, parent) in left for parent in after.jobs)
                    assert not all_left, f"{job.name} has not taken all that its parents left"


def _latest_start(job: Job, entry: Entry) -> datetime:
    if entry.trigger == "backfill":
        return datetime.max.replace(tzinfo=UTC)
    since, scheduled = entry.created_at, entry.trigger == "schedule" and entry.fire_at is not None
    if scheduled and entry.fire_at is not None:
        since = entry.fire_at + spread_delay(job.name, job.spread)
    return oracle.latest_start(job, since, entry.fire_at, scheduled=scheduled)


def _is_in_the_way(entry: Entry) -> bool:
    """Whether it stands for an overlap: slices of a backfill do not."""
    return entry.trigger != "backfill"
