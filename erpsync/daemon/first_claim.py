"""How far back a simulation begins: so early that whatever was due before is over by the time looked at. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

from erpsync.core.calendar import PATIENCE, blackout_end, open_time
from erpsync.core.job import Job
from erpsync.daemon.licence_slots import IDLE
from erpsync.daemon.situation import Expected
from erpsync.scheduling.explain import latest_start
from erpsync.scheduling.lineage import parents_first, parents_of
from erpsync.scheduling.timetable import Timetable
from erpsync.scheduling.trigger import MOMENT

_DAY, _YEAR = timedelta(days=1), timedelta(days=366)


def first_claims(
    tables: Mapping[str, Timetable], expected: Mapping[str, Expected], begin: datetime
) -> dict[str, datetime]:
    """By job, from which fire time on one may live on at `begin`, or what comes after it, or its licence slot.

    It is assumed that what waits for slots has its turn within its patience, as everywhere.
    """
    over = dict.fromkeys(tables, begin - IDLE)  # when all is over that must not live on
    found = {}
    for job in reversed([*parents_first({name: table.job for name, table in tables.items()})]):
        started = _started(job, expected[job.name].duration, over[job.name])
        claimed = _claimed(job, started)
        found[job.name] = _first_fire(tables[job.name], claimed, started)
        for parent in parents_of(job):
            if parent in over:
                over[parent] = min(over[parent], claimed)
    return found


def _started(job: Job, duration: timedelta, over: datetime) -> datetime:
    """What starts before this is over by then; what stops at the end of its window goes on in the next one."""
    at = over - duration
    if job.window is not None and job.window.at_end == "checkpoint":
        while open_time(job, at, over) < duration and over - at < _YEAR:
            at -= _DAY
    return at


def _claimed(job: Job, started: datetime) -> datetime:
    """What is claimed before this has started by then, or is missed: it waits from the end of its blackout on."""
    at, zone = started - max(job.start_by or PATIENCE, PATIENCE), ZoneInfo(job.timezone)
    while blackout_end(job, at) is not None and started - at < _YEAR:
        at = datetime.combine(at.astimezone(zone).date(), time(), zone).astimezone(UTC) - MOMENT
    return at


def _first_fire(table: Timetable, claimed: datetime, started: datetime) -> datetime:
    """The first of its fire times after `claimed` that may start after `started`."""
    first = started
    for fire in takewhile(lambda fire: fire + table.delay >= claimed, table.trigger.until(started)):
        if latest_start(table.job, table.trigger, fire, table.delay) <= started:
            break  # deadlines come in the order of fire times
        first = fire
    return first
