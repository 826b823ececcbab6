"""The planner: from timetables, marks and the time, what is due, caught up, missed and skipped. Pure.

Fire times up to a job's mark are in the ledger. One is due when its delay has passed too, and *late* when more
than the grace has passed since. A nominal time on a day of the blackout is skipped, or kept for its end. Of the
others that are due at one look only the newest can be on time; for the rest, and for a newest that is late,
`catch_up` decides. What passes without a run is kept as ranges, found from both their ends, so a long downtime
costs no more than a short one.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain, islice, pairwise, takewhile
from typing import Any

from erpsync.core.calendar import blackout_end, next_blackout
from erpsync.core.job import Job, new_run
from erpsync.core.run import Outcome, Run, RunTrigger, State, utc_text
from erpsync.scheduling.timetable import Timetable, read_schedule
from erpsync.scheduling.trigger import MOMENT, Trigger, newest_until, next_after
from erpsync.store.ledger import Growth
from erpsync.store.marks import Mark
from erpsync.store.pauses import Pause

CORRECTION = timedelta(hours=3)
"""A clock set back by more than this was wrong before: marks return to it. By less: they hold."""
COUNTED = 1000
"""Fire times of a range are counted up to this many; beyond it the count is UNKNOWN."""
UNKNOWN = -1
_STEPS = 5 * COUNTED  # fire times counted in all ranges of one job and look

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
IDENTITY = "identity"
"""Skipped: the job's identity is a person who has to sign in first."""
PARKED = "parked"
"""Skipped: the job cannot run as things are: its plugin, its settings or a secret."""


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


@dataclass(frozen=True, slots=True)
class Span:
    """The fire times from `first` to `last`; `count` is UNKNOWN beyond COUNTED."""

    first: datetime
    last: datetime
    count: int = UNKNOWN


def span_of(trigger: Trigger, after: datetime, until: datetime, most: int = COUNTED) -> Span | None:
    """The fire times later than `after` up to `until`, counted up to `most`; None where there are none."""
    first = next_after(trigger, after) if after < until else None
    if first is None or first > until:
        return None
    newest_first = _until(trigger, until, after)
    last = next(newest_first)
    count = 1 + sum(1 for _ in islice(newest_first, most))
    return Span(first, last, count if count <= most else UNKNOWN)


def plan(
    timetables: Iterable[Timetable],
    marks: Mapping[str, Mark],
    live: Mapping[str, int],
    now: datetime,
    *,
    resumed: Mapping[str, Pause] | None = None,
    taken: Mapping[str, Sequence[Span]] | None = None,
    unable: Mapping[str, str] | None = None,
    parked: Mapping[str, datetime] | None = None,
) -> Plan:
    """What `now` asks for; `live` counts each job's runs that are claimed and not finished.

    `unable` says of jobs that cannot run as things are why their fire times are skipped. `parked` are jobs that could
    not since then and can again.

    `resumed` are pauses that have ended. `taken` are the spans that the ledger holds beyond a job's mark; they
    are nobody's any more.
    """
    runs: list[Run] = []
    fresh: list[Mark] = []
    corrected: list[Mark] = []
    for table in timetables:
        name = table.job.name
        mark = marks.get(name)
        if mark is not None and mark.until - now > CORRECTION:
            corrected.append(mark)
        look = _Look(
            table,
            live.get(name, 0),
            now,
            (resumed or {}).get(name),
            tuple((taken or {}).get(name, ())),
            (unable or {}).get(name),
            (parked or {}).get(name),
        )
        found, until = _plan_job(look, mark)
        runs += found
        if until is not None:
            former = mark.with_schedule(table.schedule, now) if mark else ()
            fresh.append(Mark(name, table.schedule, until, former))
    return Plan(tuple(runs), tuple(fresh), tuple(corrected))


@dataclass(frozen=True, slots=True)
class _Look:
    """One job as it is looked at."""

    table: Timetable
    live: int
    now: datetime
    pause: Pause | None
    taken: Sequence[Span]  # in order, and apart, once they are joined
    unable: str | None
    parked_since: datetime | None

    @property
    def horizon(self) -> datetime:
        """Fire times up to here are due; each is as late as it lies before this."""
        return self.now - self.table.delay

    def is_taken(self, instant: datetime) -> bool:
        begun = bisect_right(self.taken, instant, key=lambda span: span.first)
        return begun > 0 and instant <= self.taken[begun - 1].last

    def within(self, trigger: Trigger, after: datetime, until: datetime) -> "_Look":
        """The same look at some time: what is taken of it in order, neighbours by the trigger as one."""
        taken = [span for span in self.taken if after < span.last and span.first <= until]
        return replace(self, taken=_joined(trigger, taken)) if taken else self

    def is_dark(self, instant: datetime) -> bool:
        job = self.table.job
        return job.on_blackout == "skip" and blackout_end(job, instant) is not None

    def is_paused(self, instant: datetime) -> bool:
        pause = self.pause
        return pause is not None and pause.since <= instant + self.table.delay < (pause.until or self.now)

    def is_parked(self, instant: datetime) -> bool:
        return self.parked_since is not None and self.parked_since <= instant


def _plan_job(look: _Look, mark: Mark | None) -> tuple[Sequence[Run], datetime | None]:
    """The runs of one job and where its mark goes; None: it stays."""
    table, now = look.table, look.now
    if mark is None:
        return (), now if table.schedule else None
    if mark.schedule != table.schedule:
        return _abandoned(look, mark), now
    if mark.until - now > CORRECTION:
        return (), now
    newest = newest_until(table.trigger, look.horizon)
    if newest is None or newest <= mark.until:
        return (), None
    return _due(look, mark.until, newest), newest


def _abandoned(look: _Look, mark: Mark) -> Sequence[Run]:
    """The open span of a schedule that is no longer in force."""
    job, now = look.table.job, look.now
    try:
        old = read_schedule(mark.schedule)
    except ValueError:  # a newer version wrote it: that something may be missing is all we know
        span = Span(mark.until + MOMENT, now)
        return [_ended(job, span, Outcome.MISSED, SCHEDULE_CHANGED, now)]
    record, look = _Record(look, old), look.within(old, mark.until, now)
    for low, high in _stretches(look, mark.until, now):
        if look.is_taken(high):
            record.interrupt()
        else:
            record.passed(low, high, Outcome.MISSED, SCHEDULE_CHANGED)
    return record.runs()


def _due(look: _Look, after: datetime, newest: datetime) -> Sequence[Run]:
    """The runs for the fire times later than `after` up to `newest`, the oldest first."""
    job, trigger = look.table.job, look.table.trigger
    look = look.within(trigger, after, newest)
    stretches = _stretches(look, after, newest)
    # what may be caught up is later than this
    window = max(after, look.horizon - job.catch_up_window - MOMENT)
    chosen, on_time = _chosen(look, _open_fires(look, stretches, newest), window)
    before = (chosen[0] if chosen else newest + MOMENT) - MOMENT  # up to here nothing runs
    border = min(window, before)
    admitted = 0 if look.unable else room(job, look.live, len(chosen))
    reason = look.unable or OVERLAP
    record = _Record(look, trigger)
    for low, high in _split(stretches, (before, border)):
        is_open = not look.is_dark(high)
        if look.is_taken(high):
            record.interrupt()
        elif is_open and low >= before:
            mine = [(number, fire) for number, fire in enumerate(chosen) if low < fire <= high]
            for number, fire in mine:
                late = number < len(chosen) - 1 or not on_time
                record.claimed(fire, late) if number < admitted else record.skipped(fire, reason)
        elif look.is_paused(high):
            record.passed(low, high, Outcome.SKIPPED, PAUSED)
        elif look.is_parked(high):
            record.passed(low, high, Outcome.SKIPPED, PARKED)
        elif not is_open:
            record.passed(low, high, Outcome.SKIPPED, BLACKOUT)
        else:
            record.passed(low, high, Outcome.MISSED, _miss(job, high <= border))
    return record.runs()


def _miss(job: Job, outside_window: bool) -> str:
    if job.catch_up == "none":
        return CATCH_UP_NONE
    if outside_window:
        return CATCH_UP_WINDOW
    return LATE if job.catch_up == "last" else CATCH_UP_LIMIT


def _chosen(look: _Look, fires: Iterator[datetime], window: datetime) -> tuple[list[datetime], bool]:
    """Of the fire times that may run, the newest first, those that do, the oldest first; is the last one on time?"""
    job = look.table.job
    newest = next(fires, None)
    if newest is None:
        return [], False
    on_time = newest >= look.horizon - job.grace
    if job.catch_up == "none" or (job.catch_up == "last" and on_time):
        return ([newest] if on_time else []), on_time
    limit = 1 if job.catch_up == "last" else job.catch_up_limit
    late = fires if on_time else chain((newest,), fires)
    found = [*islice(takewhile(lambda fire: fire > window, late), limit)][::-1]
    return ([*found, newest] if on_time else found), on_time


def _open_fires(
    look: _Look, stretches: Sequence[tuple[datetime, datetime]], newest: datetime
) -> Iterator[datetime]:
    """The fire times that may run, the newest first."""
    for low, high in reversed(stretches):
        if look.is_taken(high) or look.is_dark(high):
            continue
        if high == newest:  # known to be one
            yield newest
            high -= MOMENT
        yield from _until(look.table.trigger, high, low)


def _joined(trigger: Trigger, spans: Iterable[Span]) -> list[Span]:
    """These spans in order; those between which no fire time lies are one, of unknown size."""
    joined: list[Span] = []
    fires: Iterator[datetime] = iter(())
    for span in sorted(spans, key=lambda span: span.first):
        last = joined[-1] if joined else None
        following = next(fires, None)
        if last is not None and (following is None or span.first <= following):
            joined[-1] = Span(last.first, max(last.last, span.last))
        else:
            joined.append(span)
        if following != joined[-1].last:  # else the walk is there already
            fires = trigger.after(joined[-1].last)
    return joined


def _until(trigger: Trigger, high: datetime, low: datetime) -> Iterator[datetime]:
    """The fire times up to `high` and later than `low`, the newest first."""
    return takewhile(lambda fire: fire > low, trigger.until(high))


def _stretches(look: _Look, after: datetime, until: datetime) -> list[tuple[datetime, datetime]]:
    """The time later than `after` up to `until`, cut wherever a blackout, a pause, a parked or a taken span begins
    or ends."""
    cuts = [cut for span in look.taken for cut in (span.first - MOMENT, span.last)]
    job, pause, delay = look.table.job, look.pause, look.table.delay
    if pause is not None:
        cuts += [instant - delay - MOMENT for instant in (pause.since, pause.until or look.now)]
    if look.parked_since is not None:
        cuts.append(look.parked_since - MOMENT)
    at: datetime | None = after + MOMENT
    while job.blackout and job.on_blackout == "skip" and at is not None and at <= until:
        at = blackout_end(job, at) or next_blackout(job, at, until + MOMENT)
        cuts += [at - MOMENT] if at is not None else []
    return _split([(after, until)], cuts)


def _split(
    stretches: Sequence[tuple[datetime, datetime]], cuts: Iterable[datetime]
) -> list[tuple[datetime, datetime]]:
    """Adjoining stretches of time (their beginnings excluded), cut at some more instants."""
    first, last = stretches[0][0], stretches[-1][1]
    inner = {low for low, _ in stretches[1:]} | {cut for cut in cuts if first < cut < last}
    return [*pairwise([first, *sorted(inner), last])]


class _Record:
    """The runs of one job as they are found, the oldest first; neighbours with one fate are one range."""

    def __init__(self, look: _Look, trigger: Trigger) -> None:
        self._job = look.table.job
        self._now = look.now
        self._trigger = trigger
        self._steps = _STEPS
        self._runs: list[Run] = []
        self._growing = False

    def claimed(self, fire: datetime, late: bool) -> None:
        """A fire time that runs."""
        trigger = RunTrigger.CATCH_UP if late else RunTrigger.SCHEDULE
        self._runs.append(_run(self._job, fire, self._now, trigger))
        self._growing = False

    def skipped(self, fire: datetime, reason: str) -> None:
        """A fire time that would run if no other run lived, and the job were able to."""
        self._add(Span(fire, fire, 1), Outcome.SKIPPED, reason)

    def passed(self, low: datetime, high: datetime, outcome: Outcome, reason: str) -> None:
        """What lies later than `low` and up to `high`, if anything, does not run."""
        span = self._span(low, high)
        if span is not None:
            self._add(span, outcome, reason)

    def interrupt(self) -> None:
        """Here lies what somebody else has: no range goes across."""
        self._growing = False

    def runs(self) -> list[Run]:
        return self._runs

    def _add(self, span: Span, outcome: Outcome, reason: str) -> None:
        last = self._runs[-1] if self._growing else None
        if last is None or (last.outcome, last.reason) != (outcome, reason):
            self._runs.append(_ended(self._job, span, outcome, reason, self._now))
            self._growing = True
            return
        known = UNKNOWN not in (last.fire_count, span.count)
        count = last.fire_count + span.count if known else UNKNOWN
        self._runs[-1] = replace(last, fire_until=span.last, fire_count=count)

    def _span(self, after: datetime, until: datetime) -> Span | None:
        most = min(COUNTED, self._steps)
        span = span_of(self._trigger, after, until, most)
        if span is not None:
            self._steps -= most if span.count == UNKNOWN else span.count
        return span


def _ended(job: Job, span: Span, outcome: Outcome, reason: str, now: datetime) -> Run:
    """A run that never starts: the record that its fire times passed."""
    return _run(
        job,
        span.first,
        now,
        RunTrigger.SCHEDULE,
        fire_until=span.last if span.count != 1 else None,
        fire_count=span.count,
        state=State.FINISHED,
        outcome=outcome,
        reason=reason,
        finished_at=now,
    )


def _run(job: Job, fire: datetime, now: datetime, trigger: RunTrigger, **more: Any) -> Run:
    return new_run(job, f"at:{utc_text(fire)}", trigger, now, fire_at=fire, **more)


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
    """Whether both are of one kind (fire times, or what comes after others), have one fate and follow each other."""
    return (
        run.outcome in (Outcome.SKIPPED, Outcome.MISSED)
        and run.claim.partition(":")[0] == before.claim.partition(":")[0]
        and (run.outcome, run.reason) == (before.outcome, before.reason)
        and before.fire_at is not None
        and run.fire_at is not None
        and (before.fire_until or before.fire_at)
        <= run.fire_at  # else the clock was corrected between the two
    )
