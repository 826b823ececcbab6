"""The schedule in virtual time: what would run, wait, be skipped and be missed, and when it would all be over.

The rules are the daemon's own: its triggers, its calendar, its deadlines, its queue in front of the slots. Only
time, and how long runs take, are made up; every run succeeds.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from statistics import median
from typing import Literal

from sqlalchemy import Connection

from erpsync.config.configuration import Configuration
from erpsync.core.calendar import blackout_end, opens_at, start_deadline, window_end
from erpsync.core.errors import ErpsyncError
from erpsync.core.job import Job
from erpsync.core.run import Outcome, Run, RunTrigger, utc_text
from erpsync.running.admission import Admission
from erpsync.scheduling.claim import START_BY
from erpsync.scheduling.handover import PARENT, Succession, successions
from erpsync.scheduling.planner import BLACKOUT, OVERLAP, room
from erpsync.scheduling.timetable import Timetable, timetable
from erpsync.scheduling.trigger import MOMENT, next_after
from erpsync.store.ledger import RunFilter, list_runs

ASSUMED = timedelta(minutes=1)
"""How long a run takes of which neither the ledger nor `expected_duration` knows."""
MOST_RUNS = 20_000
"""So many fire times are simulated at most."""
_MOST_EVENTS = 20 * MOST_RUNS
_SUCCESSES = 9  # of each job's newest, whose median is what the next one is expected to take
_END, _GATE, _FIRE = range(3)  # what comes first of what comes at once

Source = Literal["ledger", "expected_duration", "assumed"]


class SimulationTooLargeError(ErpsyncError):
    """More fire times than anybody would look at."""


@dataclass(frozen=True, slots=True)
class Expected:
    """How long a run of a job is expected to take, and how that is known."""

    duration: timedelta
    source: Source


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """One run, or a range of skips; `waits` says what it waited for, and how long for each."""

    job: str
    instance: str | None
    trigger: RunTrigger
    fire_at: datetime
    outcome: Outcome
    reason: str | None = None
    fire_until: datetime | None = None
    fire_count: int = 1
    started_at: datetime | None = None
    finished_at: datetime | None = None
    waits: Mapping[str, timedelta] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """The public JSON form; the keys that a run has too mean the same."""
        return {
            "job": self.job,
            "instance": self.instance,
            "trigger": self.trigger.value,
            "fire_at": utc_text(self.fire_at),
            "fire_until": utc_text(self.fire_until),
            "fire_count": self.fire_count,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "started_at": utc_text(self.started_at),
            "finished_at": utc_text(self.finished_at),
            "waits": {reason: waited.total_seconds() for reason, waited in self.waits.items()},
        }


def expected_durations(connection: Connection, jobs: Iterable[Job]) -> dict[str, Expected]:
    """What each job's runs take: the median of its last successes, else what the configuration says."""
    return {job.name: _median(connection, job) or configured_duration(job) for job in jobs}


def configured_duration(job: Job) -> Expected:
    """What is expected of a job that never ran."""
    if job.expected_duration is not None:
        return Expected(job.expected_duration, "expected_duration")
    return Expected(ASSUMED, "assumed")


def _median(connection: Connection, job: Job) -> Expected | None:
    which = RunFilter(jobs=(job.name,), outcomes=(Outcome.SUCCEEDED,), limit=_SUCCESSES)
    runs = [run for run in list_runs(connection, which) if not run.params]
    took = [run.duration_seconds for run in runs if run.duration_seconds is not None]
    return Expected(timedelta(seconds=median(took)), "ledger") if took else None


def simulate(
    configuration: Configuration, expected: Mapping[str, Expected], begin: datetime, end: datetime
) -> list[SimulatedRun]:
    """All runs whose fire time lies from `begin` on and before `end`, and those that come after them, by start.

    Raises:
        SimulationTooLargeError: more than MOST_RUNS fire times.
    """
    limits = {each.name: each.max_runs for each in configuration.instances.values() if each.max_runs}
    admission = Admission(configuration.daemon.max_runs, limits, configuration.pools)
    tables = [timetable(job) for job in configuration.jobs.values() if job.enabled]
    runs = _Play(tables, expected, admission, end).runs(begin)
    return sorted(runs, key=lambda run: (run.started_at or run.fire_at, run.fire_at, run.job))


@dataclass(slots=True, eq=False)
class _Course:
    """A run on its way."""

    run: Run
    table: Timetable
    left: timedelta  # of its work
    waits: dict[str, timedelta] = field(default_factory=dict)
    waiting: tuple[str, datetime] | None = None
    started_at: datetime | None = None
    outcome: Outcome | None = None

    def wait(self, reason: str | None, now: datetime) -> None:
        """It waits for `reason` from now on, None: for nothing any more."""
        if self.waiting is not None:
            before, since = self.waiting
            self.waits[before] = self.waits.get(before, timedelta(0)) + (now - since)
        self.waiting = (reason, now) if reason else None


class _Play:
    """One simulation; `_now` is the virtual time."""

    def __init__(
        self,
        tables: list[Timetable],
        expected: Mapping[str, Expected],
        admission: Admission,
        end: datetime,
    ) -> None:
        self._tables = {table.job.name: table for table in tables}
        self._expected = expected
        self._admission = admission
        self._end = end
        self._rules: Mapping[str, tuple[Succession, ...]] = successions(table.job for table in tables)
        self._events: list[tuple[datetime, int, int, Callable[[], object]]] = []
        self._numbers = count()
        self._lines: dict[str, list[_Course]] = defaultdict(list)
        self._queued: dict[str, _Course] = {}
        self._fresh: list[_Course] = []
        self._left: dict[tuple[str, str], Outcome] = {}  # by child and parent
        self._found: list[SimulatedRun] = []
        self._newest: dict[str, int] = {}  # each job's newest record in _found
        self._fired = 0
        self._now = end

    def runs(self, begin: datetime) -> list[SimulatedRun]:
        for table in self._tables.values():
            self._await_fire(table, table.trigger.after(begin - MOMENT))
        for _ in range(_MOST_EVENTS):
            if not self._events:
                return self._found
            self._now, _, _, happen = heapq.heappop(self._events)
            happen()
            if not self._events or self._events[0][0] > self._now:
                self._admit()
        raise _too_large()

    # -- fire times ------------------------------------------------------------------------------------

    def _await_fire(self, table: Timetable, fires: Iterator[datetime]) -> None:
        fire = next(fires, None)
        if fire is not None and fire < self._end:
            self._at(fire + table.delay, _FIRE, partial(self._fire, table, fire, fires))

    def _fire(self, table: Timetable, fire: datetime, fires: Iterator[datetime]) -> None:
        self._await_fire(table, fires)
        self._fired += 1
        if self._fired > MOST_RUNS:
            raise _too_large()
        self._claim(table, fire, RunTrigger.SCHEDULE)

    def _claim(self, table: Timetable, fire: datetime, trigger: RunTrigger) -> None:
        job, line = table.job, self._lines[table.job.name]
        if job.on_blackout == "skip" and blackout_end(job, fire) is not None:
            self._skip(job, fire, trigger, BLACKOUT)
            return
        if not room(job, len(line), 1):
            self._skip(job, fire, trigger, OVERLAP)
            return
        if job.overlap == "replace":
            for live in [*line]:
                self._finish(live, Outcome.CANCELLED, "replaced")
        number = f"{next(self._numbers):020}"
        run = Run(
            number, job.name, number, job.plugin, trigger, self._now, job.instance, fire_at=fire,
            priority=job.priority,
        )  # fmt: skip
        course = _Course(run, table, self._expected[job.name].duration)
        line.append(course)
        deadline = start_deadline(job, run, partial(next_after, table.trigger))
        self._at(max(deadline, self._now), _GATE, partial(self._miss, course))
        self._offer(course)

    def _skip(self, job: Job, fire: datetime, trigger: RunTrigger, reason: str) -> None:
        """Record a skip, or let the one before it grow."""
        last = self._newest.get(job.name)
        before = self._found[last] if last is not None else None
        if last is not None and before is not None and (before.reason, before.trigger) == (reason, trigger):
            self._found[last] = replace(before, fire_until=fire, fire_count=before.fire_count + 1)
        else:
            self._record(SimulatedRun(job.name, job.instance, trigger, fire, Outcome.SKIPPED, reason))
        self._hand_over(job.name, Outcome.SKIPPED)

    # -- waiting, starting, ending -----------------------------------------------------------------------

    def _offer(self, course: _Course) -> None:
        """Queue a run for its slot, once it is its turn and a start is allowed."""
        job = course.table.job
        if course.outcome is not None:
            return
        if job.overlap != "allow" and self._lines[job.name][0] is not course:
            course.wait("queue", self._now)
        elif opening := opens_at(job, self._now):
            course.wait(opening.reason, self._now)
            if opening.at is not None:
                self._at(opening.at, _GATE, partial(self._offer, course))
        else:
            self._queued[course.run.id] = course
            self._fresh.append(course)
            self._admission.put(course.run, job.pool)

    def _admit(self) -> None:
        for run in list(self._admission.take()):
            course = self._queued.pop(run.id)
            if opens_at(course.table.job, self._now) is None:
                self._start(course)
            else:  # its window closed while it waited for a slot
                self._admission.release(run.id)
                self._offer(course)
        fresh, self._fresh = self._fresh, []
        for course in fresh:
            if reason := self._admission.lacks(course.run):
                course.wait(reason, self._now)

    def _start(self, course: _Course) -> None:
        job, now = course.table.job, self._now
        course.wait(None, now)
        course.started_at = course.started_at or now
        closes = window_end(job, now) if job.window and job.window.at_end == "checkpoint" else None
        if closes is not None and closes - now < course.left:
            course.left -= closes - now
            self._at(closes, _END, partial(self._interrupt, course))
        else:
            self._at(now + course.left, _END, partial(self._finish, course, Outcome.SUCCEEDED))

    def _interrupt(self, course: _Course) -> None:
        """Its window closes: what is left of its work waits for the next one."""
        if course.outcome is None:
            self._admission.release(course.run.id)
            self._offer(course)

    def _miss(self, course: _Course) -> None:
        self._admit()  # what can start at this very instant is not late
        if course.started_at is None and course.outcome is None:
            self._finish(course, Outcome.MISSED, course.waiting[0] if course.waiting else START_BY)

    def _finish(self, course: _Course, outcome: Outcome, reason: str | None = None) -> None:
        if course.outcome is not None:
            return
        name, holds_slot = course.run.job, course.waiting is None and course.started_at is not None
        course.wait(None, self._now)
        course.outcome = outcome
        if self._queued.pop(course.run.id, None):
            self._admission.withdraw(course.run.id)
        elif holds_slot:
            self._admission.release(course.run.id)
        line = self._lines[name]
        was_first = line[0] is course
        line.remove(course)
        fire = course.run.fire_at
        assert fire is not None
        self._record(
            SimulatedRun(
                name,
                course.run.instance,
                course.run.trigger,
                fire,
                outcome,
                reason,
                started_at=course.started_at,
                finished_at=self._now if course.started_at else None,
                waits={reason: waited for reason, waited in course.waits.items() if waited},
            )
        )
        self._hand_over(name, outcome)
        if was_first and line:
            self._offer(line[0])

    def _hand_over(self, parent: str, outcome: Outcome) -> None:
        """Claim the children whose last missing parent this was."""
        for rule in self._rules.get(parent, ()):
            self._left[rule.child.name, parent] = outcome
        for rule in self._rules.get(parent, ()):
            keys = [(rule.child.name, each) for each in dict.fromkeys(rule.after.jobs)]
            if not all(key in self._left for key in keys):
                continue
            outcomes = {self._left.pop(key) for key in keys}
            if outcomes <= rule.after.on:
                self._claim(self._tables[rule.child.name], self._now, RunTrigger.AFTER)
            else:
                self._skip(rule.child, self._now, RunTrigger.AFTER, PARENT)

    def _record(self, run: SimulatedRun) -> None:
        self._newest[run.job] = len(self._found)
        self._found.append(run)

    def _at(self, instant: datetime, order: int, happen: Callable[[], object]) -> None:
        heapq.heappush(self._events, (instant, order, next(self._numbers), happen))


def _too_large() -> SimulationTooLargeError:
    return SimulationTooLargeError(
        f"more than {MOST_RUNS} runs in that time", hint="choose a shorter time: --from, --to"
    )
