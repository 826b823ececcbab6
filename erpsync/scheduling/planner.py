"""The planner: from timetables, marks and the time, what is due, caught up, missed and skipped. Pure.

Fire times up to a job's mark are in the ledger. One is due when its delay has passed too, and *late* when more
than the grace has passed since. Of several due at one look only the newest can be on time; for the others, and
for a newest that is late, `catch_up` decides. Misses are kept as ranges, found from both their ends, so a long
downtime costs no more than a short one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice, takewhile

from erpsync.core.job import Job
from erpsync.core.run import Outcome, Run, RunTrigger, State, new_run_id, utc_text
from erpsync.scheduling.timetable import Timetable, read_schedule
from erpsync.scheduling.trigger import MOMENT, Trigger, newest_until, next_after
from erpsync.store.ledger import Growth
from erpsync.store.marks import Mark

CORRECTION = timedelta(hours=3)
"""A clock set back by more than this was wrong before: marks return to it. By less: they hold."""
COUNTED = 1000
"""Fire times of a range are counted up to this many; beyond it the count is UNKNOWN."""
UNKNOWN = -1

LATE = "late"
"""Missed: a newer fire time was due by the time we looked, and stands for it (catch_up = "last")."""
CATCH_UP_NONE = "catch_up_none"
"""Missed: past its grace or not the newest, and catch_up = "none"."""
CATCH_UP_WINDOW = "catch_up_window"
"""Missed: later than catch_up_window."""
CATCH_UP_LIMIT = "catch_up_limit"
"""Missed: more than catch_up_limit were late, and newer ones were caught up."""
SCHEDULE_CHANGED = "schedule_changed"
"""Missed: due by a schedule that is no longer in force."""
OVERLAP = "overlap"
"""Skipped: a run of the job was not finished yet, and with overlap = "queue" another one waited behind it."""
BLACKOUT = "blackout"
"""Skipped: its nominal time lay on a day of the job's blackout."""
PAUSED = "paused"
"""Skipped: the job was paused, and the fire time is not caught up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write: runs (those of one job oldest first) and marks; `corrected` jobs had a mark in the future."""

    runs: tuple[Run, ...]
    marks: tuple[Mark, ...]
    corrected: tuple[Mark, ...] = ()


def room(job: Job, live: int, wanted: int) -> int:
    """How many of `wanted` new runs of a job may be claimed while `live` others are not finished."""
    if not live or job.overlap in ("allow", "replace"):
        return wanted
    return min(wanted, max(0, 2 - live)) if job.overlap == "queue" else 0


def plan(
    timetables: Iterable[Timetable], marks: Mapping[str, Mark], live: Mapping[str, int], now: datetime
) -> Plan:
    """What `now` asks for; `live` counts each job's runs that are claimed and not finished."""
    runs: list[Run] = []
    fresh: list[Mark] = []
    corrected: list[Mark] = []
    for table in timetables:
        mark = marks.get(table.job.name)
        if mark is not None and mark.until - now > CORRECTION:
            corrected.append(mark)
        found, until = _plan_job(table, mark, live.get(table.job.name, 0), now)
        runs += found
        if until is not None:
            fresh.append(Mark(table.job.name, table.schedule, until))
    return Plan(tuple(runs), tuple(fresh), tuple(corrected))


def _plan_job(
    table: Timetable, mark: Mark | None, live: int, now: datetime
) -> tuple[Sequence[Run], datetime | None]:
    """The runs of one job and where its mark goes; None: it stays."""
    if mark is None:
        return (), now if table.schedule else None
    if mark.schedule != table.schedule:
        return _abandoned(table.job, mark, now), now
    if mark.until - now > CORRECTION:
        return (), now
    newest = newest_until(table.trigger, now - table.delay)
    if newest is None or newest <= mark.until:
        return (), None
    return _due(table, mark.until, newest, live, now), newest


def _abandoned(job: Job, mark: Mark, now: datetime) -> Sequence[Run]:
    """The open span of a schedule that is no longer in force."""
    try:
        old = read_schedule(mark.schedule)
    except ValueError:  # a newer version wrote it: that something may be missing is all we know
        return [_missed(job, Span(mark.until + MOMENT, now, UNKNOWN), SCHEDULE_CHANGED, now)]
    return [_missed(job, span, SCHEDULE_CHANGED, now) for span in _spans(old, mark.until, now)]


def _due(table: Timetable, after: datetime, newest: datetime, live: int, now: datetime) -> Sequence[Run]:
    """The runs for the fire times later than `after` up to `newest`, the oldest first."""
    job, trigger = table.job, table.trigger
    horizon = now - table.delay  # a fire time is as late as it lies before this
    on_time = newest >= horizon - job.grace
    window = max(after, horizon - job.catch_up_window - MOMENT)  # what may be caught up is later than this
    chosen = _caught_up(table, window, newest, on_time)
    if on_time:
        chosen.append(newest)
    first = chosen[0] if chosen else newest + MOMENT  # before this all is missed
    if job.catch_up == "none":
        missed = [(CATCH_UP_NONE, after, first - MOMENT)]
    else:
        reason = LATE if job.catch_up == "last" else CATCH_UP_LIMIT
        border = min(window, first - MOMENT)
        missed = [(CATCH_UP_WINDOW, after, border), (reason, border, first - MOMENT)]
    runs = [
        _missed(job, span, reason, now) for reason, low, high in missed for span in _spans(trigger, low, high)
    ]
    if chosen and live and job.overlap == "skip":
        return [*runs, _skipped(job, Span(chosen[0], chosen[-1], len(chosen)), now)]
    return [*runs, *(_pending(job, fire, now, late=fire != newest or not on_time) for fire in chosen)]


def _caught_up(table: Timetable, window: datetime, newest: datetime, on_time: bool) -> list[datetime]:
    """The late fire times that run all the same, the oldest first."""
    job = table.job
    if job.catch_up == "none" or (job.catch_up == "last" and on_time):
        return []
    limit = 1 if job.catch_up == "last" else job.catch_up_limit
    late = table.trigger.until(newest - MOMENT if on_time else newest)
    return [*islice(takewhile(lambda fire: fire > window, late), limit)][::-1]


@dataclass(frozen=True, slots=True)
class Span:
    """The fire times from `first` to `last`; `count` is UNKNOWN beyond COUNTED."""

    first: datetime
    last: datetime
    count: int


def _spans(trigger: Trigger, after: datetime, until: datetime) -> list[Span]:
    """The fire times later than `after` up to `until` as one span; an empty list where there are none."""
    first = next_after(trigger, after) if after < until else None
    if first is None or first > until:
        return []
    newest_first = takewhile(lambda fire: fire > after, trigger.until(until))
    count = sum(1 for _ in islice(newest_first, COUNTED + 1))
    last = newest_until(trigger, until)
    assert last is not None
    return [Span(first, last, count if count <= COUNTED else UNKNOWN)]


def _pending(job: Job, fire: datetime, now: datetime, *, late: bool) -> Run:
    return _run(job, fire, now, RunTrigger.CATCH_UP if late else RunTrigger.SCHEDULE)


def _missed(job: Job, span: Span, reason: str, now: datetime) -> Run:
    return _ended(job, span, Outcome.MISSED, reason, now)


def _skipped(job: Job, span: Span, now: datetime) -> Run:
    return _ended(job, span, Outcome.SKIPPED, OVERLAP, now)


def _ended(job: Job, span: Span, outcome: Outcome, reason: str, now: datetime) -> Run:
    """A run that never starts: the record that its fire times passed."""
    return replace(
        _run(job, span.first, now, RunTrigger.SCHEDULE),
        fire_until=span.last if span.count != 1 else None,
        fire_count=span.count,
        state=State.FINISHED,
        outcome=outcome,
        reason=reason,
        finished_at=now,
    )


def _run(job: Job, fire: datetime, now: datetime, trigger: RunTrigger) -> Run:
    return Run(
        id=new_run_id(now),
        job=job.name,
        claim=f"at:{utc_text(fire)}",
        plugin=job.plugin,
        trigger=trigger,
        created_at=now,
        instance=job.instance,
        identity=job.identity,
        fire_at=fire,
        priority=job.priority,
    )


def merge(runs: Sequence[Run], last: Mapping[str, Run]) -> tuple[list[Run], list[Growth]]:
    """Let a skip or miss that continues the job's last run become part of it; `last` holds the newest run of jobs.

    Returns the runs that remain to be written, and how far earlier ones grow.
    """
    fresh: list[Run] = []
    growths: list[Growth] = []
    seen: set[str] = set()
    for run in runs:
        before = last.get(run.job) if run.job not in seen else None
        seen.add(run.job)
        if before is None or not _continues(run, before):
            fresh.append(run)
            continue
        until = run.fire_until or run.fire_at
        assert until is not None
        known = before.fire_count != UNKNOWN and run.fire_count != UNKNOWN
        count = before.fire_count + run.fire_count if known else UNKNOWN
        growths.append(Growth(before.id, until, count, run.created_at))
    return fresh, growths


def _continues(run: Run, before: Run) -> bool:
    return (
        run.outcome in (Outcome.SKIPPED, Outcome.MISSED)
        and (run.outcome, run.reason) == (before.outcome, before.reason)
        and before.fire_at is not None
    )
