"""Explaining: the next fire times of a trigger as people read them, with the reason of every shift."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import partial
from itertools import count as counted
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from erpsync.core.calendar import HORIZON, blackout_end, covers, opens_at, start_deadline
from erpsync.core.duration import format_duration
from erpsync.core.job import Job
from erpsync.core.run import Run, RunTrigger, utc_text
from erpsync.scheduling.timetable import Timetable
from erpsync.scheduling.trigger import MOMENT, Trigger, newest_until, next_after

_MOST_WAITING = 2000  # fire times that may wait already
_TRIES = 30  # fire times looked at beyond the horizon; 29 February has had every weekday by then


@dataclass(frozen=True, slots=True)
class FireTime:
    """A fire time: `at` in the trigger's zone, `utc` the same instant in UTC, `note` why it lies where it lies."""

    at: datetime
    utc: datetime
    note: str = ""

    def document(self, job: str | None = None) -> dict[str, object]:
        """The public JSON form (design section 4)."""
        return {"job": job, "at": self.at.isoformat(), "utc": utc_text(self.utc), "note": self.note}


def fire_times(
    trigger: Trigger, after: datetime, count: int, *, delay: timedelta = timedelta(0), job: Job | None = None
) -> list[FireTime]:
    """The first `count` fire times later than `after`; fewer where the schedule ends.

    They are nominal: a spread (`delay`) and the job's blackout and window move the start or forbid it, and where
    runs may not overlap one that waits takes those that follow: the note says so.
    """
    spread = f"spread +{format_duration(delay)}" if delay else ""
    found = []
    wait: _Wait | None = None
    before = _waiting(job, trigger, after, delay) if job else []
    for fire in (*before, *islice(trigger.after(after), count)):
        shift, wait = _shift(job, trigger, fire, delay, wait) if job else ("", None)
        if fire > after:
            notes = (trigger.note(fire), shift, spread)
            found.append(FireTime(fire.astimezone(trigger.zone), fire, "; ".join(filter(None, notes))))
    return found


@dataclass(frozen=True, slots=True)
class _Wait:
    """A fire time waits until then, when it starts or is missed."""

    fire: datetime
    until: datetime
    starts: bool

    def takes(self, due: datetime) -> bool:
        """Whether what is due then finds it alive."""
        return due < self.until or (self.starts and due == self.until)


def latest_start(job: Job, trigger: Trigger, fire: datetime, delay: timedelta) -> datetime:
    """When the run of a fire time is missed, where it has not started before."""
    run = Run("", job.name, "", job.plugin, RunTrigger.SCHEDULE, fire + delay, fire_at=fire)
    return start_deadline(job, run, partial(next_after, trigger))


def _waiting(job: Job, trigger: Trigger, instant: datetime, delay: timedelta) -> list[datetime]:
    """The fire times up to an instant that may still wait then for a window or the end of a blackout."""

    def waits(fire: datetime) -> bool:
        opening = opens_at(job, fire + delay)
        return opening is not None and (opening.at is None or opening.at >= instant)

    if job.overlap != "skip":
        return []
    return [*islice(takewhile(waits, trigger.until(instant)), _MOST_WAITING)][::-1]


def _shift(
    job: Job, trigger: Trigger, fire: datetime, delay: timedelta, wait: _Wait | None
) -> tuple[str, _Wait | None]:
    """What blackout, window and latest start do to the start of a fire time, and what waits from then on.

    `wait` is what waits before it.
    """
    if job.on_blackout == "skip" and (names := _dark_by(job, fire)):
        return f"blackout {names}: skipped", wait
    if wait is not None and job.overlap == "skip" and wait.takes(fire + delay):
        return (
            f"overlap: skipped, that of {_local(job, wait.fire)} waits until {_local(job, wait.until)}",
            wait,
        )
    opening = opens_at(job, fire + delay)
    if opening is None:
        return "", None
    names = _dark_by(job, fire) or _dark_by(job, fire + delay)
    what = f"blackout {names}" if opening.reason == "blackout" else "window"
    deadline = latest_start(job, trigger, fire, delay)
    if opening.at is None:
        return f"{what}: no start within {HORIZON.days} days", _Wait(fire, deadline, starts=False)
    opens = _local(job, opening.at)
    if opening.at < deadline:
        return f"{what}: starts {opens}", _Wait(fire, opening.at, starts=True)
    return f"{what}: opens {opens}, missed {_local(job, deadline)}", _Wait(fire, deadline, starts=False)


def _dark_by(job: Job, instant: datetime) -> str:
    """The names of the calendars that black out the day of an instant."""
    day = instant.astimezone(ZoneInfo(job.timezone)).date()
    return ", ".join(calendar.name for calendar in job.blackout if covers(calendar, day))


def _local(job: Job, instant: datetime) -> str:
    return instant.astimezone(ZoneInfo(job.timezone)).isoformat(timespec="minutes")


def next_start(table: Timetable, fire: datetime) -> datetime | None:
    """When the first fire time, from `fire` on, that is not skipped or missed can start.

    None: none within HORIZON, nor among the next few where fire times are rarer. Moved by spread, blackout and
    window; what else a run waits for is not known beforehand.
    """
    job, trigger, delay, limit = table.job, table.trigger, table.delay, fire + HORIZON
    following: datetime | None = fire
    for tries in counted():
        if following is None or (following >= limit and tries >= _TRIES):
            return None
        fire = following
        end = blackout_end(job, fire) if job.on_blackout == "skip" else None
        if end is not None:
            following = next_after(trigger, end - MOMENT) if end < fire + HORIZON else None
            continue
        opening = opens_at(job, fire + delay)
        if opening is None:
            return fire + delay
        if opening.at is None:
            return None
        # of those that wait for this opening the newest has the most time
        newest = newest_unskipped(table, opening.at - delay) or fire
        if opening.at < max(latest_start(job, trigger, each, delay) for each in (fire, newest)):
            return opening.at
        following = next_after(trigger, opening.at - delay)
    return None


def newest_unskipped(table: Timetable, until: datetime) -> datetime | None:
    """The newest fire time up to `until` that no blackout skips; None where there is none for a year."""
    job, zone = table.job, ZoneInfo(table.job.timezone)
    horizon = until - timedelta(days=366)
    while until > horizon:
        fire = newest_until(table.trigger, until)
        if fire is None or job.on_blackout == "postpone" or blackout_end(job, fire) is None:
            return fire
        day = fire.astimezone(zone).date()  # a blackout covers whole days
        until = datetime.combine(day, time(), zone).astimezone(UTC) - MOMENT
    return None
