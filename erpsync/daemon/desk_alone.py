"""What commands see of identities and ask of servers where no daemon runs: the same desk in this process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from erpsync.config.configuration import Configuration
from erpsync.core.clock import Clock, SystemClock
from erpsync.core.event import silent
from erpsync.core.redaction import Redactor
from erpsync.core.session import Session, SlotUse
from erpsync.daemon.compose import compose, sealed_store
from erpsync.daemon.connections import Connections
from erpsync.daemon.desk import IdentityDesk
from erpsync.daemon.place import resolver_of
from erpsync.store.owner import OwnerLock
from erpsync.store.sessions import read_sessions
from erpsync.store.state import Store


@asynccontextmanager
async def desk_alone(configuration: Configuration, redactor: Redactor) -> AsyncIterator[IdentityDesk]:
    """A desk that opens no session and needs no state."""
    resolver, clock = resolver_of(configuration, redactor), SystemClock()
    sealed = sealed_store(configuration, resolver, silent)
    connections = Connections(configuration, resolver, clock, silent, redactor, sealed)
    try:
        yield IdentityDesk(
            configuration,
            connections,
            resolver,
            slots=partial(_noted_slots, configuration, clock),
            clock=clock,
            emit=silent,
            redactor=redactor,
        )
    finally:
        await connections.close()


def _noted_slots(configuration: Configuration, clock: Clock) -> list[SlotUse]:
    """The sessions that may still be open, as the daemon of before has noted. Raises StoreError."""
    state, now = configuration.daemon.state, clock.now()
    sessions: list[Session] = []
    if state.exists():
        store = Store.open(state, read_only=True)
        try:
            sessions = [session for session in store.read_now(read_sessions) if session.ends_at > now]
        finally:
            store.close()
    return [
        SlotUse(name, instance.license_slots, tuple(each for each in sessions if each.instance == name))
        for name, instance in sorted(configuration.instances.items())
        if instance.kind == "erpnet"
    ]


async def identities_alone(
    configuration: Configuration, redactor: Redactor
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All identities and the licence slots."""
    async with desk_alone(configuration, redactor) as desk:
        await asyncio.gather(*(desk.recall(name) for name in configuration.identities))
        return desk.identities(), desk.licenses()


async def identity_alone(
    configuration: Configuration, redactor: Redactor, name: str, *, fetch: bool
) -> dict[str, Any]:
    """One identity; see `IdentityDesk`."""
    async with desk_alone(configuration, redactor) as desk:
        if fetch:
            return await desk.fetch(name)
        await desk.recall(name)
        return desk.identity(name)


async def examine_alone(
    configuration: Configuration,
    redactor: Redactor,
    names: Sequence[str],
    *,
    api: bool,
    tell: Callable[[str], object],
    at_once: int,
) -> dict[str, list[dict[str, Any]]]:
    """The findings at each of these instances; `tell` hears of each that is done.

    Raises:
        OwnedElsewhereError: with `api`, which opens sessions, another process owns the state.
    """
    gate = asyncio.Semaphore(at_once)

    async def examine(desk: IdentityDesk, name: str) -> list[dict[str, Any]]:
        async with gate:
            found = await desk.examine(name, api=api)
        tell(name)
        return found

    async with owning_desk(configuration, redactor) if api else desk_alone(configuration, redactor) as desk:
        found = await asyncio.gather(*(examine(desk, name) for name in names))
    return dict(zip(names, found, strict=True))


@asynccontextmanager
async def owning_desk(configuration: Configuration, redactor: Redactor) -> AsyncIterator[IdentityDesk]:
    """A desk that may open sessions, since it owns the state with their ledger."""
    lock = OwnerLock(configuration.daemon.state)
    lock.acquire("doctor")
    try:
        composition = compose(configuration, redactor, SystemClock(), silent, alone=True)
        try:
            yield composition.desk
        finally:
            await composition.close()
    finally:
        lock.release()
