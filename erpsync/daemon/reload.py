"""Taking changed files over while runs are going: all that can fail first, then one swap in the event loop."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from erpsync.config.configuration import Configuration
from erpsync.config.shelf import place_of_kept
from erpsync.core.errors import ConfigError
from erpsync.core.job import Job
from erpsync.core.problem import Problem
from erpsync.daemon.acceptance import Accepted, accept
from erpsync.daemon.check import parked_jobs, require_fitting
from erpsync.daemon.compose import Composition, instance_limits
from erpsync.daemon.plan import Plan, plan_change
from erpsync.scheduling.engine import Adoption
from erpsync.store.cursors import History, read_history


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is swapped in, `configuration` with all that only a restart takes over as it was."""

    accepted: Accepted
    configuration: Configuration
    parked: Mapping[str, tuple[Problem, ...]]
    adoption: Adoption
    plan: Plan


class Reload:
    """Reloads one composition, one time after the other.

    `restart` names what the files say by now and only a restart takes over; `refused` what is wrong with them since
    they were refused last; `accepted` is what runs.
    """

    def __init__(self, composition: Composition, accepted: Accepted) -> None:
        self.accepted = accepted
        self.refused = accepted.refused
        self.restart: tuple[str, ...] = ()
        self._house = composition
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, requested_by: str) -> Plan:
        """Take the files over as they are now; what changed by that.

        Raises:
            ConfigError: with all problems; the configuration of before stays in force.
            StoreError: likewise, or, where the state fails in the middle, what is missing is tried again.
        """
        async with self._one_at_a_time:
            composition = self._house
            try:
                history = await composition.store.read(read_history)
                prepared = await asyncio.to_thread(self._prepare, history)
            except ConfigError as error:
                self._refuse(error, requested_by)
                raise
            await composition.engine.adopt(prepared.adoption, lambda renamed: self._swap(prepared, renamed))
            await self.keep()
            self._tell(prepared.plan, requested_by)
            return prepared.plan

    def _prepare(self, history: Mapping[str, History]) -> _Prepared:
        """In a thread: reading ten thousand jobs takes a second."""
        composition = self._house
        before = composition.configuration
        accepted = accept(before.path, os.environ)
        after = _within_this_process(before, accepted.configuration)
        after = replace(
            after, jobs={name: _same(before.jobs.get(name), job) for name, job in after.jobs.items()}
        )
        changed_files = composition.catalog.refresh()
        parked = parked_jobs(after, composition.catalog, composition.resolver)
        require_fitting(parked, composition.parked)
        adoption = composition.engine.prepare(after.jobs, parked)
        plan = plan_change(
            before, accepted.configuration, history, composition.clock.now(), composition.catalog.cursor_of
        )
        plan = replace(plan, restart=(*plan.restart, *changed_files), parked=reasons(parked))
        return _Prepared(accepted, after, parked, adoption, plan)

    def _swap(self, prepared: _Prepared, renamed: Mapping[str, str]) -> None:
        """Everything that knows the configuration goes on with the new one, within one step of the loop."""
        composition, configuration = self._house, prepared.configuration
        composition.connections.adopt(configuration)
        composition.desk.adopt(configuration)
        composition.runner.adopt(
            configuration.jobs,
            {*prepared.adoption.touched, *(composition.parked.keys() ^ prepared.parked.keys())},
            renamed,
            max_runs=configuration.daemon.max_runs,
            instance_limits=instance_limits(configuration),
            pools=configuration.pools,
        )
        composition.configuration, composition.parked = configuration, prepared.parked
        self.accepted, self.refused, self.restart = prepared.accepted, (), prepared.plan.restart

    async def keep(self) -> None:
        """Remember what runs for a start with broken files; where that cannot be written, it is told."""
        composition = self._house
        data = composition.configuration.daemon.data
        try:
            await asyncio.to_thread(self.accepted.keep, composition.clock.now(), data)
        except OSError as error:
            hint = f"{place_of_kept(data)} must be a file that this user may replace"
            composition.emit("config.unkept", level="warning", error_message=str(error), hint=hint)

    def _tell(self, plan: Plan, requested_by: str) -> None:
        changes = [job.change for job in plan.jobs]
        self._house.emit(
            "config.reloaded",
            added=changes.count("added"),
            removed=changes.count("removed"),
            changed=changes.count("changed") + changes.count("renamed"),
            restart=", ".join(plan.restart) or None,
            requested_by=requested_by,
        )

    def _refuse(self, error: ConfigError, requested_by: str) -> None:
        self.refused = error.problems
        tell_refused(self._house, error, requested_by)


def tell_refused(composition: Composition, error: ConfigError, requested_by: str) -> None:
    """The files are broken; the daemon goes on with what it has."""
    first = next((each for each in error.problems if each.severity == "error"), None)
    composition.emit(
        "config.refused",
        level="error",
        message=first.message if first else error.message,
        place=f"{first.file}:{first.line}" if first and first.file else None,
        hint="the configuration of before stays in force; erpsync check",
        requested_by=requested_by,
    )


def reasons(parked: Mapping[str, Sequence[Problem]]) -> dict[str, str]:
    """What is in the way of each parked job, in a sentence."""
    return {job: problems[0].message for job, problems in parked.items()}


def _within_this_process(before: Configuration, after: Configuration) -> Configuration:
    """`after` with what is built into the process as it was."""
    built_in = ("data", "state", "plugins", "log_format", "log_level", "seal_key")
    daemon = replace(after.daemon, **{name: getattr(before.daemon, name) for name in built_in})
    return replace(
        after, daemon=daemon, control=before.control, metrics=before.metrics, secrets=before.secrets
    )


def _same(before: Job | None, after: Job) -> Job:
    """The very object of before where nothing changed: others tell by that."""
    return before if before is not None and before == after else after
