"""Checking schedules before they are in force: what is not valid, and what will not go as one may think."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

from erpsync.config.configuration import Configuration
from erpsync.core.calendar import opens_at
from erpsync.core.clock import SystemClock
from erpsync.core.duration import format_duration
from erpsync.core.job import After, Cron, Dst, Job, Manual
from erpsync.core.problem import Problem
from erpsync.scheduling.cron import CronTrigger
from erpsync.scheduling.explain import next_start
from erpsync.scheduling.timetable import Timetable, read_schedule, timetable
from erpsync.scheduling.trigger import build_schedule, next_after
from erpsync.scheduling.zone import find_zone

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
    CLOCK_CHANGE: "a fixed time falls into a clock change within twelve months",
    LONG_TIMEOUT: "a time-out is longer than the time between two fire times",
    SHORT_WINDOW: "a run cannot end within its window",
    SHORT_START_BY: "start_by is over before the window opens",
}
"""One stable code for each kind of problem that this room finds."""
_YEAR = timedelta(days=366)
_LOOKED_AT = 5  # fire times that stand for all of a schedule


def schedule_problems(configuration: Configuration, *, now: datetime | None = None) -> list[Problem]:
    """All problems of all jobs' schedules; what many jobs share by their definition is said once."""
    instant = now or SystemClock().now()
    found = (
        problem
        for job in configuration.jobs.values()
        for problem in _job_problems(configuration, job, instant)
    )
    return list(dict.fromkeys(found))


def _job_problems(configuration: Configuration, job: Job, now: datetime) -> Iterator[Problem]:
    valid = True
    for schedule in job.schedules:
        try:
            build_schedule(schedule, job.timezone, job.dst)
        except ValueError as error:
            valid = False
            code = BAD_CRON if isinstance(schedule, Cron) else BAD_INTERVAL
            yield configuration.place(job.name, "schedule", code=code, message=str(error), help=_HELP[code])
    if valid and job.enabled:
        for code, message in _doubts(job, now):
            yield configuration.place(
                job.name, _KEYS[code], code=code, severity="warning", message=message, help=_HELP[code]
            )


def _doubts(job: Job, now: datetime) -> Iterator[tuple[str, str]]:
    """What is valid and may not be meant: codes and messages."""
    yield from _window_doubts(job)
    if all(isinstance(schedule, Manual | After) for schedule in job.schedules):
        return
    table = timetable(job)
    fire = next_after(table.trigger, now)
    if fire is None:
        yield NEVER_FIRES, "this schedule never fires from now on"
        return
    if (job.blackout or job.window) and next_start(table, fire) is None:
        yield NEVER_FIRES, "none of its fire times may start: its blackout or its window forbids them"
        return
    for schedule in job.schedules:
        if isinstance(schedule, Cron):
            zone, dst = schedule.timezone or job.timezone, schedule.dst or job.dst
            if changes := _clock_changes(schedule.expression, zone, dst, now):
                yield CLOCK_CHANGE, changes
    interval = _interval(table.schedule, now)
    if interval is not None and interval < job.timeout and job.overlap != "allow":
        timeout, every = format_duration(job.timeout), format_duration(interval)
        yield (
            LONG_TIMEOUT,
            f"the time-out of {timeout} is longer than the {every} between fire times: "
            "a run that hangs costs the next ones",
        )
    yield from _start_by_doubts(table, now)


def _window_doubts(job: Job) -> Iterator[tuple[str, str]]:
    window, needed = job.window, job.expected_duration or job.timeout
    if window is None:
        return
    opens, closes = (
        timedelta(hours=edge.hour, minutes=edge.minute, seconds=edge.second)
        for edge in (window.opens, window.closes)
    )
    length = (closes - opens) % timedelta(days=1)
    if needed > length:
        what = "expected duration" if job.expected_duration else "time-out"
        yield (
            SHORT_WINDOW,
            f"the window is open for {format_duration(length)}, shorter than the {what} of "
            f"{format_duration(needed)}",
        )


def _start_by_doubts(table: Timetable, now: datetime) -> Iterator[tuple[str, str]]:
    job = table.job
    if job.start_by is None or job.window is None:
        return
    for fire in islice(table.trigger.after(now), _LOOKED_AT):
        due = fire + table.delay
        opening = opens_at(job, due)
        if opening is None or opening.reason != "window" or opening.at is None:
            continue
        if opening.at - due > job.start_by:
            when = fire.astimezone(ZoneInfo(job.timezone)).time().isoformat("minutes")
            yield (
                SHORT_START_BY,
                f"the fire time {when} waits {format_duration(opening.at - due)} for its window, and is missed "
                f"after {format_duration(job.start_by)}",
            )
            return


@lru_cache(maxsize=4096)
def _interval(schedule: str, now: datetime) -> timedelta | None:
    """The shortest time between the fire times of a day, from the next one on; None where there is but one."""
    trigger = read_schedule(schedule)
    first = next_after(trigger, now)
    if first is None:
        return None
    day = takewhile(lambda fire: fire <= first + timedelta(days=1), trigger.after(first))
    fires = [first, *islice(day, _LOOKED_AT)]
    return min((later - earlier for earlier, later in pairwise(fires)), default=None)


@lru_cache(maxsize=4096)
def _clock_changes(expression: str, zone: str, dst: Dst, now: datetime) -> str:
    """Each clock change of the next twelve months that an expression falls into, and what happens; empty: none."""
    trigger = CronTrigger(expression, find_zone(zone), dst)
    changes = (
        f"{at.astimezone(trigger.zone).date()} ({what})"
        for at, what in trigger.clock_changes(now, now + _YEAR)
    )
    dates = ", ".join(changes)
    return f'"{expression}" falls into the clock change of {dates}' if dates else ""


_HELP = {
    BAD_CRON: "try it: erpsync next --expr '30 3 * * MON-FRI' --tz Europe/Sofia",
    BAD_INTERVAL: 'an interval looks like { every = "15m", offset = "2m" }',
    NEVER_FIRES: 'look at its dates, start and end; a job that runs only when asked has schedule = "manual"',
    CLOCK_CHANGE: "choose a time outside the changed hour, or say what you want with dst; `erpsync next` shows it",
    LONG_TIMEOUT: "a shorter timeout, or fire times further apart",
    SHORT_WINDOW: 'a longer window, a shorter timeout, or expected_duration; at_end = "checkpoint" goes on next time',
    SHORT_START_BY: "a longer start_by, or fire times nearer to the window",
}
_KEYS = {
    NEVER_FIRES: "schedule",
    CLOCK_CHANGE: "schedule",
    LONG_TIMEOUT: "timeout",
    SHORT_WINDOW: "window",
    SHORT_START_BY: "start_by",
}
