"""What an attempt needs before its plugin is entered: the plugin, its secrets and settings, its cursor."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from math import ceil

from erpsync.core.job import Job
from erpsync.core.run import Outcome, Run
from erpsync.core.secret import SecretReference
from erpsync.plugins.contract import Plugin, Settings
from erpsync.plugins.discovery import PluginCatalog
from erpsync.plugins.settings import references, validate_settings
from erpsync.store.cursors import read_cursor, read_cursors
from erpsync.store.dead_letters import open_letters, taken_up
from erpsync.store.history import RunFilter, list_runs
from erpsync.store.state import Store

_NEWEST = 20  # runs that say how long the next one may take


@dataclass(frozen=True, slots=True)
class Prepared:
    """`secrets` holds the value of each reference in the settings, by its text."""

    plugin: Plugin
    settings: Settings
    secrets: dict[str, str]
    cursor: str | None

    def in_child(self, job: Job) -> bool:
        """Whether it runs in a child process: on request, for its memory can be limited only there, and `def` plugins
        always, which would block the daemon."""
        return job.isolation == "process" or job.memory is not None or not self.plugin.is_async


@dataclass(frozen=True, slots=True)
class _Known:
    job: Job
    plugin: Plugin
    references: list[SecretReference]
    settings: Settings | None  # where no secret is in them, they are the same in every attempt


class Preparation:
    """Prepares attempts; remembers what cannot change between two of them."""

    def __init__(
        self, catalog: PluginCatalog, resolve: Callable[[SecretReference], str], store: Store
    ) -> None:
        self._catalog = catalog
        self._resolve = resolve
        self._store = store
        self._one_at_a_time = threading.Lock()  # the catalog is not made for several threads
        self._known: dict[str, _Known] = {}
        self._cursors: dict[str, str | None] = {}

    async def read_cursors(self, jobs: Iterable[str]) -> None:
        """Know the cursors of all jobs at once; those of others are read when they are needed."""
        cursors = await self._store.read(read_cursors)
        self._cursors |= {job: cursors.get(job) for job in jobs}

    async def prepare(self, job: Job) -> Prepared:
        """Everything for one attempt; secrets are read again each time.

        Raises:
            PluginLoadError, InvalidSettingsError, SecretUnavailableError, StoreError.
        """
        known = self._known.get(job.name)
        if known is None or known.job is not job:
            if self._catalog.loaded(job.plugin):
                known = self._learn(job)
            else:  # an import may take seconds
                known = await asyncio.to_thread(self._learn, job)
            self._known[job.name] = known
        if job.name not in self._cursors:
            self._cursors[job.name] = await self._store.read(read_cursor, job.name)
        cursor = self._cursors[job.name]
        if known.settings is not None:
            return Prepared(known.plugin, known.settings, {}, cursor)
        secrets = await asyncio.to_thread(lambda: {str(ref): self._resolve(ref) for ref in known.references})
        settings = validate_settings(known.plugin, job.settings, lambda ref: secrets[str(ref)])
        return Prepared(known.plugin, settings, secrets, cursor)

    def forget(self, jobs: Iterable[str]) -> None:
        """These names mean other jobs now."""
        for job in jobs:
            self._known.pop(job, None)
            self._cursors.pop(job, None)

    async def expected(self, job: Job) -> timedelta:
        """How long an attempt may take: longer than 19 of 20 of its newest runs, else what the job says."""
        newest = RunFilter(jobs=(job.name,), outcomes=(Outcome.SUCCEEDED,), limit=_NEWEST)
        runs = await self._store.read(list_runs, newest)
        took = sorted(run.duration_seconds or 0.0 for run in runs)
        if not took:
            return job.expected_duration or timedelta(0)
        return 1.5 * timedelta(seconds=took[ceil(0.95 * len(took)) - 1])

    async def given_letters(self, run: Run) -> list[str]:
        """Of the runs whose dead letters a run is to take up those that no other run has settled meanwhile, as the
        ledger has it: a crash may leave their files."""
        left = await self._store.read(open_letters, taken_up(run))
        return [run_id for run_ids in left.values() for run_id in run_ids]

    def cursor_moved(self, job: str, cursor: str | None) -> None:
        """The ledger holds this cursor now."""
        self._cursors[job] = cursor

    def repeatable(self, job: Job) -> bool:
        """Whether an attempt that was cut off may start again: the job's word, else the plugin's.

        Raises:
            PluginLoadError: nobody knows.
        """
        if job.repeatable is not None:
            return job.repeatable
        return self._plugin(job).repeatable

    def needs_children(self, jobs: Iterable[Job]) -> bool:
        """Whether some job will run in a child process, as far as is known without importing any plugin."""
        with self._one_at_a_time:
            blocking = {info.name for info in self._catalog.all() if info.is_async is False}
        return any(
            job.enabled and (job.isolation == "process" or job.memory is not None or job.plugin in blocking)
            for job in jobs
        )

    def _learn(self, job: Job) -> _Known:
        plugin = self._plugin(job)
        found = references(plugin, job.settings)
        settings = None if found else validate_settings(plugin, job.settings, None)
        return _Known(job, plugin, found, settings)

    def _plugin(self, job: Job) -> Plugin:
        if (loaded := self._catalog.loaded(job.plugin)) is not None:
            return loaded
        with self._one_at_a_time:
            return self._catalog.find(job.plugin)
