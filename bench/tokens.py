"""What a fresh token costs its callers, against an awaited attribute."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
from measure import Figure

from erpsync.core.clock import SystemClock
from erpsync.core.errors import DiscoveryError
from erpsync.core.event import silent
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.core.token import AccessToken
from erpsync.erpnet.gate import SessionGate
from erpsync.erpnet.slots import SlotBook
from erpsync.identity.client import TokenClient
from erpsync.identity.gate import ServerGates
from erpsync.identity.manager import TokenManager
from erpsync.identity.metadata import MetadataSource
from erpsync.identity.refresh import RefreshSource
from erpsync.identity.sealed import SealedStore, StoredToken
from erpsync.identity.source import Fetched, Grant, SourceFacts, TokenSource
from erpsync.store.state import Store

CALLS = 20_000
ROUNDS = 15


class OneToken:
    """A source whose server is no part of what is measured."""

    async def fetch(self, *, anew: bool = False) -> Fetched:
        clock = SystemClock()
        return Fetched(Grant("opaque-token-1", 3600.0, ("read",)), clock.now(), clock.boot())

    async def changed(self) -> bool:
        return False

    def withdrawn(self) -> bool:
        """It is not."""
        return False

    def facts(self) -> SourceFacts:
        return SourceFacts()


@dataclass
class Attribute:
    """The least that an asynchronous `token` can do."""

    value: AccessToken

    async def token(self) -> AccessToken:
        return self.value


async def microseconds(ask: Callable[[], Awaitable[object]]) -> float:
    """What one of many calls in a row takes."""
    begin = time.perf_counter()
    for _ in range(CALLS):
        await ask()
    return (time.perf_counter() - begin) / CALLS * 1e6


def manager(source: TokenSource) -> TokenManager:
    return TokenManager(
        Identity("night", "acme"), source, clock=SystemClock(), emit=silent, redactor=Redactor()
    )


def gate(folder: Path) -> SessionGate:
    """The way to a token at ERP.net: one more look, at the session."""
    book = SlotBook("acme", 1, SystemClock(), silent)
    store = Store.open(folder / "state.db")
    source = manager(OneToken())
    return SessionGate(
        "night", "client_credentials", source, book, store=store, clock=SystemClock(), emit=silent
    )


async def nowhere() -> str:
    raise DiscoveryError("no server is asked here")


def person(folder: Path, http: httpx2.AsyncClient) -> TokenManager:
    """Somebody who has signed in: each use looks whether she has signed out meanwhile."""
    clock, redactor = SystemClock(), Redactor()
    ann = Identity("ann", "acme", "desk", grant="authorization_code", auth_method="none")
    drawer = SealedStore(folder / "tokens", ["k" * 32], silent).drawer(ann, "https://acme.my.erp.net")
    now = clock.now()
    drawer.save(StoredToken("opaque", now, 3600.0, ("read",), refresh_token="r", refreshed_at=now))
    client = TokenClient(
        ann,
        metadata=MetadataSource(http, nowhere, clock=clock),
        secrets=list,
        client=http,
        gates=ServerGates(clock),
        clock=clock,
        emit=silent,
        redactor=redactor,
    )
    source = RefreshSource(client, drawer)
    return TokenManager(ann, source, clock=clock, emit=silent, redactor=redactor, keeper=source)


async def medians() -> list[float]:
    """A service, one at ERP.net, a person and the attribute, in turns, so that a busy moment meets all of them."""
    now = datetime.now(UTC)
    attribute = Attribute(AccessToken("x", 1, now, now + timedelta(hours=1)))
    with tempfile.TemporaryDirectory() as folder:
        async with httpx2.AsyncClient(trust_env=False) as http:
            sessions = gate(Path(folder))
            ways = (
                manager(OneToken()).token,
                sessions.enter,
                person(Path(folder), http).token,
                attribute.token,
            )
            rounds = [[await microseconds(way) for way in ways] for _ in range(ROUNDS)]
            await sessions.close()
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def figures() -> list[Figure]:
    """A fresh token of one identity, by each way that jobs take."""
    *ours, other = asyncio.run(medians())
    names = ("a fresh token", "the same at ERP.net, with its open session", "the same of a person")
    return [
        Figure(name, each, "µs", other, "awaited attribute", "≤ 5 µs more")
        for name, each in zip(names, ours, strict=True)
    ]
