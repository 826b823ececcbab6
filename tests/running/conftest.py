"""A runner over a real store, real children and the hostile plugins, with its events to wait for."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy

from erpsync.core.clock import Clock, SystemClock
from erpsync.core.event import Level
from erpsync.core.job import Job, RetryPolicy
from erpsync.core.redaction import Redactor
from erpsync.core.run import Run, RunTrigger, new_run_id
from erpsync.core.secret import SecretReference
from erpsync.plugins.discovery import PluginCatalog
from erpsync.running.connection import Connection
from erpsync.running.runner import Runner
from erpsync.store.history import find_run, list_attempts
from erpsync.store.ledger import insert_runs
from erpsync.store.run_log import RunLog
from erpsync.store.state import Store

FOLDERS = [Path(__file__).parent / "hostile", Path(__file__).parent / "ordinary"]
CATALOG = PluginCatalog(FOLDERS)
"""One for all, for an import is tried in a process of its own first."""
SECRET = "correct-horse-battery"
DEADLINE = 20.0


class Desk:
    """A runner at work: gives it runs, hears its events, reads ledger and logs."""

    def __init__(
        self,
        folder: Path,
        *,
        jobs: Mapping[str, Job],
        clock: Clock | None = None,
        connection: Connection | None = None,
        max_runs: int = 8,
        instance_limits: Mapping[str, int] | None = None,
        grace: timedelta = timedelta(seconds=10),
        **options: Any,
    ) -> None:
        self.clock = clock or SystemClock()
        self.folder = folder
        self.jobs = dict(jobs)
        self.connection = connection
        self.events: list[tuple[str, dict[str, object]]] = []
        self._heard = asyncio.Event()
        self.store = Store.open(folder / "erpsync.db")
        self.logs = RunLog(folder / "runs")
        self.redactor = Redactor()
        self.runner = Runner(
            jobs=self.jobs,
            catalog=CATALOG,
            connections=lambda _job: self.connection,
            secrets=self._resolve,
            store=self.store,
            run_logs=self.logs,
            data=folder,
            clock=self.clock,
            emit=self._emit,
            redactor=self.redactor,
            max_runs=max_runs,
            instance_limits=instance_limits or {},
            grace=grace,
            jitter=lambda: 0.5,
            **options,
        )

    def _resolve(self, _reference: SecretReference) -> str:
        self.redactor.learn(SECRET)
        return SECRET

    def _emit(self, event: str, /, *, level: Level = "info", **fields: object) -> None:
        self.events.append((event, {"level": level, **fields}))
        self._heard.set()

    def told(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.events if name == event]

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(DEADLINE):
                yield
        except TimeoutError:
            pytest.fail(f"nothing came; heard so far: {self.events}")

    async def hear(self, event: str, count: int = 1) -> dict[str, object]:
        """The fields of the `count`th event of this name."""
        async with self._patience():
            while len(self.told(event)) < count:
                self._heard.clear()
                await self._heard.wait()
        return self.told(event)[count - 1]

    async def until(self, condition: Callable[[], object]) -> None:
        async with self._patience():
            while not condition():  # noqa: ASYNC110 - files and processes tell nobody
                await asyncio.sleep(0.005)

    async def logged(self, run: Run, event: str) -> dict[str, object]:
        """The record of this name, once it stands in the run's log."""
        await self.until(lambda: self.log(run, event))
        return self.log(run, event)[0]

    def log(self, run: Run, event: str | None = None) -> list[dict[str, object]]:
        records, _ = self.logs.read(run.id)
        return [record for record in records if event in (None, record["event"])]

    async def claim(self, job: str, **changes: Any) -> Run:
        """A pending run as the engine would write it, not offered yet."""
        now = self.clock.now()
        definition = self.jobs[job]
        values: dict[str, Any] = {
            "id": new_run_id(now),
            "job": job,
            "plugin": definition.plugin,
            "trigger": RunTrigger.SCHEDULE,
            "created_at": now,
            "fire_at": now,
            "instance": definition.instance,
            "identity": definition.identity,
            "priority": definition.priority,
        }
        values |= changes
        run = Run(claim=f"manual:{values['id']}", **values)
        assert await self.store.write(insert_runs, run)
        return run

    async def offer(self, job: str, **changes: Any) -> Run:
        run = await self.claim(job, **changes)
        self.runner.offer([run])
        return run

    async def run(self, job: str, **changes: Any) -> Run:
        """From the claim to the finished run."""
        return await self.finished(await self.offer(job, **changes))

    async def finished(self, run: Run) -> Run:
        async with self._patience():
            return await self.runner.wait(run.id)

    def ledger(self, run: Run) -> Run:
        found = self.store.read_now(find_run, run.id)
        assert found is not None
        return found

    def attempts(self, run: Run) -> list[str | None]:
        return [
            attempt.outcome.value if attempt.outcome else None
            for attempt in self.store.read_now(list_attempts, run.id)
        ]

    async def close(self) -> None:
        await self.runner.stop()
        self.store.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    """One desk for a module: its fork server has imported everything once."""
    shared = Desk(tmp_path_factory.mktemp("desk"), jobs={})
    yield shared
    await shared.close()


@pytest_asyncio.fixture(loop_scope="module")
async def desk(tmp_path: Path, shared_desk: Desk) -> AsyncIterator[Callable[..., Desk]]:
    """Gives the shared desk these jobs; with options of its own, a new one, which ends with the test."""
    desks: list[Desk] = []

    def make(*jobs: Job, connection: Connection | None = None, **options: Any) -> Desk:
        given = {job.name: job for job in jobs}
        if options:
            desks.append(Desk(tmp_path, jobs=given, connection=connection, **options))
            return desks[-1]
        shared_desk.connection = connection
        shared_desk.jobs.update(given)
        shared_desk.events.clear()
        return shared_desk

    yield make
    for made in desks:
        await made.close()


@pytest.fixture
def define() -> Callable[..., Job]:
    """Makes jobs that are tried once: `define("segfault", by="…")`."""

    def make(
        plugin: str, *, name: str | None = None, options: Mapping[str, Any] | None = None, **settings: Any
    ) -> Job:
        values = {"retry": RetryPolicy(attempts=1)} | dict(options or {})
        return Job(name or plugin, name or plugin, plugin, settings=settings, **values)

    return make


def impatient(connection: sqlalchemy.Connection, wishes: Sequence[None]) -> Sequence[None]:
    """The writer's own connection waits for no lock, so that no busy time-out passes."""
    connection.exec_driver_sql("PRAGMA busy_timeout = 10")
    return wishes
