"""The schedule in virtual time: what would run, wait, be skipped and be missed, and when it would all be over.

The rules are the daemon's own: its triggers, its calendar, its deadlines, its queue in front of the slots. Only
time, and how long runs take, are made up; every run succeeds. Licence slots follow a simple rule (`licence_slots`).
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import count

from erpsync.config.configuration import Configuration
from erpsync.core.calendar import HORIZON, blackout_end, next_blackout, opens_at, start_deadline, window_end
from erpsync.core.errors import SimulationTooLargeError
from erpsync.core.job import Job, new_run
from erpsync.core.run import Outcome, RunTrigger, State
from erpsync.daemon.first_claim import first_claims
from erpsync.daemon.licence_slots import LICENCE, LicenceSlots
from erpsync.daemon.simulated_run import Course, SimulatedRun
from erpsync.daemon.situation import ASSUMED, Expected, Situation
from erpsync.running.admission import Admission
from erpsync.running.turns import WAITS_FOR, Turns
from erpsync.scheduling.claim import START_BY
from erpsync.scheduling.handover import PARENT, Succession, is_within, successions
from erpsync.scheduling.planner import BLACKOUT, OVERLAP, PAUSED, plan, room, span_of
from erpsync.scheduling.timetable import Timetable, timetable
from erpsync.scheduling.trigger import MOMENT, next_after
from erpsync.store.marks import Mark
from erpsync.store.pauses import Pause

MOST_RUNS = 200_000
"""So many fire times are simulated at most."""
_MOST_EVENTS = 20 * MOST_RUNS
_GATE, _FIRE, _END = range(3)  # what comes first at one instant: who is due at another's end finds it alive
_JUST_NOW = timedelta(minutes=1)  # so little past a time may be that means "from now on"


def simulate(
    configuration: Configuration,
    expected: Mapping[str, Expected],
    begin: datetime,
    end: datetime,
    situation: Situation | None = None,
) -> list[SimulatedRun]:
    """All runs that are due before `end` and not over at `begin`, and those that come after them, by start.

    Pauses of the `situation` stay in force, and what lives at its `now` goes on, unless `begin` is before that. What
    is due between then and `begin` is played, too, as far back as anything of it may live on.

    Raises:
        SimulationTooLargeError: more than MOST_RUNS fire times.
    """
    instances = configuration.instances.values()
    limits = {each.name: each.max_runs for each in instances if each.max_runs}
    admission = Admission(configuration.daemon.max_runs, limits, configuration.pools)
    slots = LicenceSlots({each.name: each.license_slots for each in instances if each.kind == "erpnet"})
    tables = [timetable(job) for job in configuration.jobs.values() if job.enabled]
    runs = _Play(tables, expected, admission, slots, situation or Situation(), begin, end).runs()
    return sorted(runs, key=lambda run: (run.started_at or run.fire_at, run.fire_at, run.job))


def expected_end(runs: Iterable[SimulatedRun], end: datetime) -> datetime | None:
    """When all is over that is due before `end`, however long it waits for slots.

    What a window or a blackout holds beyond `end` belongs to another night, with what comes after it.
    """
    over = (run.finished_at for run in runs if not _is_of_another_night(run, end))
    return max((at for at in over if at is not None), default=None)


def _is_of_another_night(run: SimulatedRun, end: datetime) -> bool:
    late = run.started_at is not None and run.started_at >= end
    return late and run.held_until is not None and run.held_until >= end


class _Play:
    """One simulation; `_now` is the virtual time."""

    def __init__(
        self,
        tables: list[Timetable],
        expected: Mapping[str, Expected],
        admission: Admission,
        slots: LicenceSlots,
        situation: Situation,
        begin: datetime,
        end: datetime,
    ) -> None:
        self._tables = {table.job.name: table for table in tables}
        self._expected = expected
        self._admission = admission
        self._slots = slots
        self._situation = situation
        self._begin = begin
        self._end = end
        self._rules: Mapping[str, tuple[Succession, ...]] = successions(table.job for table in tables)
        self._events: list[tuple[datetime, int, int, Callable[[], object]]] = []
        self._numbers = count()
        self._live: dict[str, list[Course]] = defaultdict(list)  # by job
        self._turns = Turns()
        self._queued: dict[str, Course] = {}
        self._fresh: list[Course] = []
        self._slotless: dict[str | None, list[Course]] = defaultdict(list)  # by instance
        self._left = dict(situation.left)  # by child and parent
        self._found: list[SimulatedRun] = []
        self._growing: dict[
            str, int
        ] = {}  # where the record is in _found that each job's next skip may continue
        self._known: set[tuple[str, datetime | None]] = set()  # fire times that have a run already
        self._fired = 0
        self._now = begin

    def runs(self) -> list[SimulatedRun]:
        starts = self._first_claims()
        self._now = min(starts.values(), default=self._begin)
        self._take_up(self._now)
        self._admit()
        for name, table in self._tables.items():
            pause = self._pause(name)
            if pause is not None:
                self._hold(table, pause, starts[name])
            else:
                self._await_fire(table, table.trigger.after(starts[name] - MOMENT))
        for _ in range(_MOST_EVENTS):
            if not self._events:
                return self._found
            self._now, _, _, happen = heapq.heappop(self._events)
            happen()
            if not self._events or self._events[0][0] > self._now:
                self._admit()
        raise _too_large()

    # -- how things stand ------------------------------------------------------------------------------

    @property
    def _known_from(self) -> datetime | None:
        """When it is known what lives, where that is of use: `begin` is not before it."""
        now = self._situation.now
        return now if now is not None and now <= self._begin + _JUST_NOW else None

    def _first_claims(self) -> dict[str, datetime]:
        """From when on each job's fire times are played: as far back as they may matter, and not before now."""
        since = first_claims(self._tables, self._expected, self._begin)
        now = self._known_from
        return since if now is None else {name: max(at, min(now, self._begin)) for name, at in since.items()}

    def _take_up(self, begin: datetime) -> None:
        """What lives now and is not over by `begin`: what runs goes on, what waits goes on waiting."""
        now = self._known_from
        if now is None:
            return
        known = [run for run in self._situation.live if run.job in self._tables]
        for run in sorted(known, key=lambda run: run.state is not State.RUNNING):
            course = Course(
                replace(run, fire_at=run.fire_at or run.created_at),
                self._tables[run.job],
                self._expected[run.job].duration,
            )
            course.started_at = run.started_at
            if run.state is State.RUNNING:
                course.left = self._remains(course, now) - (begin - now)
            if course.left > timedelta(0):
                self._known.add((run.job, run.fire_at))
                self._live[run.job].append(course)
                self._go_on(course)

    def _go_on(self, course: Course) -> None:
        run, again_at = course.run, course.run.next_attempt_at
        self._stand_in_line(course)
        if run.state is State.RUNNING:
            self._admission.put(run, course.table.job.pool)
            if run in self._admission.take():
                self._start(course)
                return
            self._admission.withdraw(run.id)  # the limits are lower now than they were
        if course.started_at is None and run.trigger is not RunTrigger.BACKFILL:
            self._watch(course)
        if again_at is not None and again_at > self._now:
            course.wait(run.waiting_for, self._now)
            self._at(again_at, _GATE, partial(self._offer, course))
        else:
            self._offer(course)

    def _remains(self, course: Course, now: datetime) -> timedelta:
        """How long a run will still take; one that has taken longer than expected may end at any time."""
        left = (course.started_at or now) + course.left - now
        return left if left > timedelta(0) else ASSUMED

    def _pause(self, job: str) -> Pause | None:
        pause = self._situation.pauses.get(job)
        return pause if pause is not None and pause.holds(self._now) else None

    def _hold(self, table: Timetable, pause: Pause, begin: datetime) -> None:
        """Nothing of a paused job is planned; when the pause is over, what passed follows its catch-up."""
        if pause.until is not None and pause.until < self._end:
            self._at(pause.until, _GATE, partial(self._resume, table, pause, begin))
        elif (span := span_of(table.trigger, self._begin - MOMENT, self._end - MOMENT)) is not None:
            self._pass(table.job, Outcome.SKIPPED, PAUSED, span.first, span.last, span.count)

    def _resume(self, table: Timetable, pause: Pause, begin: datetime) -> None:
        name = table.job.name
        mark = Mark(name, table.schedule, begin - MOMENT)
        since = replace(pause, since=min(pause.since, begin))
        live = {name: len(self._in_the_way(name))}
        passed = None
        for run in plan([table], {name: mark}, live, self._now, resumed={name: since}).runs:
            assert run.fire_at is not None
            if run.outcome is None:
                self._claim(table, run.fire_at, run.trigger)
            else:
                last, passed = run.fire_until or run.fire_at, run.outcome
                self._pass(table.job, passed, run.reason, run.fire_at, last, run.fire_count)
        if passed is not None:
            self._hand_over(name, passed)
        self._await_fire(table, table.trigger.after(max(self._now - table.delay, begin - MOMENT)))
        for rule in [rule for rules in self._rules.values() for rule in rules if rule.child.name == name]:
            self._take(rule)
        for course in [*self._live[name]]:
            if course.waiting is not None and course.waiting[0] == PAUSED:
                self._offer(course)

    def _pass(
        self, job: Job, outcome: Outcome, reason: str | None, first: datetime, last: datetime, number: int
    ) -> None:
        """Fire times that pass without a run."""
        until = last if last != first else None
        run = SimulatedRun(job.name, job.instance, RunTrigger.SCHEDULE, first, outcome, reason, until, number)
        self._growing.pop(job.name, None)
        if self._is_shown(last):
            self._found.append(run)

    def _is_shown(self, due: datetime) -> bool:
        """Whether what was due then, and is over now, belongs to the time that is looked at."""
        return due >= self._begin or self._now > self._begin

    # -- fire times ------------------------------------------------------------------------------------

    def _await_fire(self, table: Timetable, fires: Iterator[datetime]) -> None:
        fire = next(fires, None)
        if fire is not None and fire < self._end:
            self._at(fire + table.delay, _FIRE, partial(self._fire, table, fire, fires))

    def _fire(self, table: Timetable, fire: datetime, fires: Iterator[datetime]) -> None:
        self._await_fire(table, fires)
        self._fired += fire >= self._begin
        if self._fired > MOST_RUNS:
            raise _too_large()
        if (table.job.name, fire) not in self._known:
            self._claim(table, fire, RunTrigger.SCHEDULE)

    def _claim(
        self, table: Timetable, fire: datetime, trigger: RunTrigger, held_until: datetime | None = None
    ) -> None:
        job, others = table.job, self._in_the_way(table.job.name)
        if job.on_blackout == "skip" and blackout_end(job, fire) is not None:
            self._skip(job, fire, trigger, BLACKOUT)
            return
        if not room(job, len(others), 1):
            self._skip(job, fire, trigger, OVERLAP)
            return
        if job.overlap == "replace":
            for live in others:
                self._finish(live, Outcome.CANCELLED, "replaced")
        number = f"{next(self._numbers):020}"
        run = new_run(job, number, trigger, self._now, id=number, fire_at=fire)
        course = Course(run, table, self._expected[job.name].duration, held_until=held_until)
        self._growing.pop(job.name, None)
        self._live[job.name].append(course)
        self._stand_in_line(course)
        self._watch(course)
        self._offer(course)

    def _in_the_way(self, job: str) -> list[Course]:
        """The runs that live of a job whose runs may not overlap; slices of a backfill are in nobody's way."""
        live = [] if self._tables[job].job.overlap == "allow" else self._live[job]
        return [course for course in live if course.run.trigger is not RunTrigger.BACKFILL]

    def _stand_in_line(self, course: Course) -> None:
        if course.table.job.overlap != "allow":
            waiting = {other.run.id for other in self._live[course.run.job] if not other.runs}
            self._turns.join(course.run, waiting)

    def _watch(self, course: Course) -> None:
        """It is missed where it has not started by its deadline."""
        table = course.table
        deadline = start_deadline(table.job, course.run, partial(next_after, table.trigger))
        self._at(max(deadline, self._now), _GATE, partial(self._miss, course))

    def _skip(self, job: Job, fire: datetime, trigger: RunTrigger, reason: str) -> None:
        """Record a skip, or let the one before it grow."""
        last = self._growing.get(job.name)
        before = self._found[last] if last is not None else None
        if last is not None and before is not None and (before.reason, before.trigger) == (reason, trigger):
            self._found[last] = replace(before, fire_until=fire, fire_count=before.fire_count + 1)
        elif self._is_shown(fire):
            self._growing[job.name] = len(self._found)
            self._found.append(SimulatedRun(job.name, job.instance, trigger, fire, Outcome.SKIPPED, reason))
        self._hand_over(job.name, Outcome.SKIPPED)

    # -- waiting, starting, ending -----------------------------------------------------------------------

    def _offer(self, course: Course) -> None:
        """Queue a run for its slot, once it is its turn, a start is allowed and its identity has a licence slot."""
        if course.runs or course.outcome is not None or course.run.id in self._queued:
            return
        held = self._held(course)
        if held is None:
            self._queued[course.run.id] = course
            self._fresh.append(course)
            self._admission.put(course.run, course.table.job.pool)
            return
        reason, until = held
        course.wait(reason, self._now)
        if until is not None:
            self._at(until, _GATE, partial(self._offer, course))
        if reason == LICENCE:
            self._slotless[course.run.instance].append(course)

    def _held(self, course: Course) -> tuple[str, datetime | None] | None:
        """Why a run may not start now, and when that is another reason, or none, by itself; None: it may."""
        job = course.table.job
        if self._pause(job.name) is not None:
            return PAUSED, None
        if job.overlap != "allow" and not self._turns.join(course.run):
            return WAITS_FOR, None
        if opening := opens_at(job, self._now):
            far = opening.at or self._now + HORIZON
            change = blackout_end if opening.reason == "blackout" else partial(next_blackout, limit=far)
            return opening.reason, change(job, self._now) or opening.at
        return None if self._slots.may_start(course.run, self._now) else (LICENCE, None)

    def _admit(self) -> None:
        while taken := list(self._admission.take()):
            for run in taken:
                course = self._queued.pop(run.id)
                if self._held(course) is None:
                    self._start(course)
                else:  # that was otherwise when it came into the queue
                    self._admission.release(run.id)
                    self._offer(course)
        fresh, self._fresh = self._fresh, []
        for course in fresh:
            if reason := self._admission.lacks(course.run):
                course.wait(reason, self._now)

    def _start(self, course: Course) -> None:
        job, now = course.table.job, self._now
        course.wait(None, now)
        course.started_at, course.runs = course.started_at or now, True
        if self._slots.start(course.run, now):
            self._offer_slotless(job.instance)  # some are of the same identity
        closes = window_end(job, now) if job.window and job.window.at_end == "checkpoint" else None
        if closes is not None and closes - now < course.left:
            course.left -= closes - now
            self._at(closes, _END, partial(self._interrupt, course))
        else:
            self._at(now + course.left, _END, partial(self._finish, course, Outcome.SUCCEEDED))

    def _interrupt(self, course: Course) -> None:
        """Its window closes: what is left of its work waits for the next one."""
        if course.outcome is None:
            self._leave_slots(course)
            self._offer(course)

    def _leave_slots(self, course: Course) -> None:
        """It runs no more; its licence slot may stay its identity's for a while."""
        course.runs = False
        self._admission.release(course.run.id)
        free_at = self._slots.end(course.run, self._now)
        if free_at is not None:
            self._at(free_at, _GATE, partial(self._offer_slotless, course.run.instance))

    def _offer_slotless(self, instance: str | None) -> None:
        for course in self._slotless.pop(instance, ()):
            self._offer(course)

    def _miss(self, course: Course) -> None:
        if course.started_at is None and course.outcome is None:
            self._admit()  # what can start at this very instant is not late
        if course.started_at is None and course.outcome is None:
            self._finish(course, Outcome.MISSED, course.waiting[0] if course.waiting else START_BY)

    def _finish(self, course: Course, outcome: Outcome, reason: str | None = None) -> None:
        if course.outcome is not None:
            return
        name = course.run.job
        ended = course.ended(outcome, reason, self._now)
        if self._queued.pop(course.run.id, None):
            self._admission.withdraw(course.run.id)
        elif course.runs:
            self._leave_slots(course)
        self._live[name].remove(course)
        following = self._turns.leave(course.run)
        if self._is_shown(ended.fire_at):
            self._found.append(ended)
        self._hand_over(name, outcome, course.held_until)
        for other in [
            each for each in self._live[name] if following is not None and each.run.id == following.id
        ]:
            other.held_until = course.held_until or other.held_until
            self._offer(other)

    def _hand_over(self, parent: str, outcome: Outcome, held_until: datetime | None = None) -> None:
        """Claim the children whose last missing parent this was, which a blackout or a window held until then."""
        for rule in self._rules.get(parent, ()):
            self._left[rule.child.name, parent] = outcome
        for rule in self._rules.get(parent, ()):
            self._take(rule, held_until)

    def _take(self, rule: Succession, held_until: datetime | None = None) -> None:
        keys = [(rule.child.name, each) for each in dict.fromkeys(rule.after.jobs)]
        if not all(key in self._left for key in keys) or not self._takes_runs(rule.child):
            return
        outcomes = {self._left.pop(key) for key in keys}
        if outcomes <= rule.after.on:
            self._claim(self._tables[rule.child.name], self._now, RunTrigger.AFTER, held_until)
        else:
            self._skip(rule.child, self._now, RunTrigger.AFTER, PARENT)

    def _takes_runs(self, job: Job) -> bool:
        return is_within(job, self._now) and self._pause(job.name) is None

    def _at(self, instant: datetime, order: int, happen: Callable[[], object]) -> None:
        heapq.heappush(self._events, (instant, order, next(self._numbers), happen))


def _too_large() -> SimulationTooLargeError:
    return SimulationTooLargeError(
        f"more than {MOST_RUNS} runs in that time", hint="choose a shorter time: --from, --to"
    )
