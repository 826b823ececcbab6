"""When a job may start: blackouts, windows and deadlines, as its zone's wall clock shows them. Pure.

A day is blacked out, or a time inside a window, by what the wall clock shows at an instant: where a clock change
leaves times out they never come, where it repeats them they count twice.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from erpsync.core.job import Calendar, Job, Window
from erpsync.core.run import Run, RunTrigger

HORIZON = timedelta(days=400)
"""So far ahead an opening is looked for."""
PATIENCE = timedelta(hours=24)
"""So long a run waits for its first start at most, where the job does not say otherwise."""
_DAY, _SECOND = timedelta(days=1), timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Opening:
    """The first instant at which a start is allowed (None: not within HORIZON), and what forbids it until then."""

    at: datetime | None
    reason: Literal["window", "blackout"]


def covers(calendar: Calendar, day: date) -> bool:
    """Whether a calendar names this day."""
    return (
        day in calendar.dates
        or (day.month, day.day) in calendar.yearly
        or day.weekday() in calendar.weekdays
        or day.day in calendar.month_days
        or (-1 in calendar.month_days and (day + _DAY).day == 1)
    )


def within(window: Window, wall: time) -> bool:
    """Whether a window is open when the wall clock shows `wall`: its beginning included, its end not."""
    if window.opens < window.closes:
        return window.opens <= wall < window.closes
    return wall >= window.opens or wall < window.closes


def blackout_end(job: Job, instant: datetime) -> datetime | None:
    """When the blackout that holds at `instant` ends; None where none holds. It is looked for up to HORIZON ahead."""
    if not job.blackout or not _dark(job, instant):
        return None
    limit = instant + HORIZON
    return _first(job, instant, time(), lambda wall: not _dark_day(job, wall.date()), limit) or limit


def next_blackout(job: Job, instant: datetime, limit: datetime) -> datetime | None:
    """When a blackout holds first, from `instant` on and before `limit`; None: nowhere there."""
    if not job.blackout:
        return None
    return _first(job, instant, time(), lambda wall: _dark_day(job, wall.date()), limit)


def window_end(job: Job, instant: datetime) -> datetime | None:
    """When the window that `instant` lies in closes; None where it lies in none, or the job has none."""
    window = job.window
    if window is None or not within(window, instant.astimezone(ZoneInfo(job.timezone)).time()):
        return None
    limit = instant + HORIZON
    return _first(job, instant, window.closes, lambda wall: not within(window, wall.time()), limit)


def opens_at(job: Job, instant: datetime) -> Opening | None:
    """When a start that is forbidden at `instant` becomes allowed; None: it is allowed now."""
    window = job.window
    if not job.blackout and window is None:
        return None
    dark, limit = bool(job.blackout) and _dark(job, instant), instant + HORIZON
    at: datetime | None = instant
    while at is not None:
        if (end := blackout_end(job, at)) is not None:
            at = end if end < limit else None
        if at is None or window is None:
            break
        opening = _first(job, at, window.opens, lambda wall: within(window, wall.time()), limit)
        if opening == at:
            break
        at = opening
    return None if at == instant else Opening(at, "blackout" if dark else "window")


def open_time(job: Job, start: datetime, end: datetime) -> timedelta:
    """How much of the time from `start` to `end` lies inside the job's window and outside its blackouts."""
    total, at = timedelta(0), start
    while at < end:
        opening = opens_at(job, at)
        if opening is None:
            closes = min(window_end(job, at) or end, next_blackout(job, at, end) or end, end)
            total += closes - at
            at = closes
        else:
            at = opening.at or end
    return total


def spread_delay(name: str, spread: timedelta) -> timedelta:
    """The part of `spread` that belongs to this name: in [0, spread), whole milliseconds, the same for ever."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
    return timedelta(milliseconds=int(share * (spread / timedelta(milliseconds=1))))


def start_deadline(job: Job, run: Run, following: Callable[[datetime], datetime | None]) -> datetime:
    """When a run that has not made its first start is missed; `following` gives the job's next fire time.

    It counts from the fire time and its spread, from the end of the blackout that postponed it, or, where a run
    was caught up or asked for, from its claim. Without `start_by` a scheduled run waits until the next one is due,
    at least for its grace, any other for PATIENCE, which is the most. A slice of a backfill
    waits for as long as it takes.
    """
    if run.trigger is RunTrigger.BACKFILL:
        return datetime.max.replace(tzinfo=UTC)
    since, delay = run.created_at, spread_delay(job.name, job.spread)
    if run.trigger is RunTrigger.SCHEDULE and run.fire_at is not None:
        since = run.fire_at + delay
    if run.fire_at is not None and (end := blackout_end(job, run.fire_at)) is not None:
        since = max(since, end)
    if job.start_by is not None:
        return since + job.start_by
    if run.trigger is RunTrigger.SCHEDULE and (fire := following(since - delay)) is not None:
        return min(max(fire + delay, since + job.grace), since + PATIENCE)
    return since + PATIENCE


def _dark(job: Job, instant: datetime) -> bool:
    return _dark_day(job, instant.astimezone(ZoneInfo(job.timezone)).date())


def _dark_day(job: Job, day: date) -> bool:
    return any(covers(calendar, day) for calendar in job.blackout)


def _first(
    job: Job, start: datetime, edge: time, wanted: Callable[[datetime], bool], limit: datetime
) -> datetime | None:
    """The first instant from `start` on, before `limit`, whose wall clock (naive) is wanted.

    That can change only when the wall clock comes to `edge`, or is set.
    """
    zone, at = ZoneInfo(job.timezone), start.astimezone(UTC)
    while at < limit:
        wall = at.astimezone(zone).replace(tzinfo=None)
        if wanted(wall):
            return at
        turn = datetime.combine(wall.date(), edge)
        there = at + (turn - wall if turn > wall else turn + _DAY - wall)
        at = _change(zone, at, there) or there
    return None


def _change(zone: ZoneInfo, start: datetime, end: datetime) -> datetime | None:
    """The instant (a whole second) after `start`, up to `end`, at which the offset changes; None: it does not."""
    offset = start.astimezone(zone).utcoffset()
    if end.astimezone(zone).utcoffset() == offset:
        return None
    low, high = start.replace(microsecond=0), end.replace(microsecond=0)
    while high - low > _SECOND:
        middle = low + (high - low) // 2 // _SECOND * _SECOND
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high
