"""The night in review: what was expected against what the ledger has, so that silence is a finding too. Pure."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate, islice, takewhile

from sqlalchemy import Connection

from erpsync.core.duration import format_duration
from erpsync.core.job import Job
from erpsync.core.run import Outcome, Run, RunTrigger, State, utc_text
from erpsync.daemon.overdue import overdue
from erpsync.scheduling.planner import BLACKOUT, COUNTED, OVERLAP, PARKED, PAUSED, UNKNOWN
from erpsync.scheduling.timetable import Timetable, read_schedule, timetable
from erpsync.scheduling.trigger import Trigger
from erpsync.store.history import RunFilter, last_successes, list_runs, unfinished_runs
from erpsync.store.marks import Mark, read_marks
from erpsync.store.pauses import Pause, read_pauses

PATIENCE = timedelta(minutes=1)
"""So long after its time a start may be claimed without anybody calling it silence."""
_MOST = 200_000  # runs of one night
_TROUBLE = frozenset(
    {Outcome.FAILED, Outcome.TIMED_OUT, Outcome.ABANDONED, Outcome.MISSED, Outcome.PARTIAL, Outcome.SKIPPED}
)
_NEVER_BEGUN = frozenset({Outcome.MISSED, Outcome.SKIPPED})
_INTENDED = frozenset({BLACKOUT, PAUSED})  # skips that somebody wanted so


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the state has; `runs` are those of the night, the newest first, `live` what is not finished."""

    runs: Sequence[Run] = ()
    live: Sequence[Run] = ()
    marks: Mapping[str, Mark] = field(default_factory=dict)
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    successes: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not as it should be with a job: an outcome, "parked", "silent" or "overdue"; `next` is what to type."""

    job: str
    kind: str
    at: datetime
    count: int
    why: str
    next: str
    run_id: str | None = None

    def document(self) -> dict[str, object]:
        return {
            "job": self.job,
            "kind": self.kind,
            "at": utc_text(self.at),
            "count": self.count,
            "why": self.why,
            "next": self.next,
            "run": self.run_id,
        }


@dataclass(frozen=True, slots=True)
class Review:
    """The night from `since` to `until`. `mended` troubles were followed by a success of their job."""

    since: datetime
    until: datetime
    findings: tuple[Finding, ...]
    mended: int
    outcomes: Mapping[str, int]
    live: tuple[Run, ...]
    paused: tuple[str, ...]
    data: Mapping[str, datetime | None]
    """When each enabled job succeeded last."""

    @property
    def is_fine(self) -> bool:
        return not self.findings

    @property
    def ages(self) -> dict[str, timedelta | None]:
        """How old each enabled job's data is, never less than nothing; None where it never succeeded."""
        none = timedelta(0)
        return {name: max(self.until - at, none) if at else None for name, at in self.data.items()}

    def document(self) -> dict[str, object]:
        """The public JSON form."""
        age = {name: age.total_seconds() if age is not None else None for name, age in self.ages.items()}
        return {
            "since": utc_text(self.since),
            "until": utc_text(self.until),
            "fine": self.is_fine,
            "findings": [finding.document() for finding in self.findings],
            "mended": self.mended,
            "outcomes": dict(self.outcomes),
            "unfinished": [run.document() for run in self.live],
            "paused": [*self.paused],
            "data": [
                {"job": name, "last_success_at": utc_text(at), "age_seconds": age[name]}
                for name, at in self.data.items()
            ],
        }


def read_evidence(connection: Connection, since: datetime) -> Evidence:
    """What the state has of the time since then."""
    return Evidence(
        list_runs(connection, RunFilter(since=since, limit=_MOST)),
        unfinished_runs(connection),
        read_marks(connection),
        read_pauses(connection),
        last_successes(connection),
    )


def review(jobs: Iterable[Job], evidence: Evidence, since: datetime, now: datetime) -> Review:
    """What is to be said of the time from `since` to `now`."""
    tables = [timetable(job) for job in jobs if job.enabled]
    named = {table.job.name: table for table in tables}
    runs: dict[str, list[Run]] = {}
    for run in evidence.runs:
        if not run.is_special:  # what somebody tried out says nothing of the night
            runs.setdefault(run.job, []).append(run)
    findings: list[Finding] = []
    mended = 0
    for table in tables:
        name = table.job.name
        success = evidence.successes.get(name)
        has_succeeded = success is not None and success >= since
        open_, closed = _troubles(runs.get(name, ()), _INTENDED | {OVERLAP} if has_succeeded else _INTENDED)
        mended += len(closed)
        candidates = (
            _trouble(open_, _rivals(name, evidence.live), now),
            _silence(table, evidence, runs.get(name, ()), since, now),
            _overdue(table, evidence, since, now, named),
        )
        findings += [finding for finding in candidates if finding is not None]
    return Review(
        since,
        now,
        tuple(findings),
        mended,
        Counter(str(run.outcome) for run in evidence.runs if run.outcome),
        tuple(evidence.live),
        tuple(name for name, pause in evidence.pauses.items() if pause.holds(now)),
        {table.job.name: evidence.successes.get(table.job.name) for table in tables},
    )


def _troubles(newest_first: Iterable[Run], intended: Container[str | None]) -> tuple[list[Run], list[Run]]:
    """The troubles of one job since its last success, and those before it; skips for what is `intended` are none."""
    open_: list[Run] = []
    closed: list[Run] = []
    found = open_
    for run in newest_first:
        if run.outcome is Outcome.SUCCEEDED:
            found = closed
        elif run.outcome in _TROUBLE and run.reason not in intended:
            found.append(run)
    return open_, closed


def _trouble(runs: Sequence[Run], live: Sequence[Run], now: datetime) -> Finding | None:
    """The trouble that stands for all: what keeps the job from running now, else the newest run that began and
    failed, else the newest that did not begin. Only those of its outcome are counted."""
    if not runs:
        return None
    run = next((each for each in runs if each.outcome not in _NEVER_BEGUN), runs[0])
    is_blocked = runs[0].reason == OVERLAP and bool(live)
    if is_blocked or runs[0].reason == PARKED:
        run = runs[0]
    assert run.outcome is not None
    why = run.error.message if run.error else run.reason or ""
    at = run.finished_at or run.created_at
    number = _number([each for each in runs if each.outcome is run.outcome])
    if run.reason == PARKED:
        return Finding(run.job, PARKED, at, number, "it cannot run as things are", "erpsync check", run.id)
    command = f"erpsync trigger {run.job}" if run.outcome in _NEVER_BEGUN else f"erpsync show {run.id}"
    if is_blocked:
        why, command = _in_the_way(live[0], now)
    return Finding(run.job, run.outcome.value, at, number, why, command, run.id)


def _number(runs: Sequence[Run]) -> int:
    known = all(each.fire_count != UNKNOWN for each in runs)
    return sum(each.fire_count for each in runs) if known else UNKNOWN


def _rivals(job: str, live: Iterable[Run]) -> list[Run]:
    """The runs of a job beside which no other starts: slices of a backfill are in nobody's way."""
    return [run for run in live if run.job == job and run.trigger is not RunTrigger.BACKFILL]


def _in_the_way(run: Run, now: datetime) -> tuple[str, str]:
    """What a run does that others were skipped for, and what to type."""
    is_running = run.state is State.RUNNING
    doing = "is running" if is_running else f"waits for {run.waiting_for or 'its start'}"
    command = f"erpsync logs {run.job} --follow" if is_running else f"erpsync cancel {run.id}"
    return (
        f"run {run.id} {doing}, for {format_duration(now - (run.started_at or run.created_at))} now",
        command,
    )


def _silence(
    table: Timetable, evidence: Evidence, runs: Iterable[Run], since: datetime, now: datetime
) -> Finding | None:
    """Fire times that nobody has looked at: later than the job's mark, and not in the ledger either."""
    name = table.job.name
    mark, pause = evidence.marks.get(name), evidence.pauses.get(name)
    trigger = _in_force(table, mark)
    start = max(since, mark.until) if mark else since
    end = now - table.delay - PATIENCE
    if pause is not None and pause.holds(now):
        end = min(end, pause.since)
    if trigger is None or start >= end:
        return None
    fires = takewhile(lambda fire: fire <= end, trigger.after(start))
    is_taken = _taken(runs)
    silent = [fire for fire in islice(fires, COUNTED + 1) if not is_taken(fire)]
    if not silent:
        return None
    why = "nobody planned it: was a daemon running?" if mark else "no daemon has ever seen this job"
    number = len(silent) if len(silent) <= COUNTED else UNKNOWN
    return Finding(name, "silent", silent[0], number, why, "erpsync status")


def _taken(runs: Iterable[Run]) -> Callable[[datetime], bool]:
    """Whether a fire time is in the ledger, by itself or within a range: quick for very many runs."""
    ranges = sorted((run.fire_at, run.fire_until or run.fire_at) for run in runs if run.fire_at)
    firsts = [first for first, _ in ranges]
    reach = [*accumulate((last for _, last in ranges), max)]

    def is_taken(fire: datetime) -> bool:
        begun = bisect_right(firsts, fire)
        return begun > 0 and reach[begun - 1] >= fire

    return is_taken


def _in_force(table: Timetable, mark: Mark | None) -> Trigger | None:
    """The schedule by which a daemon plans: the one it has seen last."""
    if mark is None or mark.schedule == table.schedule:
        return table.trigger
    try:
        return read_schedule(mark.schedule)
    except ValueError:  # a newer version wrote it
        return None


def _overdue(
    table: Timetable, evidence: Evidence, since: datetime, now: datetime, tables: Mapping[str, Timetable]
) -> Finding | None:
    name = table.job.name
    late = overdue(table, evidence.successes.get(name), since, now, tables)
    if late is None:
        return None
    running = any(run.job == name and run.state is State.RUNNING for run in evidence.live)
    command = f"erpsync logs {name} --follow" if running else f"erpsync trigger {name}"
    return Finding(name, "overdue", late.due_at, 1, "no success by then", command)
