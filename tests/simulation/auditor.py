"""The auditor: knows from the oracle what must be in the ledger, and compares after every step.

It reads the tables themselves. Of erpsync's words it uses the job as configured; which schedule was in force when, it
notes from what the world did. A job's schedule is in force from the first look with it to the first look without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, text

from erpsync.core.job import After, Cron, Every, Job
from erpsync.core.run import Run
from tests.simulation import oracle

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
COUNTED = 1000
STUCK = timedelta(days=9)
"""A run that has not ended so long after its claim, in calm times, never will."""

_NEW = text(
    'SELECT seq, id, job, claim, "trigger", state, outcome, reason, fire_at, fire_until, fire_count FROM run '
    "WHERE seq > :last OR id IN (SELECT id FROM run JOIN (SELECT max(seq) AS newest FROM run WHERE seq <= :last "
    "GROUP BY job) ON seq = newest) ORDER BY seq"
)
_LIVE = text(
    "SELECT job, min(seq) AS oldest, max(seq) AS newest FROM run WHERE state <> 'finished' GROUP BY job"
)
_RUNNING = text("SELECT count(*) FROM run WHERE job = :job AND state = 'running'")
_COVERING = text(
    "SELECT id, outcome, coalesce(fire_until, fire_at) AS last FROM run WHERE job = :job AND claim LIKE 'at:%'"
)
_ORPHANS = text("SELECT run_id FROM attempt WHERE run_id NOT IN (SELECT id FROM run)")
_MARKS = text("SELECT job, until FROM mark")
_PARENTS = text(
    "SELECT child.id, child.state, child.outcome, child.reason, parent.state AS ended, parent.outcome AS how, "
    "parent.id AS parent FROM run AS child "
    "JOIN run AS parent ON instr(child.parents, parent.id) > 0 WHERE child.job = :job"
)
_LEFT = text("SELECT child, parent FROM handover ORDER BY child, parent")
_OLD = text(
    "SELECT id, job, state, waiting_for, created_at FROM run WHERE state <> 'finished' AND created_at < :at"
)


@dataclass
class Segment:
    """From `since` on, without it, up to `until` the fire times of a job were these."""

    job: Job
    since: datetime
    until: datetime | None = None


@dataclass
class Account:
    """What is known of one job: its segments, and which run covers which fire time."""

    segments: list[Segment] = field(default_factory=list)
    covered: dict[datetime, str] = field(default_factory=dict)
    ranges: dict[str, datetime] = field(default_factory=dict)  # run id → the last fire time of its range
    audited: datetime | None = None

    def fires(self, after: datetime, until: datetime) -> list[datetime]:
        """The fire times of all schedules, each while it was in force."""
        found: set[datetime] = set()
        for segment in self.segments:
            low = max(after, segment.since)
            high = until if segment.until is None else min(until, segment.until)
            if low < high:
                found.update(oracle.fires(segment.job, low, high))
        return sorted(found)


class Auditor:
    """Raises AssertionError where a fire time is lost or doubled, or something starts that may not."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._jobs: dict[str, Job] = {}
        self._expected: dict[str, tuple[Job, datetime]] = {}
        self._edited: set[str] = set()  # whose newest runs may be of the rules before
        self._read: set[str] = set()
        self._last = 0

    @property
    def is_curious(self) -> bool:
        """Whether there was a look since the last audit."""
        return bool(self._expected)

    def latest_change(self) -> datetime | None:
        """When a schedule came into force last."""
        return max((account.segments[-1].since for account in self._accounts.values()), default=None)

    def expect(self, jobs: Sequence[Job], now: datetime) -> None:
        """A look at these jobs is under way; it may not come to pass."""
        self._expected |= {job.name: (job, now) for job in jobs}

    def began(self, connection: Connection, run: Run, job: Job, now: datetime) -> None:
        """A run has started: it may, and no other of its job is running unless that is allowed."""
        assert oracle.is_open(job, now), f"{run.job} starts outside its window"
        assert not oracle.is_dark(job, now), f"{run.job} starts in a blackout"
        running = connection.execute(_RUNNING, {"job": run.job}).scalar_one()
        assert running == 1 or job.overlap == "allow", f"{running} runs of {run.job} are running at once"

    def audit(self, connection: Connection) -> None:
        """Compare what the last look wrote with what had to be written."""
        marks = {row.job: _instant(row.until) for row in connection.execute(_MARKS)}
        for name, (job, now) in self._expected.items():
            if name in marks:
                self._note_change(name, job, now, taken=marks[name] == now)
        for name, account in self._accounts.items():
            if account.audited is not None and marks[name] < account.audited:
                self._take_back(connection, name, account, marks[name])
        self._read_runs(connection)
        for name, account in self._accounts.items():
            self._require_covered(name, account, marks[name])
        self._require_no_overlap(connection)
        self._expected = {}
        self._edited = set()

    def require_settled(self, connection: Connection, now: datetime) -> None:
        """After calm days nothing old is left that has not ended, and nobody's parents were taken twice."""
        for name, job in self._jobs.items():
            self._require_parents(connection, name, job)
        at = (now - STUCK - EPOCH) // MICROSECOND
        left = connection.execute(_OLD, {"at": at}).all()
        assert not left, f"never ended: {left}"

    def _require_parents(self, connection: Connection, name: str, job: Job) -> None:
        """What came after others came after their ends, once, and only where that was all that it waited for."""
        taken: dict[str, str] = {}
        for row in connection.execute(_PARENTS, {"job": name}):
            assert row.ended == "finished", f"{row.id} came after {row.parent}, which has not ended"
            assert taken.setdefault(row.parent, row.id) == row.id, f"{row.parent} was taken twice by {name}"
        left = {row.parent for row in connection.execute(_LEFT) if row.child == name}
        for after in job.schedules if job.enabled else ():
            if isinstance(after, After):
                assert not set(after.jobs) <= left, f"{name} has not taken all that its parents left"

    def _take_back(self, connection: Connection, name: str, account: Account, now: datetime) -> None:
        """The clock was corrected: what had only passed by it is in the ledger no more, all else still is."""
        rows = {row.id: row for row in connection.execute(_COVERING, {"job": name})}
        for fire, owner in sorted(account.covered.items()):
            row = rows.get(owner)
            if row is not None and fire <= _instant(row.last):
                passed = row.outcome in ("skipped", "missed")
                assert fire <= now or not passed, f"{owner} says that {fire} has passed, which lies ahead"
                account.ranges[owner] = _instant(row.last)
            else:
                assert fire > now, f"{name}: the run of {fire} is lost by a correction"
                del account.covered[fire]
        orphans = connection.execute(_ORPHANS).all()
        assert not orphans, f"runs that had begun are lost by a correction: {orphans}"
        account.audited = now
        self._last = 0  # new runs may have the numbers of those that are gone

    # -- schedules in force -----------------------------------------------------------------------------------

    def _note_change(self, name: str, job: Job, now: datetime, *, taken: bool) -> None:
        if self._jobs.get(name) != job:
            self._edited.add(name)
        self._jobs[name] = job
        account = self._accounts.setdefault(name, Account())
        segment = account.segments[-1] if account.segments else None
        if segment is not None and segment.until is None:
            if _rule(segment.job) == _rule(job):
                return
            if taken:
                segment.until = max(now, account.audited or now)
        if taken:
            account.segments.append(Segment(job, now))
            account.audited = now if account.audited is None else account.audited

    # -- the ledger -------------------------------------------------------------------------------------------

    def _read_runs(self, connection: Connection) -> None:
        self._before = self._last
        for row in connection.execute(_NEW, {"last": self._last}).all():
            if row.fire_at is None or not row.claim.startswith("at:"):
                self._last = max(self._last, row.seq)
                self._read.add(row.id)
                continue
            account = self._accounts[row.job]
            first, last = _instant(row.fire_at), _instant(row.fire_until or row.fire_at)
            if row.id in self._read:
                self._last = max(self._last, row.seq)
                self._read_growth(account, row.id, last, row.fire_count, first)
                continue
            self._last = max(self._last, row.seq)
            self._read.add(row.id)
            fires = account.fires(first - MICROSECOND, last)
            assert fires, f"{row.job} has a run for {first}, which is no fire time: {row}"
            assert (fires[0], fires[-1]) == (first, last), f"the ends of a range are no fire times: {row}"
            self._cover(account, row.id, fires, row)
            self._require_count(account, row.id, first, last, row.fire_count)
            account.ranges[row.id] = last
            self._require_fate(self._jobs[row.job], fires, row)

    def _read_growth(
        self, account: Account, run_id: str, last: datetime, count: int, first: datetime
    ) -> None:
        known = account.ranges[run_id]
        if known == last:
            return
        assert last > known, f"the range {run_id} shrank from {known} to {last}"
        self._cover(account, run_id, account.fires(known, last), f"growth of {run_id} to {last}")
        account.ranges[run_id] = last
        self._require_count(account, run_id, first, last, count)

    def _cover(self, account: Account, run_id: str, fires: list[datetime], what: object) -> None:
        for fire in fires:
            owner = account.covered.setdefault(fire, run_id)
            assert owner == run_id, f"{fire} has two runs: {owner} and {what}"

    def _require_count(
        self, account: Account, run_id: str, first: datetime, last: datetime, count: int
    ) -> None:
        mine = sum(1 for fire, owner in account.covered.items() if owner == run_id) if first != last else 1
        assert count == mine or (count == -1 and mine > COUNTED), f"{run_id} says {count}, covers {mine}"

    def _require_fate(self, job: Job, fires: list[datetime], row: Row[Any]) -> None:
        """In a blackout nothing is claimed to run, out of it nothing is skipped for one."""
        dark = [oracle.is_dark(job, fire) for fire in fires]
        if row.reason == "blackout":
            assert all(dark), f"skipped for a blackout that is none: {row}"
        elif row.state != "finished" and job.on_blackout == "skip":
            assert not any(dark), f"claimed in a blackout: {row}"
        elif row.outcome == "missed" and row.reason != "schedule_changed" and job.on_blackout == "skip":
            assert not any(dark), f"missed although it was to be skipped: {row}"

    def _require_covered(self, name: str, account: Account, mark: datetime) -> None:
        """All that had to be claimed up to the mark is."""
        after = account.audited
        assert after is not None
        if mark <= after:
            return
        lost = [fire for fire in account.fires(after, mark) if fire not in account.covered]
        assert not lost, f"{name}: no run for {lost[:5]}, the mark stands at {mark}"
        account.audited = mark

    def _require_no_overlap(self, connection: Connection) -> None:
        for row in connection.execute(_LIVE):
            job = self._jobs.get(row.job)
            if job is None or row.job in self._edited:
                continue
            if job.overlap == "skip" and row.newest > self._before:
                assert row.oldest > self._before, f"a run of {row.job} was claimed beside another"


def _rule(job: Job) -> object:
    """What decides the fire times of a job."""
    if not job.enabled:
        return ()
    zone = (job.timezone, job.dst)
    return {
        (schedule, zone if isinstance(schedule, Cron) else ())
        for schedule in job.schedules
        if _fires(schedule)
    }


def _fires(schedule: object) -> bool:
    return isinstance(schedule, Cron | Every)


def _instant(microseconds: int) -> datetime:
    return EPOCH + microseconds * MICROSECOND
