"""Checking schedules before they are in force: what is not valid, and what will never fire."""

from collections.abc import Iterator
from datetime import datetime

from erpsync.config.configuration import Configuration
from erpsync.core.clock import SystemClock
from erpsync.core.job import Cron, Job, Manual
from erpsync.core.problem import Problem
from erpsync.scheduling.trigger import build_schedule, build_trigger, next_after

BAD_CRON = "E301"
BAD_INTERVAL = "E302"
NEVER_FIRES = "W301"
CODES = {
    BAD_CRON: "a cron expression is not valid",
    BAD_INTERVAL: "an interval is not valid",
    NEVER_FIRES: "a schedule has no fire time in the future",
}
"""One stable code for each kind of problem that this room finds."""


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
    asked_only = all(isinstance(schedule, Manual) for schedule in job.schedules)
    if valid and job.enabled and not asked_only and next_after(build_trigger(job), now) is None:
        yield configuration.place(
            job.name,
            "schedule",
            code=NEVER_FIRES,
            severity="warning",
            message="this schedule never fires from now on",
            help='look at its dates, start and end; a job that runs only when asked has schedule = "manual"',
        )


_HELP = {
    BAD_CRON: "try it: erpsync next --expr '30 3 * * MON-FRI' --tz Europe/Sofia",
    BAD_INTERVAL: 'an interval looks like { every = "15m", offset = "2m" }',
}
