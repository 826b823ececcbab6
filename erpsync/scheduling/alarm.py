"""The alarm clock: APScheduler with one job for each of ours, reduced to saying "look at this job now".

APScheduler keeps nothing durable here, decides nothing and runs nothing. Its triggers never give an instant that
is past, so it never lists what was missed; its executor only passes the name on.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from apscheduler.executors.base import BaseExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from erpsync.scheduling.timetable import Timetable
from erpsync.scheduling.trigger import next_after

_PACE = 0.004  # seconds between looks at the clock at least, so that many fire times a second share a claim
_QUIET = logging.getLogger("erpsync.alarm")
_QUIET.setLevel(logging.CRITICAL)  # what matters is told as events, by the engine


class AlarmClock:
    """Calls `ring` with a job's name, in the event loop, when the job's next start is due; a hint, no more.

    It follows the wall clock of the machine and may ring late or not at all (suspend, steps): `check` makes it
    look again, `set` tells it the time of each alarm anew. Looks at the clock are 4 ms apart at least, so that many
    alarms ring together; one may be so much late.
    """

    def __init__(self, ring: Callable[[str], None]) -> None:
        self._scheduler = _Scheduler(
            timezone=UTC,
            logger=_QUIET,
            executors={"default": _Bell(ring)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def start(self) -> None:
        """Begin to ring; must be called in the event loop."""
        self._scheduler.start()

    def set(self, timetables: Iterable[tuple[Timetable, datetime | None]]) -> None:
        """Set each timetable's alarm to an instant; None takes it away."""
        running = self._scheduler.running
        if running:
            self._scheduler.pause()  # else each change would wake it
        for table, due in timetables:
            self._set(table, due)
        if running:
            self._scheduler.resume()

    def check(self) -> None:
        """Look at the wall clock now."""
        self._scheduler.wakeup()

    def stop(self) -> None:
        """Ring no more; takes effect in the next turn of the event loop."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _set(self, table: Timetable, due: datetime | None) -> None:
        name = table.job.name
        if due is not None:
            self._scheduler.add_job(
                _nothing, _Starts(table), id=name, name=name, next_run_time=due, replace_existing=True
            )
        elif self._scheduler.running and self._scheduler.get_job(name) is not None:
            self._scheduler.remove_job(name)


class _Scheduler(AsyncIOScheduler):  # type: ignore[misc]  # APScheduler has no types
    """One that is used in its event loop alone."""

    def wakeup(self) -> None:
        """At once: what it inherits takes the way of other threads, through a socket and another turn of the loop."""
        super().wakeup.__wrapped__(self)

    def _start_timer(self, wait_seconds: float | None) -> None:
        super()._start_timer(None if wait_seconds is None else max(wait_seconds, _PACE))


class _Starts(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """The instants at which a job is to start: its fire times and its delay."""

    def __init__(self, table: Timetable) -> None:
        self._table = table
        self._next: datetime | None = None

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The next start later than `now`; APScheduler asks twice for each, so the answer is kept."""
        if self._next is None or self._next <= now:
            delay = self._table.delay
            fire = next_after(self._table.trigger, now - delay)
            self._next = fire + delay if fire else None
        return self._next


class _Bell(BaseExecutor):  # type: ignore[misc]  # APScheduler has no types
    """Takes a job to be run, passes its name on."""

    def __init__(self, ring: Callable[[str], None]) -> None:
        super().__init__()
        self._ring = ring

    def submit_job(self, job: Any, run_times: list[datetime]) -> None:
        self._ring(job.id)

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        raise AssertionError("submit_job is complete without it")


def _nothing() -> None:
    """APScheduler wants something to call and never calls it."""
