"""One simulated installation: virtual time, a real ledger, jobs by chance, and everything that goes wrong.

The engine and the runner are the real ones, with all that they consist of, on a real SQLite file; `doubles` says
what is played. A crash drops all their objects; what is durable stays. What the auditors know nobody else sees.
"""

import asyncio
import random
import shutil
import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from erpsync.core.errors import StoreError
from erpsync.core.redaction import Redactor
from erpsync.plugins.discovery import PluginCatalog
from erpsync.running.runner import Runner
from erpsync.scheduling.claim import claim_due
from erpsync.scheduling.engine import Engine
from erpsync.scheduling.handover import hand_over
from erpsync.store.pauses import write_pauses
from erpsync.store.rename import rename_job
from erpsync.store.run_log import RunLog
from tests.simulation.chance import changed_jobs, some_jobs, some_limits
from tests.simulation.conduct import Conduct
from tests.simulation.doubles import Hints, NoPlugins, NoRunLog, NotedAlarm, WatchedAdmission, Work, late
from tests.simulation.families import Families
from tests.simulation.fire_times import FireTimes
from tests.simulation.ledger import Ledger
from tests.simulation.look_audit import looked
from tests.simulation.virtual_store import Batch, VirtualStore
from tests.simulation.virtual_time import VirtualClock, VirtualLoop

NIGHT = 86_400.0
SETTLING = 12 * NIGHT
"""After the last night nothing goes wrong any more, and whatever waits has to end."""
OLD = timedelta(days=9)
"""A run that has not ended so long after its claim, in calm times, never will."""
_POWER = 0.003  # chance that it goes off before a commit, and after
_TROUBLE = 1.5 * NIGHT  # between two things that go wrong, on average
_WHILE = 300.0  # seconds without anything to do, after which nothing may be left undone


class World:
    """Runs by `live`; raises AssertionError as soon as something is as it cannot be."""

    def __init__(self, seed: int, file: Path) -> None:
        self.rng = random.Random(seed)
        self.file = file
        start = datetime(self.rng.randint(2025, 2031), 1, 1, tzinfo=UTC)
        self.clock = VirtualClock(start + timedelta(seconds=self.rng.randrange(366 * 86_400)))
        self.jobs = some_jobs(self.rng, self.clock.now())
        self.fire_times = FireTimes()
        self.conduct = Conduct(self.clock, some_limits(self.rng))
        self.families = Families(self.conduct)
        self.signed_out: set[str] = set()  # jobs whose identity is nobody
        self.journal: deque[tuple[datetime, str, dict[str, object]]] = deque(maxlen=60)
        self.is_calm = False
        self._serves = False  # fire times are claimed
        self._until = 0.0
        self._failure: Exception | None = None
        self._loop: VirtualLoop | None = None
        self._store: VirtualStore | None = None
        self._ledger: Ledger | None = None
        self._other: sqlite3.Connection | None = None  # another program that keeps the state locked

    def live(self, nights: float) -> None:
        """Let nights pass, however badly; then see that everything comes to its end."""
        self.live_until(self.clock.boot() + nights * NIGHT)
        self.is_calm = True
        self.live_until(self.clock.boot() + SETTLING)

    def rows(self) -> list[Any]:
        """The whole ledger."""
        with closing(sqlite3.connect(self.file)) as state:
            return state.execute("SELECT * FROM run ORDER BY seq").fetchall()

    def story(self) -> str:
        """What happened last."""
        return "\n".join(
            f"{at:%Y-%m-%d %H:%M:%S.%f} {event} "
            + " ".join(f"{name}={value}" for name, value in fields.items() if value)
            for at, event, fields in self.journal
        )

    def work(self) -> Work:
        """What plays the plugins' work."""
        return Work(self.rng, self.conduct, lambda: self.is_calm, self.fail)

    @contextmanager
    def played(self) -> Iterator[None]:
        """The doubles are in their places."""
        watched = type("Watched", (WatchedAdmission,), {"conduct": self.conduct})
        work = self.work()
        with (
            patch("erpsync.running.runner.PluginHost", lambda **_: work),
            patch("erpsync.running.runner.Admission", watched),
            patch("erpsync.running.runner.Alarm", NotedAlarm),
            patch("erpsync.scheduling.engine.AlarmClock", lambda ring: Hints(ring, self.rng, self.clock)),
            patch("erpsync.core.run.secrets.randbits", self.rng.getrandbits),
        ):
            yield

    # -- lives of the daemon ----------------------------------------------------------------------------------

    def live_until(self, boot: float) -> None:
        """Let the boot-time clock come so far."""
        self._until = boot
        with self.played():
            while self.clock.boot() < boot:
                self._live_once()

    def _live_once(self) -> None:
        """One daemon, from its start to its end, whatever that is."""
        self._serves = False
        loop = self._loop = VirtualLoop(self.clock, self._idle)
        loop.set_exception_handler(
            lambda _, context: self.fail(context.get("exception") or RuntimeError(context))
        )
        daemon = loop.create_task(self._serve())
        daemon.add_done_callback(self._ended)
        loop.run_forever()
        if self._store is not None:
            self._store.close()
        loop.set_exception_handler(lambda _, context: None)
        loop.die()
        if self._other is not None:
            self._unlock()
        if self._failure is not None:
            raise self._failure

    async def _serve(self) -> None:
        """As the daemon's service does it, in its order."""
        jobs = {job.name: job for job in self.jobs}
        self._tell("starts", jobs=self.jobs)
        store = self._store = VirtualStore(self.file, self)
        self._ledger = Ledger(store.raw)
        self.conduct.restarted(jobs, self._ledger.live())
        limits = self.conduct.limits
        runner = Runner(
            jobs=jobs,
            catalog=cast("PluginCatalog", NoPlugins()),
            connections=lambda job: None,
            secrets=str,
            store=store,
            run_logs=cast("RunLog", NoRunLog()),
            data=self.file.parent,
            clock=self.clock,
            emit=self._emit,
            redactor=Redactor(),
            max_runs=limits.all,
            instance_limits=limits.instances,
            pools=limits.pools,
            following=lambda job, instant: engine.following_fire(job, instant),
            hand_over=lambda connection, finished, now: hand_over(connection, finished, engine.rules, now),
            jitter=self.rng.random,
        )
        engine = Engine(
            jobs,
            store,
            self.clock,
            self._emit,
            runner.offer,
            runner.replace,
            lambda job: job.name in self.signed_out,
        )
        await engine.adopt_former()
        await runner.start()
        await engine.start()
        self._serves = True
        while not self.is_calm:
            await asyncio.sleep(self.rng.expovariate(1 / _TROUBLE))
            await self._trouble(engine, runner)
        self.signed_out.clear()
        for job in jobs:
            await engine.resume(job)
            runner.resume(job)
        await asyncio.sleep(self._until - self.clock.boot())
        self.conduct.require_settled(self._ledger.left(), self.clock.now() - OLD)

    def _ended(self, daemon: "asyncio.Task[None]") -> None:
        """A daemon that cannot use its state says so and ends; its supervisor starts another."""
        assert self._loop is not None
        if not daemon.cancelled() and (error := daemon.exception()) is not None:
            self._tell("ends", error=str(error))
            if not isinstance(error, StoreError):
                self.fail(error)
        self.clock.advance(30.0)
        self._loop.stop()

    def _idle(self, seconds: float) -> float:
        """Nobody has anything to do for so long."""
        if seconds > _WHILE and self.clock.is_settled and self._other is None:
            try:
                self.conduct.require_busy()
                self._require_marks()
            except AssertionError as error:
                self.fail(error)
        if self.clock.boot() >= self._until and not self.is_calm:
            self._fall()
        return seconds if self.is_calm else seconds + late(self.rng)

    def _require_marks(self) -> None:
        if self._serves and not self.conduct.reloading:
            assert self._ledger is not None
            marks, now = self._ledger.marks(), self.clock.now()
            for name, job in self.conduct.jobs.items():
                if not self.conduct.holds(name):
                    self.fire_times.require_marked(job, marks.get(name), now)

    # -- what goes wrong --------------------------------------------------------------------------------------

    async def _trouble(self, engine: Engine, runner: Runner) -> None:
        match self.rng.randrange(15):
            case 8 | 9:
                await self._reload(engine, runner)
            case 0 | 1:
                self._fall()
            case 2:
                await self._shut_down(engine, runner)
                self._fall()
            case 3:
                self.jobs = changed_jobs(self.rng, self.jobs, self.clock.now())
                self._fall(10 * self.rng.random())
            case 4 | 5:
                self._set_clock()
            case 6:
                self._suspend()
            case 7:
                self._lock()
            case _:
                try:
                    busy = [entry.job for entry in self.conduct.live.values()]
                    await self._ask(
                        engine, runner, self.rng.choice([*self.conduct.jobs, *busy, *busy, "nobody"])
                    )
                except StoreError as error:
                    self._tell("is refused", error=str(error))

    async def _reload(self, engine: Engine, runner: Runner) -> None:
        """Somebody has changed the configuration, and the daemon takes it over while runs are going."""
        changed = changed_jobs(self.rng, self.jobs, self.clock.now())
        jobs, limits = {job.name: job for job in changed}, self.conduct.limits
        adoption = engine.prepare(jobs)

        def swap(renamed: Mapping[str, str]) -> None:
            bounds = {"instance_limits": limits.instances, "pools": limits.pools}
            runner.adopt(jobs, adoption.touched, renamed, max_runs=limits.all, **bounds)
            self.conduct.reloaded(jobs)

        self._tell("reloads", jobs=changed)
        self.jobs, self.conduct.reloading = changed, True
        try:
            await engine.adopt(adoption, swap)
        except StoreError as error:
            self._tell("is refused", error=str(error))
        finally:
            self.conduct.reloading = False

    async def _ask(self, engine: Engine, runner: Runner, job: str) -> None:
        """Somebody wants something of a job."""
        if job not in self.conduct.jobs:
            return
        match self.rng.randrange(8):
            case 0 | 1:
                hours = self.rng.choice((None, 1, 20, 100))
                until = None if hours is None else self.clock.now() + timedelta(hours=hours)
                runner.pause(await engine.pause(job, until=until))
            case 2:
                await engine.resume(job)
                runner.resume(job)
            case 3:
                await engine.claim_manual(job, "somebody", {})
            case 4:
                ended = [entry.id for entry in self.conduct.finished.values() if entry.job == job]
                await engine.claim_manual(job, "somebody", {}, retry_of=ended[-1] if ended else None)
            case 5:
                days = [self.clock.now() - timedelta(days=day) for day in range(self.rng.randint(2, 4))][::-1]
                await engine.claim_backfill(job, "somebody", f"{self.rng.random()}", [*pairwise(days)])
            case 6:
                self.signed_out ^= {job}
            case _:
                for run_id in [*self.conduct.live][:1]:
                    await runner.cancel(run_id, "somebody")

    async def _shut_down(self, engine: Engine, runner: Runner) -> None:
        """As the daemon does when it is told to stop."""
        self._tell("shuts down")
        self._serves = False
        await engine.stop()
        await runner.drain(timedelta(minutes=self.rng.choice((0, 1, 60))))
        await runner.stop()

    def _fall(self, seconds: float | None = None) -> None:
        """Kill -9, and nobody there for a while."""
        assert self._loop is not None
        self._serves = False
        self._tell("is killed")
        self._loop.stop()
        if self._store is not None:
            self._store.close()
        if seconds is None:
            seconds = self.rng.choice((1, 20, 3600, 6 * 3600, 30 * 3600, 5 * 86_400)) * self.rng.random()
        self.clock.advance(seconds)

    def _set_clock(self) -> None:
        hours = self.rng.choice((-2.9, -1, -0.1, 0.2, 2, 30, 100)) * self.rng.random()
        if self.rng.random() < 0.2:
            hours = -self.rng.uniform(3.1, 60)
        self._step_clock(hours)

    def _wake_up_right(self) -> None:
        """The machine is started anew with the right clock: until now it was hours ahead."""
        self._fall(60 * self.rng.random())
        self._step_clock(-self.rng.uniform(1, 60))

    def _step_clock(self, hours: float) -> None:
        latest = self.fire_times.latest_change()  # what was before the last change is another story
        if latest is None or self.clock.now() + timedelta(hours=hours) > latest:
            self._tell("has its clock set", hours=hours)
            self.clock.step(timedelta(hours=hours))
            self.conduct.stepped()

    def _suspend(self) -> None:
        """The machine sleeps: time passes, nothing happens."""
        seconds = self.rng.random() * self.rng.choice((3600, 86_400, 4 * 86_400))
        self._tell("sleeps", seconds=seconds)
        self.clock.suspend(seconds)

    def _lock(self) -> None:
        """Another program writes to the state for a while."""
        if self._other is None:
            self._other = sqlite3.connect(self.file, isolation_level=None, timeout=0)
            self._other.execute("BEGIN IMMEDIATE")
            seconds = self.rng.choice((1, 60, 3600)) * self.rng.random()
            self._tell("is locked out", seconds=seconds)
            asyncio.get_running_loop().call_later(seconds, self._unlock)

    def _unlock(self) -> None:
        if self._other is not None:
            self._other.close()
            self._other = None
            self.clock.settle()

    # -- the store's watcher ----------------------------------------------------------------------------------

    def latency(self) -> float:
        return self.rng.choice((0.0, 0.0, 0.001, 0.2))

    def fails(self) -> bool:
        return not self.is_calm and self.rng.random() < _POWER

    def cut(self) -> None:
        self._fall()

    def committed(self, batch: Batch) -> None:
        """Audit what was written; whoever asked does not know of it yet."""
        try:
            self._audit(batch)
        except (AssertionError, LookupError) as error:
            self.fail(error)

    def _audit(self, batch: Batch) -> None:
        assert self._ledger is not None
        for operation, item in batch:
            if operation is rename_job:
                self._rename(item.former, item.name)
        if any(operation in (claim_due, write_pauses) for operation, _ in batch):
            self.conduct.paused(self._ledger.pauses())
        looks = [item for operation, item in batch if operation is claim_due]
        marks = self._ledger.marks() if looks else {}
        set_back = [
            self.fire_times.looked(table.job, look.now, marks[table.job.name])
            for look in looks
            for table in look.timetables
            if table.job.name in marks
        ]
        dues = [each for look in looks for each in looked(look, marks, self.fire_times)]
        for run_id in self._ledger.deleted():
            self.fire_times.deleted(self.conduct.finished.pop(run_id))
            self.families.deleted(run_id)
        changed = self._ledger.changed()
        for entry in changed:
            self.fire_times.written(entry)
        self.families.changed(changed, self._ledger.left())
        self.conduct.changed(changed)
        known = {**self.conduct.finished, **self.conduct.live} if dues else {}
        for each in dues:
            each.require(lambda fire, name=each.job.name: known.get(self.fire_times.owner(name, fire)))
        backs_off = any(entry.waiting_for == "back-off" for entry in changed)
        if backs_off and not self.is_calm and self.rng.random() < 0.03:
            asyncio.get_running_loop().call_soon(self._wake_up_right)
        self.fire_times.require_covered(marks)
        if any(set_back):
            finished = self.conduct.finished
            self.fire_times.require_ahead(
                lambda run_id: run_id in finished and finished[run_id].outcome in ("skipped", "missed")
            )

    def _rename(self, former: str, name: str) -> None:
        """What the state knew by the former name it knows by the new one, if it did not know that before."""
        assert self._ledger is not None
        if not self._ledger.knows(former):
            self.fire_times.renamed(former, name)
            self.families.renamed(former, name)
        elif not self.fire_times.knows(name) and not self.conduct.knows(name):
            raise AssertionError(f"{name} has not taken over what is known of {former}")

    # -- what is told -----------------------------------------------------------------------------------------

    def _emit(self, event: str, /, *, level: str = "info", **fields: object) -> None:
        self._tell(event, **fields)
        if event == "run.lost":
            self.fail(AssertionError(f"a run is lost: {fields}"))

    def _tell(self, event: str, **fields: object) -> None:
        self.journal.append((self.clock.now(), event, fields))

    def fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
        if self._loop is not None:
            self._loop.stop()


def new_world(seed: int, empty: Path) -> World:
    """A world of its own beginning; it takes the place of the one before."""
    for old in empty.parent.glob("world.db*"):
        old.unlink()
    return World(seed, Path(shutil.copy(empty, empty.with_name("world.db"))))
