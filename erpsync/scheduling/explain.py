"""Explaining: the next fire times of a trigger as people read them, with the reason of every shift."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import partial
from itertools import count as counted
from itertools import islice
from zoneinfo import ZoneInfo

from erpsync.core.calendar import HORIZON, blackout_end, covers, opens_at, start_deadline
from erpsync.core.duration import format_duration
from erpsync.core.job import Job
from erpsync.core.run import Run, RunTrigger, utc_text
from erpsync.scheduling.timetable import Timetable
from erpsync.scheduling.trigger import MOMENT, Trigger, newest_until, next_after

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

    They are nominal: a spread (`delay`) and the job's blackout and window move the start or forbid it, which the
    note says.
    """
    spread = f"spread +{format_duration(delay)}" if delay else ""
    found = []
    for fire in islice(trigger.after(after), count):
        notes = (trigger.note(fire), _shift(job, trigger, fire, delay) if job else "", spread)
        found.append(FireTime(fire.astimezone(trigger.zone), fire, "; ".join(filter(None, notes))))
    return found


def latest_start(job: Job, trigger: Trigger, fire: datetime, delay: timedelta) -> datetime:
    """When the run of a fire time is missed, where it has not started before."""
    run = Run("", job.name, "", job.plugin, RunTrigger.SCHEDULE, fire + delay, fire_at=fire)
    return start_deadline(job, run, partial(next_after, trigger))


def _shift(job: Job, trigger: Trigger, fire: datetime, delay: timedelta) -> str:
    """What blackout, window and latest start do to the start of a fire time."""
    zone = ZoneInfo(job.timezone)
    day = fire.astimezone(zone).date()
    names = ", ".join(calendar.name for calendar in job.blackout if covers(calendar, day))
    if names and job.on_blackout == "skip":
        return f"blackout {names}: skipped"
    opening = opens_at(job, fire + delay)
    if opening is None:
        return ""
    what = f"blackout {names}".strip() if opening.reason == "blackout" else "window"
    if opening.at is None:
        return f"{what}: no start within {HORIZON.days} days"
    opens = opening.at.astimezone(zone).isoformat(timespec="minutes")
    deadline = latest_start(job, trigger, fire, delay)
    if opening.at < deadline:
        return f"{what}: starts {opens}"
    return f"{what}: opens {opens}, missed {deadline.astimezone(zone).isoformat(timespec='minutes')}"


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
