"""Fire times and what became of them: each that was due has exactly one run, skips and misses included.

Of erpsync's words it uses the job as configured; which schedule was in force when, it notes from the looks that were
taken. A job's schedule is in force from the first look with it to the first look without it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from erpsync.core.calendar import spread_delay
from erpsync.core.job import At, Cron, Every, Job
from tests.simulation import oracle
from tests.simulation.ledger import Entry
from tests.simulation.oracle import MICROSECOND

COUNTED = 1000
CORRECTION = timedelta(hours=3)
"""A mark that lies further ahead is one of a wrong clock."""
PUNCTUAL = timedelta(minutes=1)
"""Within this a look has been taken at what is due, in calm times."""


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
    ranges: dict[str, tuple[datetime, int]] = field(
        default_factory=dict
    )  # run id: its last fire time, its count
    audited: datetime | None = None
    demanded: datetime | None = None  # up to here nothing was due beyond the mark

    def fires(self, after: datetime, until: datetime) -> list[datetime]:
        """The fire times of all schedules, each while it was in force."""
        found: set[datetime] = set()
        for segment in self.segments:
            low = max(after, segment.since)
            high = until if segment.until is None else min(until, segment.until)
            if low < high:
                found.update(oracle.fires(segment.job, low, high))
        return sorted(found)


class FireTimes:
    """Raises AssertionError where a fire time is lost or doubled, or has a fate that it should not have."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._jobs: dict[str, Job] = {}

    def latest_change(self) -> datetime | None:
        """When a schedule came into force last."""
        return max((account.segments[-1].since for account in self._accounts.values()), default=None)

    def knows(self, name: str) -> bool:
        """Whether there was a look at a job of this name."""
        return name in self._accounts

    def renamed(self, former: str, name: str) -> None:
        """All that is known of a job is of another name now."""
        if former in self._accounts:
            self._accounts[name] = self._accounts.pop(former)
            self._jobs[name] = self._jobs.pop(former)

    def looked(self, job: Job, now: datetime, mark: datetime) -> bool:
        """A look at a job was taken and left this mark; whether it set it back."""
        self._jobs[job.name] = job
        account, taken = self._accounts.setdefault(job.name, Account()), mark == now
        segment = account.segments[-1] if account.segments else None
        is_back = account.audited is not None and mark < account.audited
        if is_back:
            account.audited = account.demanded = mark
        changed = segment is None or segment.until is not None or _rule(segment.job) != _rule(job)
        if taken and changed:
            if segment is not None and segment.until is None:
                segment.until = max(now, account.audited or now)
            account.segments.append(Segment(job, now))
            account.audited = account.audited or now
        return is_back

    def written(self, entry: Entry) -> None:
        """A run for fire times was written, grew, or shrank by a correction."""
        if not entry.claim.startswith("at:"):
            return
        account = self._accounts[entry.job]
        assert entry.fire_at is not None
        first, last = entry.fire_at, entry.fire_until or entry.fire_at
        known, count = account.ranges.get(entry.id, (first - MICROSECOND, 0))
        if known == last:
            return
        fires = account.fires(min(known, last), max(known, last))
        if last < known:
            self._uncover(account, entry.id, fires)
            count -= len(fires)
        else:
            self._cover(account, entry, fires)
            count += len(fires)
        if entry.id not in account.ranges:
            assert fires, f"a run for {first}, which is no fire time: {entry}"
            assert (fires[0], fires[-1]) == (first, last), f"the ends of a range are no fire times: {entry}"
            self._require_fate(self._jobs[entry.job], fires, entry)
        if entry.outcome == "missed" and entry.reason != "schedule_changed" and entry.waiting_for is None:
            self._require_missed(account, self._jobs[entry.job], entry, last)
        account.ranges[entry.id] = last, count
        right = entry.fire_count == count or (entry.fire_count == -1 and count > COUNTED)
        assert right, f"it covers {count} fire times: {entry}"

    def due(self, name: str, after: datetime, until: datetime) -> list[datetime]:
        """The fire times of a job in that time that have no run."""
        account = self._accounts[name]
        return [fire for fire in account.fires(after, until) if fire not in account.covered]

    def owner(self, name: str, fire: datetime) -> str:
        """The id of the run that covers a fire time; empty: it has none."""
        return self._accounts[name].covered.get(fire, "")

    def deleted(self, entry: Entry) -> None:
        """A run is gone: by a correction of the clock, and only what did no more than pass."""
        assert entry.outcome in ("skipped", "missed"), f"it is gone: {entry}"
        account = self._accounts[entry.job]
        self._uncover(
            account, entry.id, [fire for fire, owner in account.covered.items() if owner == entry.id]
        )

    def _require_missed(self, account: Account, job: Job, entry: Entry, last: datetime) -> None:
        """What is on time is not missed."""
        assert entry.finished_at is not None
        horizon = entry.finished_at - spread_delay(job.name, job.spread)
        is_newest = last < horizon and not account.fires(last, horizon)
        assert not (is_newest and last >= horizon - job.grace), f"missed although it is on time: {entry}"

    def _cover(self, account: Account, entry: Entry, fires: list[datetime]) -> None:
        for fire in fires:
            owner = account.covered.setdefault(fire, entry.id)
            assert owner == entry.id, f"{fire} has two runs: {owner} and {entry}"

    def _uncover(self, account: Account, owner: str, fires: list[datetime]) -> None:
        for fire in fires:
            assert account.audited is not None
            assert fire > account.audited, f"{owner} has lost {fire}, which has come"
            del account.covered[fire]

    def require_ahead(self, passed: Callable[[str], bool]) -> None:
        """After a correction nothing of what lies ahead is said to have `passed`."""
        for account in self._accounts.values():
            for fire, owner in account.covered.items():
                ahead = account.audited is not None and fire > account.audited
                assert not (ahead and passed(owner)), f"{owner} says that {fire} has passed, which lies ahead"

    def require_covered(self, marks: Mapping[str, datetime]) -> None:
        """All that had to be claimed up to its mark is."""
        for name, mark in marks.items():
            account = self._accounts.get(name)
            if account is None or account.audited is None or mark <= account.audited:
                continue
            lost = [fire for fire in account.fires(account.audited, mark) if fire not in account.covered]
            assert not lost, f"{name}: no run for {lost[:5]}, the mark stands at {mark}"
            account.audited = mark

    def require_marked(self, job: Job, mark: datetime | None, now: datetime) -> None:
        """In calm times a job that has a schedule has begun with it, and its mark is at its newest due fire time."""
        if not _rule(job):
            return
        account = self._accounts.get(job.name)
        assert account is not None, f"nobody has ever looked at {job.name}"
        assert mark is not None, f"{job.name} has no mark"
        segment = account.segments[-1]
        has_begun = segment.until is None and _rule(segment.job) == _rule(job)
        assert has_begun, f"{job.name} has not begun with its schedule"
        assert mark - now <= CORRECTION, f"{job.name}: the clock was corrected, the mark stands at {mark}"
        due = now - spread_delay(job.name, job.spread) - PUNCTUAL
        left = account.fires(max(mark, account.demanded or mark), due)
        assert not left, f"{job.name}: nobody has looked at {left[:5]}, the mark stands at {mark}"
        account.demanded = due

    def _require_fate(self, job: Job, fires: list[datetime], entry: Entry) -> None:
        """In a blackout nothing is claimed to run, out of it nothing is skipped for one."""
        if not job.blackout or job.on_blackout != "skip":
            assert entry.reason != "blackout", f"skipped for a blackout that is none: {entry}"
            return
        dark = [oracle.is_dark(job, fire) for fire in fires]
        if entry.reason == "blackout":
            assert all(dark), f"skipped for a blackout that is none: {entry}"
        elif entry.state != "finished":
            assert not any(dark), f"claimed in a blackout: {entry}"
        elif entry.outcome == "missed" and entry.reason != "schedule_changed":
            assert not any(dark), f"missed although it was to be skipped: {entry}"


def _rule(job: Job) -> object:
    """What decides the fire times of a job."""
    zone = (job.timezone, job.dst)
    rules = {
        (schedule, zone if isinstance(schedule, Cron) else ())
        for schedule in job.schedules
        if isinstance(schedule, Cron | Every | At) and job.enabled
    }
    return (rules, job.start, job.end) if rules else ()
