"""Overdue: jobs with `due_by` that had no success in time. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from erpsync.core.calendar import blackout_end
from erpsync.core.run import utc_text
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
    """Whether a job is overdue at `now`: no success since the due time before the newest one.

    A day on which the job had nothing to do is due nothing. A job that never succeeded has been due since `since`.
    """
    job = table.job
    if job.due_by is None or not job.enabled:
        return None
    before, due = _due_times(table, now)
    if last_success is not None and last_success >= before:
        return None
    if due < since and last_success is None:
        return None
    return Overdue(job.name, job.instance, due, last_success) if _had_work(table, before, due) else None


def _due_times(table: Timetable, now: datetime) -> tuple[datetime, datetime]:
    """The newest due time up to `now`, and the one before it."""
    zone = ZoneInfo(table.job.timezone)
    today = now.astimezone(zone).date()
    days = (today - timedelta(days=back) for back in range(3))
    assert table.job.due_by is not None
    dues = [datetime.combine(day, table.job.due_by, zone).astimezone(UTC) for day in days]
    over = [due for due in dues if due <= now]
    return over[1], over[0]


def _had_work(table: Timetable, after: datetime, until: datetime) -> bool:
    """Whether a fire time lay there that a blackout did not skip; jobs without fire times work any day."""
    job = table.job
    if not table.schedule:
        return True
    fire = next_after(table.trigger, after)
    while fire is not None and fire <= until:
        end = blackout_end(job, fire)
        if end is None or job.on_blackout == "postpone":
            return True
        fire = next_after(table.trigger, end - MOMENT)
    return False
