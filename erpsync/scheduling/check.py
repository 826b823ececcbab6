"""Checking schedules before they are in force: what is not valid, and what will not go as one may think."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache, partial
from zoneinfo import ZoneInfo

from erpsync.config.configuration import Configuration
from erpsync.core.calendar import blackout_end, next_blackout, opens_at, window_end
from erpsync.core.clock import SystemClock
from erpsync.core.duration import format_duration
from erpsync.core.job import After, At, Cron, Dst, Job, Manual
from erpsync.core.problem import Problem
from erpsync.scheduling.cron import CronTrigger
from erpsync.scheduling.explain import latest_start, next_start
from erpsync.scheduling.gap import parts_of, shortest_gap
from erpsync.scheduling.lineage import parents_first, parents_of
from erpsync.scheduling.timetable import Timetable, timetable
from erpsync.scheduling.trigger import MOMENT, Trigger, build_schedule, combine, newest_until, next_after
from erpsync.scheduling.zone import clock_changes, find_zone

BAD_CRON = "E301"
BAD_INTERVAL = "E302"
NEVER_FIRES = "W301"
CLOCK_CHANGE = "W302"
LONG_TIMEOUT = "W303"
SHORT_WINDOW = "W304"
SHORT_START_BY = "W305"
CODES = {
    BAD_CRON: "a cron expression is not valid",
    BAD_INTERVAL: "an interval is not valid",
    NEVER_FIRES: "a schedule has no fire time in the future, or never one that may start",
    CLOCK_CHANGE: "a time of day falls into a clock change within twelve months",
    LONG_TIMEOUT: "a time-out is longer than the time between two fire times",
    SHORT_WINDOW: "a run cannot end within its window",
    SHORT_START_BY: "the latest start is over before the window opens",
}
"""One stable code for each kind of problem that this room finds."""
_YEAR, _DAY = timedelta(days=366), timedelta(days=1)

Doubt = tuple[str, str, str]
"""A code, the key it is about, and what to say."""


def schedule_problems(configuration: Configuration, *, now: datetime | None = None) -> list[Problem]:
    """All problems of all jobs' schedules; what many jobs share is said once.

    What is doubted is a property of the configuration: at another hour of the day it is the same.
    """
    instant = now or SystemClock().now()
    problems: list[Problem] = []
    tables: list[Timetable] = []
    for job in configuration.jobs.values():
        faults = [*_faults(configuration, job)]
        problems += faults
        if job.enabled and job.schedules and not faults:
            tables.append(timetable(job))
    dead = _never_due(configuration.jobs, tables, instant)
    named = {table.job.name: table for table in tables}
    for table in tables:
        for code, key, message in (*_doubts(table, instant, dead), *_follower_doubts(table, named, instant)):
            problems.append(_warning(configuration, table.job, code, key, message))
    problems += _long_timeouts(configuration, tables, instant)
    return list(dict.fromkeys(problems))


def schedule_faults(configuration: Configuration) -> list[Problem]:
    """The errors among the problems of all jobs' schedules, in a tenth of the time."""
    faults = (fault for job in configuration.jobs.values() for fault in _faults(configuration, job))
    return list(dict.fromkeys(faults))


def _warning(configuration: Configuration, job: Job, code: str, key: str, message: str) -> Problem:
    return configuration.place(
        job.name, key, code=code, severity="warning", message=message, help=_HELP[code]
    )


def _faults(configuration: Configuration, job: Job) -> Iterator[Problem]:
    for schedule in job.schedules:
        try:
            build_schedule(schedule, job.timezone, job.dst)
        except ValueError as error:
            code = BAD_CRON if isinstance(schedule, Cron) else BAD_INTERVAL
            yield configuration.place(job.name, "schedule", code=code, message=str(error), help=_HELP[code])


def _never_due(jobs: Mapping[str, Job], tables: Iterable[Timetable], now: datetime) -> frozenset[str]:
    """The jobs that neither fire from now on nor come after any that do; who is started by hand may run."""
    dead = {name for name, job in jobs.items() if not job.enabled}
    waiting = {
        table.job.name: table.job
        for table in tables
        if next_after(table.trigger, now) is None and Manual() not in table.job.schedules
    }
    for job in parents_first(waiting):
        if not _comes_after_living(job, dead):
            dead.add(job.name)
    return frozenset(dead)


def _comes_after_living(job: Job, dead: Container[str]) -> bool:
    afters = [schedule for schedule in job.schedules if isinstance(schedule, After)]
    return any(all(parent not in dead for parent in after.jobs) for after in afters)


def _doubts(table: Timetable, now: datetime, dead: Container[str]) -> Iterator[Doubt]:
    """What is valid and may not be meant; `dead` are the jobs that are never due."""
    job = table.job
    doubts = [*_window_doubts(table, now)] if job.window is not None else []
    yield from doubts
    if not table.schedule:
        if job.name in dead:
            parent = next(each for each in parents_of(job) if each in dead)
            yield NEVER_FIRES, "schedule", f"it comes after {parent}, which never fires"
        return
    fire = next_after(table.trigger, now)
    if fire is None:
        yield NEVER_FIRES, "schedule", "this schedule never fires from now on"
        return
    missed = any(code == SHORT_START_BY for code, _, _ in doubts)
    if (job.blackout or job.window) and not missed and next_start(table, fire) is None:
        why = "none of its fire times may start: its blackout or its window forbids them"
        yield NEVER_FIRES, "schedule", why
        return
    for schedule in job.schedules:
        if isinstance(schedule, Cron | At):
            part = combine([schedule], job.timezone, job.dst, job.start, job.end)
            if next_after(part, now) is None:
                written = schedule.expression if isinstance(schedule, Cron) else schedule.at.isoformat()
                yield NEVER_FIRES, "schedule", f'"{written}" never fires from now on'
        if isinstance(schedule, Cron):
            zone, dst = schedule.timezone or job.timezone, schedule.dst or job.dst
            since, until = max(now, job.start or now), min(now + _YEAR, job.end or now + _YEAR)
            changes = [
                f"{day} ({what})"
                for at, day, what in _clock_changes(schedule.expression, zone, dst, since, until)
                if blackout_end(job, at) is None
            ]
            if changes:
                text = f'"{schedule.expression}" falls into the clock change of {", ".join(changes)}'
                yield CLOCK_CHANGE, "schedule", text


# -- time-outs ----------------------------------------------------------------------------------------


def _long_timeouts(
    configuration: Configuration, tables: Iterable[Timetable], now: datetime
) -> Iterator[Problem]:
    """Jobs that may still be running when they are due again; that of [defaults] is said once."""
    shared: list[tuple[timedelta, Job]] = []
    named = {table.job.name: table for table in tables}
    gaps = _gaps(named, now)
    for table in named.values():
        job = table.job
        gap = gaps.get(job.name) if job.overlap != "allow" else None
        if gap is None or gap >= job.timeout:
            continue
        if configuration.origin(job, "timeout").layer == "defaults":
            shared.append((gap, job))
        else:
            of = "fire times" if table.schedule else f"runs of {' and '.join(parents_of(job))}"
            between = f"{format_duration(gap)} between {of}"
            timeout = f"the time-out of {format_duration(job.timeout)}"
            message = f"{timeout} is longer than the {between}: {_cost([job])}"
            yield _warning(configuration, job, LONG_TIMEOUT, "timeout", message)
    if shared:
        gap, job = min(shared, key=lambda each: each[0])
        between = f"{format_duration(gap)} between fire times of {job.name}"
        more = f", and too long for {len(shared) - 1} more" if len(shared) > 1 else ""
        timeout = f"the time-out of {format_duration(job.timeout)} in [defaults]"
        message = f"{timeout} is longer than the {between}{more}: {_cost(each for _, each in shared)}"
        yield _warning(configuration, job, LONG_TIMEOUT, "timeout", message)


def _cost(jobs: Iterable[Job]) -> str:
    """What a run that hangs until its time-out does to those that are due meanwhile."""
    if all(job.overlap == "replace" for job in jobs):
        return "the next run replaces one that hangs before"
    return "a run that hangs costs the next ones"


def _gaps(tables: Mapping[str, Timetable], now: datetime) -> dict[str, timedelta | None]:
    """The shortest time between two runs of each job; None where it has no two, or no time-out is as long."""
    order = [*parents_first({name: table.job for name, table in tables.items()})]
    longest = {job.name: job.timeout for job in order}  # time-out of a job and of all that come after it
    for job in reversed(order):
        for parent in parents_of(job):
            if parent in longest:
                longest[parent] = max(longest[parent], longest[job.name])
    gaps: dict[str, timedelta | None] = {}
    for job in order:
        own = shortest_gap(tables[job.name].schedule, now, unless=longest[job.name])
        gaps[job.name] = _shortest([own, *_gaps_of_parents(job, gaps)])
    return gaps


def _gaps_of_parents(job: Job, gaps: Mapping[str, timedelta | None]) -> Iterator[timedelta | None]:
    """It runs as often as all those of one `after` have run, which is as often as the rarest of them."""
    for after in job.schedules:
        if isinstance(after, After):
            each = [gaps[parent] for parent in after.jobs if parent in gaps]
            yield max((gap for gap in each if gap is not None), default=None) if None not in each else None


def _shortest(gaps: Iterable[timedelta | None]) -> timedelta | None:
    return min((gap for gap in gaps if gap is not None), default=None)


# -- windows ------------------------------------------------------------------------------------------


def _window_doubts(table: Timetable, now: datetime) -> Iterator[Doubt]:
    """Whether runs can end within the window, and whether those that are due outside of it live to see it.

    Each single schedule is looked at on the first day from today on that has fire times, for another day has the
    same, but for those that are looked at too: around the clock changes of a year and before its blackouts.
    """
    window, job = table.job.window, table.job
    assert window is not None
    length = (_since_midnight(window.closes) - _since_midnight(window.opens)) % _DAY or _DAY
    least, of = length, ""
    late = None
    today = _today(now)
    changes = [*clock_changes(ZoneInfo(job.timezone), today, today + _YEAR)]
    for part in parts_of(table.trigger):
        for since in (today, *(change - _DAY for change in changes)):
            wall = partial(_wall, job, dated=since is not today)
            first = next_after(part, since - MOMENT)
            late = late or _missed(table, replace(job, blackout=()), first, wall)
            for closes in _closings(table, part, since):
                last = newest_until(part, closes - table.delay - MOMENT)
                left = _left(table, last) if last is not None else None
                if left is not None and left < least:
                    least, of = left, wall(last or closes)
                fire = next_after(part, closes - table.delay - MOMENT)
                late = late or _missed(table, replace(job, blackout=()), fire, wall)
        for fire in _before_blackouts(table, part, today):
            late = late or _missed(table, job, fire, partial(_wall, job, dated=True))
    needed = job.expected_duration or job.timeout
    if needed > least:
        what = "expected duration" if job.expected_duration else "time-out"
        room = (
            f"the fire time {of} has {format_duration(least)} left of its window, less"
            if of
            else (f"the window is open for {format_duration(length)}, shorter")
        )
        yield SHORT_WINDOW, "window", f"{room} than the {what} of {format_duration(needed)}"
    if late is not None:
        yield SHORT_START_BY, "start_by" if job.start_by else "window", late


def _closings(table: Timetable, part: Trigger, since: datetime) -> Iterator[datetime]:
    """The first two ends of the window after the first fire time of a schedule."""
    fire, job = next_after(part, since - MOMENT), replace(table.job, blackout=())
    at = fire + table.delay if fire is not None else None
    for _ in range(2):
        opening = opens_at(job, at) if at is not None else None
        at = opening.at if opening is not None else at
        at = window_end(job, at) if at is not None else None
        if at is not None:
            yield at


def _left(table: Timetable, fire: datetime) -> timedelta | None:
    """What is left of the window when a fire time starts, which may wait for it; None where it never opens."""
    due, job = fire + table.delay, replace(table.job, blackout=())
    opening = opens_at(job, due)
    start = due if opening is None else opening.at
    end = window_end(job, start) if start is not None else None
    return end - start if start is not None and end is not None else None


def _before_blackouts(table: Timetable, part: Trigger, since: datetime) -> Iterator[datetime]:
    """The last fire time of a schedule before each blackout of a year."""
    job, at = table.job, since
    while (begin := next_blackout(job, at, since + _YEAR)) is not None:
        fire = newest_until(part, begin - table.delay - MOMENT)
        if fire is not None and blackout_end(job, fire) is None:
            yield fire
        at = blackout_end(job, begin) or begin + _DAY


def _missed(table: Timetable, job: Job, fire: datetime | None, wall: Callable[[datetime], str]) -> str | None:
    """What becomes of a fire time that does not live to see its window open; None where it does."""
    opening = opens_at(job, fire + table.delay) if fire is not None else None
    if fire is None or opening is None or opening.at is None:
        return None
    due, deadline = fire + table.delay, latest_start(job, table.trigger, fire, table.delay)
    if opening.at < deadline:
        return None
    waits, after = format_duration(opening.at - due), format_duration(deadline - due)
    return f"the fire time {wall(fire)} waits {waits} for its window, and is missed after {after}"


def _follower_doubts(table: Timetable, tables: Mapping[str, Timetable], now: datetime) -> Iterator[Doubt]:
    """Whether what comes after one job lives to see its window, whenever its parent ends; said of the first that
    does not, by the first fire time of a day."""
    job = replace(table.job, blackout=())
    if job.window is None or job.start_by is None:
        return
    alone = [after.jobs[0] for after in job.schedules if isinstance(after, After) and len(after.jobs) == 1]
    for parent in (tables[name] for name in alone if name in tables):
        fires = (next_after(part, _today(now) - MOMENT) for part in parts_of(parent.trigger))
        for fire in filter(None, fires):
            waits = _least_wait(job, parent, fire)
            if waits is not None and waits >= job.start_by:
                due = f"what comes after {parent.job.name}, due at {_wall(parent.job, fire, dated=False)},"
                fate = f"and is missed after {format_duration(job.start_by)}"
                text = f"{due} waits {format_duration(waits)} at least for its window, {fate}"
                yield SHORT_START_BY, "start_by", text
                return


def _least_wait(job: Job, parent: Timetable, fire: datetime) -> timedelta | None:
    """How long a job waits for its window at least after its parent's run; None: the window may be open by then."""
    opening = opens_at(parent.job, fire + parent.delay)
    start = fire + parent.delay if opening is None else opening.at
    if start is None:
        return None
    again = parent.job.retry.budget if parent.job.retry.attempts > 1 else timedelta(0)
    end = start + parent.job.timeout + again
    early, late = opens_at(job, start), opens_at(job, end)
    if early is None or late is None or late.at is None or early.at != late.at:
        return None
    return late.at - end


def _wall(job: Job, fire: datetime, *, dated: bool) -> str:
    at = fire.astimezone(ZoneInfo(job.timezone))
    return at.time().isoformat("minutes") + (f" of {at.date()}" if dated else "")


def _today(now: datetime) -> datetime:
    return datetime.combine(now.astimezone(UTC).date(), time(), UTC)


def _since_midnight(wall: time) -> timedelta:
    return datetime.combine(date.min, wall) - datetime.combine(date.min, time())


# -- clock changes ------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _clock_changes(
    expression: str, zone: str, dst: Dst, since: datetime, until: datetime
) -> tuple[tuple[datetime, date, str], ...]:
    """Each clock change in that time that an expression falls into: when, on which day, and what happens."""
    trigger = CronTrigger(expression, find_zone(zone), dst)
    changes = trigger.clock_changes(since, until)
    return tuple((at, at.astimezone(trigger.zone).date(), what) for at, what in changes)


_HELP = {
    BAD_CRON: "try it: erpsync next --expr '30 3 * * MON-FRI' --tz Europe/Sofia",
    BAD_INTERVAL: 'an interval looks like { every = "15m", offset = "2m" }',
    NEVER_FIRES: 'look at its dates, start and end; a job that runs only when asked has schedule = "manual"',
    CLOCK_CHANGE: "choose a time outside the changed hour, or say what you want with dst; `erpsync next` shows it",
    LONG_TIMEOUT: "a shorter timeout, or fire times further apart",
    SHORT_WINDOW: 'a longer window, a shorter timeout, or expected_duration; at_end = "checkpoint" goes on next time',
    SHORT_START_BY: "fire times inside the window, or a longer start_by: without one it is the next fire time",
}
