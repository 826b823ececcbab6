"""Overdue: jobs with `due_by` that had no success in time. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from erpsync.core.run import utc_text
from erpsync.scheduling.explain import newest_unskipped
from erpsync.scheduling.timetable import Timetable


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
    """Whether a job is overdue at `now`: no success since the last fire time of which a due time has passed.

    It stays so until the next success. A job without fire times has been due since the due time before. A job that
    never succeeded is due from `since` on.
    """
    job = table.job
    if job.due_by is None or not job.enabled:
        return None
    before, newest = _due_times(table, now, now)
    work = newest_unskipped(table, newest) if table.schedule else before
    if work is None or (last_success is not None and last_success >= work):
        return None
    due = _due_times(table, work + timedelta(days=1), newest)[1]
    if due < since and last_success is None:
        return None
    return Overdue(job.name, job.instance, due, last_success)


def _due_times(table: Timetable, near: datetime, until: datetime) -> tuple[datetime, datetime]:
    """The newest due time up to `near` and `until`, and the one before it."""
    zone = ZoneInfo(table.job.timezone)
    today = min(near, until).astimezone(zone).date()
    days = (today - timedelta(days=back) for back in range(-1, 3))
    assert table.job.due_by is not None
    dues = [datetime.combine(day, table.job.due_by, zone).astimezone(UTC) for day in days]
    over = [due for due in dues if due <= min(near, until)]
    return over[1], over[0]
