"""The object graph: every room's objects, made from a configuration and put together."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from erpsync.config.configuration import Configuration
from erpsync.config.seal import seal_keys
from erpsync.config.secrets import SecretResolver
from erpsync.core.clock import Clock
from erpsync.core.event import Emit
from erpsync.core.problem import Problem
from erpsync.core.redaction import Redactor
from erpsync.core.run import Run, State
from erpsync.daemon.check import parked_jobs, require_schedules
from erpsync.daemon.connections import Connections
from erpsync.daemon.desk import IdentityDesk
from erpsync.daemon.place import resolver_of, run_log_of
from erpsync.identity.sealed import SealedStore
from erpsync.plugins.discovery import PluginCatalog
from erpsync.running.runner import Runner
from erpsync.scheduling.engine import Engine
from erpsync.scheduling.handover import hand_over
from erpsync.store.state import Store


@dataclass(slots=True)
class Composition:
    """What works together in one process. `parked` names the jobs that cannot run, with the reasons.

    A reload replaces `configuration` and `parked`, nothing else.
    """

    configuration: Configuration
    resolver: SecretResolver
    catalog: PluginCatalog
    clock: Clock
    emit: Emit
    store: Store
    connections: Connections
    desk: IdentityDesk
    runner: Runner
    engine: Engine
    parked: Mapping[str, tuple[Problem, ...]]

    async def start(self) -> None:
        """Take up what the ledger holds, then claim what is due. May be repeated where it failed."""
        await self.engine.adopt_former()
        await self.runner.start()
        await self.engine.start()

    async def drain(self) -> None:
        """Claim nothing any more, and let what runs end, for `drain` at most."""
        await self.engine.stop()
        await self.runner.drain(self.configuration.daemon.drain)

    async def stop(self) -> None:
        """Claim and run nothing any more."""
        await self.engine.stop()
        await self.runner.stop()

    async def close(self) -> None:
        """After the engine and the runner have stopped: connections, then the state."""
        await self.connections.close()
        self.store.close()


_PATIENCE_ALONE = timedelta(seconds=30)  # a person waits in front of `run`


def compose(
    configuration: Configuration, redactor: Redactor, clock: Clock, emit: Emit, *, alone: bool = False
) -> Composition:
    """Everything, not yet started; the caller owns the state (see OwnerLock) and runs in an event loop.

    `alone` it runs nothing but what is asked for: the runs that come after those wait for a daemon.

    Raises:
        ConfigError: a schedule is not valid.
        StoreError: the state cannot be opened.
    """
    catalog = PluginCatalog(configuration.daemon.plugins)
    with ThreadPoolExecutor(1) as aside:  # another process imports the plugins while we read the schedules
        proof = aside.submit(
            catalog.prove, {job.plugin for job in configuration.jobs.values() if job.enabled}
        )
        require_schedules(configuration)
        proof.result()
    resolver = resolver_of(configuration, redactor)
    parked = parked_jobs(configuration, catalog, resolver)
    sealed = sealed_store(configuration, resolver, emit)
    store = Store.open(configuration.daemon.state)
    connections = Connections(configuration, resolver, clock, emit, redactor, sealed, store)

    def handed_over(connection: Connection, finished: Sequence[Run], now: datetime) -> list[Run]:
        runs = hand_over(connection, finished, engine.rules, now)
        return [run for run in runs if run.state is State.FINISHED] if alone else runs

    runner = Runner(
        jobs=configuration.jobs,
        catalog=catalog,
        connections=connections.of_job,
        secrets=resolver.resolve,
        store=store,
        run_logs=run_log_of(configuration),
        data=configuration.daemon.data,
        clock=clock,
        emit=emit,
        redactor=redactor,
        max_runs=configuration.daemon.max_runs,
        instance_limits=instance_limits(configuration),
        pools=configuration.pools,
        books=connections.books,
        following=lambda job, instant: engine.following_fire(job, instant),
        hand_over=handed_over,
        patience=_PATIENCE_ALONE if alone else None,
    )
    engine = Engine(
        configuration.jobs,
        store,
        clock,
        emit,
        runner.offer,
        runner.replace,
        connections.has_nobody,
        parked,
    )
    desk = IdentityDesk(
        configuration,
        connections,
        resolver,
        slots=connections.slots,
        clock=clock,
        emit=emit,
        redactor=redactor,
    )
    return Composition(
        configuration, resolver, catalog, clock, emit, store, connections, desk, runner, engine, parked
    )


def instance_limits(configuration: Configuration) -> dict[str, int]:
    """How many runs at once the instances allow that have a limit of their own."""
    limits = ((name, instance.max_runs) for name, instance in configuration.instances.items())
    return {name: limit for name, limit in limits if limit is not None}


def sealed_store(configuration: Configuration, resolver: SecretResolver, emit: Emit) -> SealedStore | None:
    """Where tokens are kept; None without a key that can be used, which is told and stops nothing."""
    keys, problems = seal_keys(configuration, resolver)
    for problem in problems:
        emit("config.doubted", level="warning", message=problem.message, code=problem.code)
    return SealedStore(configuration.daemon.data / "tokens", keys, emit) if keys else None
