"""Overdue: jobs with `due_by` that had no success in time. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from erpsync.core.run import utc_text
from erpsync.scheduling.explain import newest_unskipped
from erpsync.scheduling.timetable import Timetable
from erpsync.scheduling.trigger import MOMENT, next_after


@dataclass(frozen=True, slots=True)
class Overdue:
    """A success was due at `due_at`, and the last one was too long before."""

    job: str
    instance: str | None
    due_at: datetime
    last_success_at: datetime | None

    def document(self) -> dict[str, object]:
        return {
            "job": self.job,
            "instance": self.instance,
            "due_at": utc_text(self.due_at),
            "last_success_at": utc_text(self.last_success_at),
        }


def overdue(
    table: Timetable, last_success: datetime | None, since: datetime, now: datetime
) -> Overdue | None:
    """Whether a job is overdue at `now`: no success of the day's work whose due time has passed.

    That work is due from the first fire time on of the last day with fire times before the due time: of a job that
    fires often, one success on that day is enough. It stays overdue until the next success. A job without fire
    times has been due since the due time before. A job that never succeeded is due from `since` on.
    """
    job = table.job
    if job.due_by is None or not job.enabled:
        return None
    due = max(due for due in _due_times(table, now) if due <= now)
    if not table.schedule:
        work = max(before for before in _due_times(table, due) if before < due)
    elif (fire := newest_unskipped(table, due - MOMENT)) is not None:
        due = min(after for after in _due_times(table, fire) if after > fire)
        work = _work_begin(table, fire)
    else:
        return None
    if (last_success is not None and last_success >= work) or (due < since and last_success is None):
        return None
    return Overdue(job.name, job.instance, due, last_success)


def _work_begin(table: Timetable, fire: datetime) -> datetime:
    """The first fire time on the day of `fire` that has the same due time."""
    zone = ZoneInfo(table.job.timezone)
    midnight = datetime.combine(fire.astimezone(zone).date(), time(), zone).astimezone(UTC)
    due_before = max(due for due in _due_times(table, fire) if due <= fire)
    return next_after(table.trigger, max(midnight, due_before) - MOMENT) or fire


def _due_times(table: Timetable, near: datetime) -> list[datetime]:
    """The due times of the days around an instant: two before it at least, and one after it."""
    zone, due_by = ZoneInfo(table.job.timezone), table.job.due_by
    assert due_by is not None
    today = near.astimezone(zone).date()
    days = (today + timedelta(days=ahead) for ahead in range(-2, 2))
    return [datetime.combine(day, due_by, zone).astimezone(UTC) for day in days]
