"""The shortest time between two fire times of a schedule, whenever one asks: a property of the schedule."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, islice, pairwise, takewhile

from erpsync.scheduling.cron import CronTrigger
from erpsync.scheduling.timetable import read_schedule
from erpsync.scheduling.trigger import (
    MOMENT,
    BoundedTrigger,
    EveryTrigger,
    Trigger,
    UnionTrigger,
    newest_until,
    next_after,
)
from erpsync.scheduling.zone import clock_changes

_YEAR, _DAY = timedelta(days=366), timedelta(days=1)
_CLOCK_CHANGE = timedelta(hours=2)  # by so much a change of the clock may bring two times nearer
_TIMES = 1500  # of a day, beyond which they are too many to compare
_IN_A_ROW, _AROUND_A_CHANGE, _OF_ONE_PART = 200, 30, 60  # fire times looked at


def parts_of(trigger: Trigger) -> tuple[Trigger, ...]:
    """The triggers of the single schedules that make up a trigger."""
    match trigger:
        case UnionTrigger(parts):
            return parts
        case BoundedTrigger(inner, start, end):
            return tuple(BoundedTrigger(part, start, end) for part in parts_of(inner))
    return (trigger,)


def shortest_gap(schedule: str, now: datetime, unless: timedelta = timedelta.max) -> timedelta | None:
    """The shortest time between two fire times in the year that begins on the day of `now`, clock changes included.

    None where there are not two, or where it is easily seen to be `unless` at least. `schedule` is a text as
    `schedule_text` writes it. The work is bounded: of many fire times those of the first days, around each clock
    change, and where the single schedules of a list meet stand for all.
    """
    trigger = read_schedule(schedule)
    parts = [part.inner if isinstance(part, BoundedTrigger) else part for part in parts_of(trigger)]
    if len(parts) == 1 and isinstance(parts[0], EveryTrigger):
        return parts[0].every
    bound = _wall_gap(parts)
    if bound is not None and bound - _CLOCK_CHANGE >= unless:
        return None
    return _shortest(schedule, datetime.combine(now.astimezone(UTC).date(), datetime.min.time(), UTC))


def _wall_gap(parts: Sequence[Trigger]) -> timedelta | None:
    """The shortest time that a wall clock can show between two times of these; None where that is not easy to say."""
    crons = [part for part in parts if isinstance(part, CronTrigger) and not part.may_repeat]
    if len(crons) < len(parts) or len({part.zone for part in crons}) != 1:
        return None
    times = sorted({*islice(chain.from_iterable(part.pattern.times_of_day() for part in crons), _TIMES)})
    if not 0 < len(times) < _TIMES:
        return None
    return min(later - earlier for earlier, later in pairwise([*times, times[0] + _DAY]))


@lru_cache(maxsize=4096)
def _shortest(schedule: str, base: datetime) -> timedelta | None:
    trigger = read_schedule(schedule)
    return min((later - earlier for earlier, later in _neighbours(trigger, base)), default=None)


def _neighbours(trigger: Trigger, base: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Fire times that follow each other, wherever they may be nearer than elsewhere."""

    def year(each: Trigger, most: int) -> Iterator[datetime]:
        return islice(takewhile(lambda fire: fire < base + _YEAR, each.after(base - MOMENT)), most)

    yield from pairwise(year(trigger, _IN_A_ROW))
    parts = parts_of(trigger)
    for zone in {part.zone for part in parts}:
        for change in clock_changes(zone, base, base + _YEAR):
            before = [*islice(trigger.until(change), _AROUND_A_CHANGE)][::-1]
            yield from pairwise([*before, *islice(trigger.after(change), _AROUND_A_CHANGE)])
    for part in parts if len(parts) > 1 else ():
        for fire in year(part, _OF_ONE_PART):
            if (before_it := newest_until(trigger, fire - MOMENT)) is not None:
                yield before_it, fire
            if (after_it := next_after(trigger, fire)) is not None:
                yield fire, after_it
