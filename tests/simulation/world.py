"""One simulated installation: virtual time, a real ledger, jobs by chance, and everything that goes wrong.

The planner, the claim, the admission, the verdicts and the ledger are the real ones, on a real SQLite file. What is
played here is the outer world (time, crashes, people who change the configuration) and the two loops that call
them. What is durable survives a crash, what is in a `Memory` does not, and what the `Auditor` knows nobody else sees.
"""

import math
import random
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event

from erpsync.core.calendar import opens_at
from erpsync.core.job import Job, Manual
from erpsync.core.run import Counts, Outcome, Run, State
from erpsync.running.admission import Admission
from erpsync.running.channel import Done
from erpsync.running.fault import Fault
from erpsync.running.turns import Turns
from erpsync.running.verdict import Ending, judge, lost
from erpsync.scheduling.claim import Claimed, Look, claim_due, claimed_ahead
from erpsync.scheduling.handover import Succession, forget_parents, hand_over, successions
from erpsync.scheduling.timetable import Timetable, timetable
from erpsync.scheduling.trigger import next_after
from erpsync.store.ledger import (
    Begin,
    End,
    Finish,
    Wait,
    begin_attempts,
    end_attempts,
    finish_runs,
    set_waiting,
    unfinished_runs,
)
from erpsync.store.marks import Mark, read_marks
from erpsync.store.pauses import Pause, read_pauses, write_pauses
from erpsync.store.state import Store
from tests.simulation.auditor import Auditor
from tests.simulation.chance import changed_jobs, duration, some_jobs

Answer = TypeVar("Answer")
NIGHT = timedelta(days=1)
SETTLING = timedelta(days=12)
"""After the last night nothing goes wrong any more, and whatever waits has to end."""
_MAX_RUNS = 2


class CrashedError(Exception):
    """The power is off: a transaction may have been committed or not, the rest is forgotten."""


@dataclass
class Attempt:
    """An attempt that runs; it ends `at` seconds of boot time."""

    run: Run
    at: float


@dataclass
class Memory:
    """What a daemon knows without asking its ledger."""

    tables: dict[str, Timetable]
    marks: dict[str, Mark]
    admission: Admission
    rules: dict[str, tuple[Succession, ...]]
    ahead: dict[str, datetime]  # jobs of which the ledger has fire times beyond their mark, and up to when
    pauses: dict[str, Pause]
    due: dict[str, datetime] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    turns: Turns = field(default_factory=Turns)
    parked: dict[str, Run] = field(default_factory=dict)  # runs of paused jobs
    held: dict[str, tuple[Run, float]] = field(default_factory=dict)  # run id → its next look, in boot time


class World:
    """Runs by `live`; raises AssertionError as soon as the ledger says what cannot be."""

    def __init__(self, seed: int, file: Path) -> None:
        self.rng = random.Random(seed)
        self.file = file
        self.connection = _open(file).connect()
        self.now = datetime(self.rng.randint(2025, 2031), 1, 1, tzinfo=UTC)
        self.now += timedelta(seconds=self.rng.randrange(366 * 86_400))
        self.boot = 0.0
        self.calm = False
        self.jobs = some_jobs(self.rng)
        self.auditor = Auditor()
        self.journal: deque[str] = deque(maxlen=40)
        self.memory: Memory | None = None

    def close(self) -> None:
        self.connection.close()
        self.connection.engine.dispose()
        self.file.unlink()

    def live(self, nights: int) -> None:
        """Let nights pass, however badly; then see that everything comes to its end."""
        last = self.boot + nights * NIGHT.total_seconds()
        while self.boot < last:
            self._step(self._wake)
        self.calm = True
        last = self.boot + SETTLING.total_seconds()
        while self.boot < last:
            self._step(self._settle)
        with self.connection.begin():
            self.auditor.require_settled(self.connection, self.now)

    # -- the outer world -------------------------------------------------------------------------------------

    def _step(self, act: Callable[[], None]) -> None:
        try:
            if self.memory is None:
                self._start()
            elif not self.calm and self.rng.random() < 0.06:
                self.rng.choice(
                    (self._fall, self._reconfigure, self._set_clock, self._suspend, self._pause)
                )()
            else:
                act()
        except CrashedError:
            self._tell("crashed")
            self._fall()
        if self.auditor.is_curious:
            with self.connection.begin():
                self.auditor.audit(self.connection)

    def _fall(self) -> None:
        """Kill -9, and nobody there for a while."""
        self.memory = None
        self._pass(self.rng.choice((1, 20, 3600, 6 * 3600, 30 * 3600, 5 * 86_400)) * self.rng.random())

    def _reconfigure(self) -> None:
        """People change schedules, take jobs away, bring them back; then the daemon starts anew."""
        self.memory = None
        self.jobs = changed_jobs(self.rng, self.jobs)
        self._pass(10 * self.rng.random())

    def _set_clock(self) -> None:
        """The wall clock steps; boot time does not notice."""
        assert self.memory is not None
        hours = self.rng.choice((-2.9, -1, -0.1, 0.2, 2, 30, 100)) * self.rng.random()
        if self.rng.random() < 0.2:
            hours = -self.rng.uniform(3.1, 60)
        earliest = self.auditor.latest_change()  # what was before the last change is another story
        if earliest is not None and self.now + timedelta(hours=hours) <= earliest:
            return
        self.now += timedelta(hours=hours)
        self._tell(f"clock set by {hours:.3f} h")
        self._look(self.memory, self.memory.tables.values())

    def _suspend(self) -> None:
        """The machine sleeps: time passes, nothing happens."""
        self._pass(self.rng.random() * self.rng.choice((3600, 86_400, 4 * 86_400)))

    def _pass(self, seconds: float) -> None:
        seconds = math.ceil(seconds * 1000) / 1000
        self.boot += seconds
        self.now += timedelta(seconds=seconds)
        self._tell(f"{seconds:.3f} s pass")

    def _tell(self, words: str) -> None:
        self.journal.append(f"{self.now:%Y-%m-%d %H:%M:%S} {words}")

    def _commit(self, operation: Callable[[Connection], Answer]) -> Answer:
        """One transaction of the store's writer; the power may go off before or right after its commit."""
        fate = 1.0 if self.calm else self.rng.random()
        with self.connection.begin():
            answer = operation(self.connection)
            if fate < 0.01:
                raise CrashedError
        if fate < 0.02:
            raise CrashedError
        return answer

    # -- the daemon: start and loop ---------------------------------------------------------------------------

    def _start(self) -> None:
        tables = {job.name: timetable(job) for job in self.jobs}
        with self.connection.begin():
            marks, unfinished = read_marks(self.connection), unfinished_runs(self.connection)
            ahead, pauses = claimed_ahead(self.connection), read_pauses(self.connection)
            forget_parents(self.connection, [successions(self.jobs)])
        memory = Memory(tables, marks, Admission(_MAX_RUNS, {}), successions(self.jobs), ahead, pauses)
        self._tell(f"starts with {', '.join(tables) or 'no job'}")
        self._recover(memory, unfinished)
        removed = [name for name, mark in marks.items() if name not in tables and mark.schedule]
        self._look(memory, [timetable(Job(name, name, "", schedules=(Manual(),))) for name in removed])
        self._look(memory, tables.values())
        self.memory = memory
        self._begin(memory)

    def _recover(self, memory: Memory, unfinished: Iterable[Run]) -> None:
        for run in unfinished:
            if run.state is not State.RUNNING:
                self._take_up(memory, run)
                continue
            end = lost(self._job(run.job), run, repeatable=self.rng.random() < 0.9, now=self.now)
            for after in self._end_attempts(memory, [end]):
                self._take_up(memory, after)

    def _settle(self) -> None:
        """Go on in calm: nothing stays paused."""
        memory = self.memory
        assert memory is not None
        paused = [name for name in memory.pauses if name in memory.tables]
        if paused:
            self._resume(memory, paused[0])
        else:
            self._wake()

    def _wake(self) -> None:
        """Sleep until something is due, mostly not much longer; then do all that is due."""
        memory = self.memory
        assert memory is not None
        moments = [attempt.at for attempt in memory.attempts.values()]
        moments += [at for _, at in memory.held.values()]
        moments += [self.boot + (due - self.now).total_seconds() for due in memory.due.values()]
        until = min(moments, default=self.boot + NIGHT.total_seconds()) - self.boot
        self._pass(max(0.0, min(until, NIGHT.total_seconds())) + self.rng.choice((0.0, 0.004, 3.0)))
        self._end(memory)
        hinted = [name for name, due in memory.due.items() if due <= self.now]
        if hinted:
            self._look(memory, [memory.tables[name] for name in hinted])
        self._begin(memory)

    # -- the daemon: planning ---------------------------------------------------------------------------------

    def _look(self, memory: Memory, tables: Iterable[Timetable]) -> None:
        """What the engine does with its hints: one claim for all, those that are paused left out."""
        mine = tuple(table for table in tables if not self._is_paused(memory, table.job.name))
        names = {table.job.name for table in mine}
        marks = {name: mark for name, mark in memory.marks.items() if name in names}
        resumed = {name: pause for name, pause in memory.pauses.items() if name in names}
        look = Look(mine, marks, self.now, resumed, frozenset(memory.ahead), memory.rules)
        self.auditor.expect([table.job for table in mine], self.now)
        claimed = self._commit(lambda connection: self._claim(connection, look))
        for mark in claimed.marks:
            memory.marks[mark.job] = mark
        if claimed.corrected:
            with self.connection.begin():
                memory.ahead = claimed_ahead(self.connection)
        for name in resumed:
            del memory.pauses[name]
        for table in mine:
            self._set_due(memory, table)
        for run in (*claimed.pending, *claimed.ended):
            self._take_up(memory, run)
        for run in [run for run in memory.parked.values() if run.job in resumed]:
            if memory.parked.pop(run.id, None) is not None:
                self._queue(memory, run)
        for run_id in claimed.replaced:
            self._replace(memory, run_id)

    def _set_due(self, memory: Memory, table: Timetable) -> None:
        name = table.job.name
        mark = memory.marks.get(name)
        if name in memory.ahead and mark is not None and mark.until >= memory.ahead[name]:
            del memory.ahead[name]
        fire = next_after(table.trigger, mark.until) if mark else None
        if mark is None or fire is None or name not in memory.tables:
            memory.due.pop(name, None)
            return
        if (pause := memory.pauses.get(name)) is not None:
            memory.due.pop(name, None)
            if pause.until is not None:
                memory.due[name] = pause.until
            return
        memory.due[name] = fire + table.delay
        assert fire + table.delay > self.now or mark.until > self.now, "something due was not planned"

    def _is_paused(self, memory: Memory, name: str) -> bool:
        pause = memory.pauses.get(name)
        return pause is not None and pause.holds(self.now)

    def _pause(self) -> None:
        """Somebody pauses a job, for a time or until further notice; or resumes one."""
        memory = self.memory
        assert memory is not None
        name = self.rng.choice([*memory.tables, "nobody"])
        if name not in memory.tables:
            return
        if name in memory.pauses and self.rng.random() < 0.7:
            self._resume(memory, name)
            return
        pause = memory.pauses.get(name)
        hours = self.rng.choice((None, 1, 20, 100))
        until = None if hours is None else self.now + timedelta(hours=hours)
        pause = Pause(name, pause.since if pause else self.now, until)
        self._commit(lambda connection: write_pauses(connection, [pause]))
        memory.pauses[name] = pause
        self._set_due(memory, memory.tables[name])
        self._tell(f"{name} paused until {until}")

    def _resume(self, memory: Memory, name: str) -> None:
        pause = memory.pauses[name]
        memory.pauses[name] = replace(pause, until=min(pause.until or self.now, self.now))
        self._tell(f"{name} resumed")
        self._look(memory, [memory.tables[name]])

    def _claim(self, connection: Connection, look: Look) -> Claimed:
        (claimed,) = claim_due(connection, [look])
        if self.rng.random() < 0.1 and not claimed.corrected:
            marks = {**look.marks, **{mark.job: mark for mark in claimed.marks}}
            (again,) = claim_due(connection, [replace(look, marks=marks, resumed={})])
            assert again == Claimed((), (), (), (), ()), f"planning twice plans something new: {again}"
        return claimed

    # -- the daemon: running ----------------------------------------------------------------------------------

    def _take_up(self, memory: Memory, run: Run) -> None:
        """Take a run as it now is: it has ended, waits for its next attempt, or stands in line."""
        memory.held.pop(run.id, None)
        if run.state is State.FINISHED:
            memory.admission.withdraw(run.id)
            memory.parked.pop(run.id, None)
            following = memory.turns.leave(run)
            if following is not None:
                self._queue(memory, following)
        elif run.next_attempt_at is not None and run.next_attempt_at > self.now:
            self._hold(memory, run, run.next_attempt_at)
        else:
            self._queue(memory, run)

    def _queue(self, memory: Memory, run: Run) -> None:
        """One run of a job after the other, none of a paused job, all within the window and out of blackouts."""
        job = self._job(run.job)
        may_overlap = job is not None and job.overlap == "allow"
        if not may_overlap and not memory.turns.join(run):
            return
        if job is not None and self._is_paused(memory, run.job):
            memory.parked[run.id] = run
        elif job is not None and (opening := opens_at(job, self.now)) is not None:
            self._commit(lambda tx: set_waiting(tx, [Wait(run.id, opening.reason)]))
            assert opening.at is not None
            self._hold(memory, run, opening.at)
        else:
            memory.admission.put(run)

    def _hold(self, memory: Memory, run: Run, until: datetime) -> None:
        memory.held[run.id] = (run, self.boot + (until - self.now).total_seconds())

    def _begin(self, memory: Memory) -> None:
        for run, at in list(memory.held.values()):
            if at <= self.boot:
                del memory.held[run.id]
                self._queue(memory, run)
        taken = [run for run in memory.admission.take() if self._may_start(memory, run)]
        orphans = [run for run in taken if self._job(run.job) is None]
        if orphans:
            self._give_up(memory, orphans)
        taken = [run for run in taken if run not in orphans]
        if not taken:
            return
        begun = self._commit(lambda connection: self._start_attempts(connection, memory, taken))
        for run in begun:
            over = self.boot + duration(self.rng, calm=self.calm).total_seconds()
            memory.attempts[run.id] = Attempt(run, over)

    def _may_start(self, memory: Memory, run: Run) -> bool:
        """The window may have closed, or the job been paused, while the run waited for its slot."""
        job = self._job(run.job)
        if job is None or not (opens_at(job, self.now) or self._is_paused(memory, run.job)):
            return True
        memory.admission.release(run.id)
        self._queue(memory, run)
        return False

    def _start_attempts(self, connection: Connection, memory: Memory, runs: list[Run]) -> list[Run]:
        begun = begin_attempts(connection, [Begin(run.id, "simulated", self.now) for run in runs])
        started = []
        for run, attempt in zip(runs, begun, strict=True):
            assert attempt is not None, "a run was offered that cannot start"
            job = self._job(run.job)
            assert job is not None
            assert not self._is_paused(memory, run.job), f"{run.job} starts while it is paused"
            self.auditor.began(connection, run, job, self.now)
            at = run.started_at or self.now
            started.append(replace(run, state=State.RUNNING, attempts=attempt.number, started_at=at))
        return started

    def _give_up(self, memory: Memory, runs: list[Run]) -> None:
        """Their jobs are not configured any more."""
        finishes = [Finish(run.id, Outcome.ABANDONED, self.now, "the job is gone") for run in runs]
        over = self._commit(lambda tx: self._finish(memory, finish_runs(tx, finishes)))
        for run in runs:
            memory.admission.release(run.id)
        for run in over:
            self._take_up(memory, run)

    def _replace(self, memory: Memory, run_id: str) -> None:
        """A newer run takes the place of this one."""
        attempt = memory.attempts.pop(run_id, None)
        if attempt is None:
            finish = Finish(run_id, Outcome.CANCELLED, self.now, "replaced")
            over = self._commit(lambda tx: self._finish(memory, finish_runs(tx, [finish])))
        else:
            end = self._verdict(attempt.run, Ending(_DONE, cause="cancelled", forced=True))
            over = self._end_attempts(memory, [end])
            memory.admission.release(run_id)
        for run in over:
            self._take_up(memory, run)

    def _end_attempts(self, memory: Memory, ends: list[End]) -> list[Run]:
        return self._commit(lambda connection: self._finish(memory, end_attempts(connection, ends)))

    def _finish(self, memory: Memory, runs: Sequence[Run | None]) -> list[Run]:
        """In the transaction that ends runs: hand them over; they and the children that were written."""
        over = [run for run in runs if run is not None]
        finished = [run for run in over if run.state is State.FINISHED]
        return [*over, *hand_over(self.connection, finished, memory.rules, self.now)]

    def _end(self, memory: Memory) -> None:
        over = [attempt.run for attempt in memory.attempts.values() if attempt.at <= self.boot]
        if not over:
            return
        ends = [self._verdict(run, self._ending()) for run in over]
        after = self._end_attempts(memory, ends)
        for run in over:
            del memory.attempts[run.id]
            memory.admission.release(run.id)
        for run in after:
            self._take_up(memory, run)

    def _verdict(self, run: Run, ending: Ending) -> End:
        job = self._job(run.job) or Job(run.job, run.job, run.plugin)
        return judge(job, run, ending, repeatable=True, now=self.now, jitter=self.rng.random)

    def _ending(self) -> Ending:
        if self.rng.random() < 0.85:
            return Ending(_DONE, Counts(read=1))
        return Ending(_FAULT)

    def _job(self, name: str) -> Job | None:
        return next((job for job in self.jobs if job.name == name), None)


_DONE = Done(counts={}, cursor=None, note="")
_FAULT = Fault("error", "ThrottledError", "too many requests", retryable=True)


def _open(file: Path) -> Engine:
    """The state as the store has made it; what a power cut does is played, so nobody waits for the disk."""
    engine = create_engine(f"sqlite:///{file}")

    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode = MEMORY", "synchronous = OFF", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def empty_state(folder: Path) -> Path:
    """A state file as the store makes it, to be copied."""
    Store.open(folder / "empty.db").close()
    return folder / "empty.db"


def new_world(seed: int, empty: Path) -> World:
    """A world of its own beginning."""
    return World(seed, Path(shutil.copy(empty, empty.with_name(f"{seed}.db"))))
