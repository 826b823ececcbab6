"""The waiting room: runs that may not start yet, with what each waits for, until they may or have waited too long."""

import itertools
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from erpsync.core.calendar import opens_at, start_deadline
from erpsync.core.clock import Clock
from erpsync.core.job import Job
from erpsync.core.run import Run, State
from erpsync.running.alarm import Alarm
from erpsync.running.events import RunEvents
from erpsync.running.turns import WAITS_FOR, Turns
from erpsync.store.ledger import Wait, set_waiting
from erpsync.store.pauses import Pause
from erpsync.store.state import Store

LOOK = 30.0  # seconds at most between two looks at the wall clock, so that its steps are harmless
PAUSED = "paused"
START_BY = "start_by"  # why a run is missed that nobody has noted to wait for anything
_DELAYS = ("back-off", "licence")

Following = Callable[[str, datetime], datetime | None]
"""The first fire time of a job after an instant."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a run may not start, and the instant at which that may change by itself; None: it does not."""

    reason: str
    until: datetime | None


class WaitingRoom:
    """Holds runs of jobs that are paused, runs behind an earlier one, before their time, or outside their window.

    `ready` is called with each run that nothing of this holds any more, `late` with each that has not begun by its
    deadline, and with what it waited for. To be used in one event loop.
    """

    def __init__(
        self,
        *,
        jobs: Mapping[str, Job],
        store: Store,
        clock: Clock,
        alarm: Alarm,
        events: RunEvents,
        following: Following,
        ready: Callable[[Run], object],
        late: Callable[[Run, str], object],
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._clock = clock
        self._alarm = alarm
        self._events = events
        self._following = following
        self._ready = ready
        self._late = late
        self._turns = Turns()
        self._pauses: Mapping[str, Pause] = {}
        self._waiting: dict[str, Run] = {}
        self._glances = itertools.cycle(1 + step / 16 for step in range(64))
        self._closed = False

    def enter(self, run: Run) -> None:
        """Take a run that is pending or waiting; once nothing holds it, it is `ready`."""
        if self._closed or run.id in self._waiting:
            return
        run = self._as_configured(run)
        self._turns.join(run, self._waiting)
        self._waiting[run.id] = run
        if self._is_delayed(run):
            self._delay(run)
        else:
            self._look(run.id)

    def may_start(self, run: Run) -> bool:
        """Whether a run that is ready may still start; else it waits here again."""
        hold = self._hold(run)
        if hold is not None:
            self._keep(run, hold)
        return hold is None

    def wait(self, run: Run, reason: str, explanation: str = "") -> None:
        """Note what a run waits for, with more words for people, and from the first time on how long it may."""
        known = self._waiting.get(run.id)
        if known is None:
            return
        why = f"{explanation} (at {self._clock.now():%H:%M:%S} UTC)" if explanation else None
        is_new = known.waiting_for != reason or known.state is not State.WAITING
        if is_new or why != known.reason:
            known = replace(known, state=State.WAITING, waiting_for=reason, reason=why)
            self._waiting[run.id] = known
            self._store.submit(set_waiting, Wait(run.id, reason, known.next_attempt_at, why))
        if is_new:
            self._events.waiting(known, explanation)
        if known.started_at is None and not self._alarm.is_set(("start-by", run.id)):
            self._begin_watch(known)

    def leave(self, run_id: str) -> Run | None:
        """A run begins, or is to end: it waits no longer. None where it does not wait here."""
        self._alarm.clear(run_id)
        self._alarm.clear(("start-by", run_id))
        return self._waiting.pop(run_id, None)

    def of_job(self, job: str) -> list[Run]:
        """A job's runs that wait, also those that are ready."""
        return [run for run in self._waiting.values() if run.job == job]

    def ended(self, run: Run) -> None:
        """A run is over: it is the next one's turn."""
        self.leave(run.id)
        following = self._turns.leave(run)
        if following is not None and following.id in self._waiting:
            self._look(following.id)

    def is_late(self, run: Run) -> bool:
        """Whether a run has not begun by its deadline."""
        job = self._jobs.get(run.job)
        return job is not None and run.started_at is None and self._deadline(job, run) <= self._clock.now()

    def set_pauses(self, pauses: Mapping[str, Pause]) -> None:
        """These jobs are paused, and no others: theirs wait, those of the others go on."""
        before, self._pauses = self._pauses, dict(pauses)
        changed = {job for job in (*before, *pauses) if before.get(job) != pauses.get(job)}
        for job in changed:
            self._await_end(job)
        for run in [run for run in self._waiting.values() if run.job in changed]:
            if self._is_delayed(run):
                self._tell_delay(run)
            else:
                self._look(run.id)

    @property
    def pauses(self) -> Mapping[str, Pause]:
        """The pauses that were told and are not known to be over."""
        return self._pauses

    def adopt(self, jobs: Mapping[str, Job], touched: Container[str], renamed: Mapping[str, str]) -> None:
        """Go on with other jobs; runs of `touched` and of removed ones are looked at afresh, the late ones end."""
        self._jobs = jobs
        pauses = dict(self._pauses)
        for former, name in renamed.items():
            self._turns.rename(former, name)
            if (pause := pauses.pop(former, None)) is not None:
                pauses[name] = replace(pause, job=name)
        for run in [run for run in self._waiting.values() if run.job in touched or run.job in renamed]:
            self._waiting[run.id] = self._as_configured(replace(run, job=renamed.get(run.job, run.job)))
        self.set_pauses(pauses)
        for run in list(self._waiting.values()):
            if run.job in jobs and run.job not in touched:
                continue
            if self.is_late(run):
                self._late(run, run.waiting_for or START_BY)
            else:
                # it is set again, for another instant, where it waits on
                self._alarm.clear(("start-by", run.id))
                self._look(run.id)

    def close(self) -> None:
        """Let nobody out any more."""
        self._closed = True

    def _as_configured(self, run: Run) -> Run:
        """With what its job has now, which a reload or a start with other files may have changed since the claim."""
        job = self._jobs.get(run.job)
        if job is None:
            return run
        now = (job.plugin, job.instance, job.identity)
        if now == (run.plugin, run.instance, run.identity):  # nearly always
            return run
        return replace(run, plugin=job.plugin, instance=job.instance, identity=job.identity)

    def _is_delayed(self, run: Run) -> bool:
        """Whether it waits for an instant; that of a removed job has nothing to wait for."""
        return run.next_attempt_at is not None and run.job in self._jobs

    def _delay(self, run: Run) -> None:
        """Until a run's next attempt, on the boot-time clock; a pause is told meanwhile."""
        assert run.next_attempt_at is not None
        seconds = (run.next_attempt_at - self._clock.now()).total_seconds()
        self._alarm.set(run.id, seconds, lambda: self._is_over(run.id))
        self._tell_delay(run)

    def _tell_delay(self, run: Run) -> None:
        if run.job in self._pauses:
            self.wait(run, PAUSED)
        elif run.waiting_for not in _DELAYS:
            self.wait(run, _DELAYS[0])

    def _is_over(self, run_id: str) -> None:
        self._waiting[run_id] = replace(self._waiting[run_id], next_attempt_at=None)
        self._look(run_id)

    def _look(self, run_id: str) -> None:
        """Let a run out, or hold it and look again when that may change."""
        run = self._waiting.get(run_id)
        if self._closed or run is None or self._is_delayed(run):
            return
        hold = self._hold(run)
        if hold is None:
            self._alarm.clear(run_id)
            self._ready(run)
        else:
            self._keep(run, hold)

    def _keep(self, run: Run, hold: Hold) -> None:
        if hold.until is not None:
            self._alarm.set(run.id, self._soon(hold.until), lambda: self._look(run.id))
        self.wait(run, hold.reason)

    def _hold(self, run: Run) -> Hold | None:
        job, now = self._jobs.get(run.job), self._clock.now()
        if job is None:
            return None
        if job.name in self._pauses:
            return Hold(PAUSED, None)
        if not self._turns.join(run) and job.overlap != "allow":
            return Hold(WAITS_FOR, None)
        opening = opens_at(job, now)
        return None if opening is None else Hold(opening.reason, opening.at)

    def _await_end(self, job: str) -> None:
        """A pause that is over is forgotten, so that a clock that is set back does not revive it."""
        pause, now = self._pauses.get(job), self._clock.now()
        if pause is None or pause.until is None:
            self._alarm.clear(("pause", job))
        elif pause.holds(now):
            self._alarm.set(("pause", job), self._soon(pause.until), lambda: self._await_end(job))
        else:
            self.set_pauses({name: each for name, each in self._pauses.items() if name != job})

    def _begin_watch(self, run: Run) -> None:
        """The next fire time is dear to find: where thousands come to wait together, they look for it one by one."""
        job = self._jobs.get(run.job)
        if job is None or job.start_by is None:
            self._alarm.set(("start-by", run.id), next(self._glances), lambda: self._watch(run.id))
        else:
            self._watch(run.id)

    def _watch(self, run_id: str) -> None:
        """Let a run that has not begun by its deadline be late."""
        run = self._waiting[run_id]
        job = self._jobs.get(run.job)
        if job is None or self._closed:
            return
        if (deadline := self._deadline(job, run)) <= self._clock.now():
            self._late(run, run.waiting_for or START_BY)
        else:
            self._alarm.set(("start-by", run_id), self._soon(deadline), lambda: self._watch(run_id))

    def _deadline(self, job: Job, run: Run) -> datetime:
        return start_deadline(job, run, lambda instant: self._following(job.name, instant))

    def _soon(self, instant: datetime) -> float:
        return min((instant - self._clock.now()).total_seconds(), LOOK)
