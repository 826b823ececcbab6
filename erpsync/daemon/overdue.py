"""Overdue: jobs with `due_by` that had no success in time. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import partial
from zoneinfo import ZoneInfo

from erpsync.core.calendar import blackout_end
from erpsync.core.job import After, Job
from erpsync.core.run import utc_text
from erpsync.scheduling.lineage import lineage
from erpsync.scheduling.timetable import Timetable, timetable
from erpsync.scheduling.trigger import MOMENT, newest_until, next_after


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


def due_tables(jobs: Iterable[Job]) -> dict[str, Timetable]:
    """The timetables that `overdue` asks for: of jobs with a `due_by`, and of those that they come after."""
    known = {job.name: job for job in jobs}
    found: dict[str, Timetable] = {}
    for job in known.values():
        if job.due_by is not None and job.name not in found:
            found |= {
                each.name: timetable(each) for each in lineage(job, known.get) if each.name not in found
            }
    return found


def overdue(
    table: Timetable,
    last_success: datetime | None,
    since: datetime,
    now: datetime,
    tables: Mapping[str, Timetable],
) -> Overdue | None:
    """Whether a job is overdue at `now`: no success of the day's work whose due time has passed.

    That work is due from the first fire time on of the last day with fire times before the due time: of a job that
    fires often, one success on that day is enough. The work of a job that comes after others is due when theirs is,
    and postponed work when its blackout ends; `tables` holds those of its parents. It stays overdue until the next
    success. A job that nothing but a person starts has been due since the due time before. A job that never succeeded
    is due from `since` on.
    """
    job = table.job
    if job.due_by is None or not job.enabled:
        return None
    due = max(due for due in _due_times(table, now) if due <= now)
    works = _Works(table, tables)
    if not works.have_times:
        work = max(before for before in _due_times(table, due) if before < due)
    elif (newest := works.newest(job.name, due - MOMENT)) is not None:
        due = min(after for after in _due_times(table, newest) if after > newest)
        work = _work_begin(table, newest, works)
    else:
        return None
    if (last_success is not None and last_success >= work) or (due < since and last_success is None):
        return None
    return Overdue(job.name, job.instance, due, last_success)


class _Works:
    """When the work of a job, and of all that it comes after, begins to be due. What is known is not asked again."""

    def __init__(self, table: Timetable, tables: Mapping[str, Timetable]) -> None:
        self._tables = {job.name: tables[job.name] for job in lineage(table.job, partial(_job, tables))}
        self._known: dict[tuple[str, datetime], datetime | None] = {}

    @property
    def have_times(self) -> bool:
        """Whether any of them has fire times at all."""
        return any(table.schedule for table in self._tables.values())

    def first(self, begin: datetime) -> datetime | None:
        """The first fire time of any of them from `begin` on."""
        firsts = (next_after(table.trigger, begin - MOMENT) for table in self._tables.values())
        return min((first for first in firsts if first is not None), default=None)

    def newest(self, name: str, until: datetime) -> datetime | None:
        """When the newest work of a job began to be due, up to `until`; None where there was none for a year."""
        if (name, until) not in self._known:
            for job in lineage(
                self._tables[name].job, partial(_job, self._tables)
            ):  # parents first: chains may be long
                if (job.name, until) not in self._known:
                    self._known[job.name, until] = self._find_newest(self._tables[job.name], until)
        return self._known[name, until]

    def _find_newest(self, table: Timetable, until: datetime) -> datetime | None:
        job, limit, horizon = table.job, until, until - timedelta(days=366)
        while until > horizon:
            works = (newest_until(table.trigger, until), self._newest_after(job, until))
            work = max((work for work in works if work is not None), default=None)
            end = blackout_end(job, work) if work is not None else None
            if work is None or end is None:
                return work
            if job.on_blackout == "postpone" and end <= limit:
                return end
            until = _midnight(table, work) - MOMENT  # a blackout covers whole days
        return None

    def _newest_after(self, job: Job, until: datetime) -> datetime | None:
        """The newest work of all the parents of one `after`, which begins when each of them has its own."""
        found = []
        for after in job.schedules:
            if isinstance(after, After):
                works = [self.newest(each, until) if each in self._tables else None for each in after.jobs]
                if all(work is not None for work in works):
                    found.append(min(work for work in works if work is not None))
        return max(found, default=None)


def _job(tables: Mapping[str, Timetable], name: str) -> Job | None:
    return tables[name].job if name in tables else None


def _work_begin(table: Timetable, newest: datetime, works: _Works) -> datetime:
    """When the work of the day of `newest` began that has the same due time."""
    due_before = max(due for due in _due_times(table, newest) if due <= newest)
    begin = max(_midnight(table, newest), due_before)
    return min(works.first(begin) or newest, newest)


def _midnight(table: Timetable, instant: datetime) -> datetime:
    """The beginning of the day on which an instant lies in the job's zone."""
    zone = ZoneInfo(table.job.timezone)
    return datetime.combine(instant.astimezone(zone).date(), time(), zone).astimezone(UTC)


def _due_times(table: Timetable, near: datetime) -> list[datetime]:
    """The due times of the days around an instant: two before it at least, and one after it."""
    zone, due_by = ZoneInfo(table.job.timezone), table.job.due_by
    assert due_by is not None
    today = near.astimezone(zone).date()
    days = (today + timedelta(days=ahead) for ahead in range(-2, 2))
    return [datetime.combine(day, due_by, zone).astimezone(UTC) for day in days]
