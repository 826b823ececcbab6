"""Explaining: the next fire times of a trigger as people read them, with the reason of every shift."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from erpsync.core.calendar import HORIZON, blackout_end, opens_at
from erpsync.core.duration import format_duration
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
    trigger: Trigger, after: datetime, count: int, *, delay: timedelta = timedelta(0)
) -> list[FireTime]:
    """The first `count` fire times later than `after`; fewer where the schedule ends.

    They are nominal: a job with a spread starts `delay` later, which the note says.
    """
    spread = f"spread +{format_duration(delay)}" if delay else ""
    return [
        FireTime(fire.astimezone(trigger.zone), fire, "; ".join(filter(None, (trigger.note(fire), spread))))
        for fire in islice(trigger.after(after), count)
    ]


def next_start(table: Timetable, fire: datetime | None) -> datetime | None:
    """When the first fire time, from `fire` on, that is not skipped can start; None: none does.

    Moved by spread, blackout and window; what else a run waits for is not known beforehand.
    """
    job = table.job
    while fire is not None:
        end = blackout_end(job, fire)
        if end is None or job.on_blackout == "postpone":
            opening = opens_at(job, fire + table.delay)
            return opening.at if opening else fire + table.delay
        if end - fire >= HORIZON:
            return None
        fire = next_after(table.trigger, end - MOMENT)
    return None
