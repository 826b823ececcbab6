"""Explaining: the next fire times of a trigger as people read them, with the reason of every shift."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from erpsync.core.calendar import HORIZON, blackout_end, covers, opens_at
from erpsync.core.duration import format_duration
from erpsync.core.job import Job
from erpsync.core.run import utc_text
from erpsync.scheduling.timetable import Timetable
from erpsync.scheduling.trigger import MOMENT, Trigger, next_after


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
        notes = (trigger.note(fire), _shift(job, fire, delay) if job else "", spread)
        found.append(FireTime(fire.astimezone(trigger.zone), fire, "; ".join(filter(None, notes))))
    return found


def _shift(job: Job, fire: datetime, delay: timedelta) -> str:
    """What blackout and window do to the start of a fire time."""
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
    return f"{what}: starts {opening.at.astimezone(zone).isoformat(timespec='minutes')}"


def next_start(table: Timetable, fire: datetime) -> datetime | None:
    """When the first fire time, from `fire` on, that is not skipped can start; None: none within HORIZON.

    Moved by spread, blackout and window; what else a run waits for is not known beforehand.
    """
    job, limit = table.job, fire + HORIZON
    following: datetime | None = fire
    while following is not None and following < limit:
        fire = following
        end = blackout_end(job, fire)
        if end is None or job.on_blackout == "postpone":
            opening = opens_at(job, fire + table.delay)
            return opening.at if opening else fire + table.delay
        following = next_after(table.trigger, end - MOMENT)
    return None
