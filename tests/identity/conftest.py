"""A token manager against a scripted server, with a clock in hand."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from erpsync.core.clock import Clock, ManualClock
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.identity.client import TokenClient
from erpsync.identity.client_credentials import ClientCredentialsSource
from erpsync.identity.gate import ServerGates
from erpsync.identity.keeper import TokenKeeper
from erpsync.identity.life import Renewal
from erpsync.identity.manager import TokenManager
from erpsync.identity.metadata import MetadataSource
from erpsync.identity.sealed import Drawer
from erpsync.identity.source import TokenSource
from tests.servers.scripted import Script, ScriptedServer, http

TOKEN_PATH = "/id/connect/token"
NIGHT = Identity("night", "acme", "my.trusted.app/service", (), scope=("read", "update"))
TLS = ssl.create_default_context()  # slow to make, so made once
SECRET = "correct-horse-battery"
DISCOVERY = "/id/.well-known/openid-configuration"
DOWN = http({"error": "temporarily_unavailable"}, 503)
REFUSED = http({"error": "invalid_client"}, 400)


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


class BenchClock(ManualClock):
    """A clock that knows whether the machine is at work, which takes no time of its own."""

    requests_under_way = 0


class WatchedTransport(httpx2.AsyncHTTPTransport):
    """A real transport that tells the clock of its requests."""

    def __init__(self, clock: BenchClock) -> None:
        super().__init__(verify=TLS, trust_env=False)
        self._clock = clock

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._clock.requests_under_way += 1
        try:
            return await super().handle_async_request(request)
        finally:
            self._clock.requests_under_way -= 1


async def passing(clock: BenchClock, work: Any) -> Any:
    """The result of `work`, time passing a second at a time whenever nothing else happens."""
    task = asyncio.ensure_future(work)
    while not (await asyncio.wait({task}, timeout=0.01))[0]:
        if not clock.requests_under_way:
            clock.advance(seconds(1))
    return await task


async def until(condition: Callable[[], object]) -> None:
    """Waits for a fact of the outside world, at most five seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.002)


def grant(token: str = "opaque-token-1", **fields: object) -> dict[str, object]:
    """A good answer; a field of None is left out."""
    answer = {"access_token": token, "expires_in": 3600, "token_type": "Bearer", "scope": "read update"}
    return {key: value for key, value in {**answer, **fields}.items() if value is not None}


@dataclass
class Bench:
    """A manager and all that surrounds it."""

    server: ScriptedServer
    client: httpx2.AsyncClient
    clock: BenchClock
    redactor: Redactor = field(default_factory=Redactor)
    events: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)
    secrets: list[str] = field(default_factory=lambda: [SECRET])
    managers: list[TokenManager] = field(default_factory=list)

    @property
    def issuer(self) -> str:
        return f"{self.server.url}/id"

    def answers(self, *scripts: Script) -> None:
        """What the token endpoint answers, in order; the last one for ever."""
        self.server.script[TOKEN_PATH] = list(scripts)

    @property
    def token_requests(self) -> int:
        return len(self.server.requests(TOKEN_PATH))

    def named(self, event: str) -> list[dict[str, object]]:
        return [fields for name, _, fields in self.events if name == event]

    def emit(self, event: str, /, *, level: str = "info", **fields: object) -> None:
        self.events.append((event, level, fields))

    def client_of(
        self,
        identity: Identity = NIGHT,
        *,
        issuer: str | None = None,
        secrets: Callable[[], Sequence[str | None]] | None = None,
        gates: ServerGates | None = None,
        clock: Clock | None = None,
        memory: Path | None = None,
    ) -> TokenClient:
        async def find_issuer() -> str:
            return issuer or self.issuer

        return TokenClient(
            identity,
            metadata=MetadataSource(self.client, find_issuer, clock=clock or self.clock, memory=memory),
            secrets=secrets or (lambda: list(self.secrets)),
            client=self.client,
            gates=gates or ServerGates(clock or self.clock),
            clock=clock or self.clock,
            emit=self.emit,
            redactor=self.redactor,
        )

    def manager(
        self,
        identity: Identity = NIGHT,
        *,
        issuer: str | None = None,
        secrets: Callable[[], Sequence[str | None]] | None = None,
        gates: ServerGates | None = None,
        clock: Clock | None = None,
        memory: Path | None = None,
        drawer: Drawer | None = None,
        renewal: Renewal = "late",
        **changes: Any,
    ) -> TokenManager:
        """A manager of a service's identity."""
        identity = replace(identity, **changes)
        client = self.client_of(
            identity, issuer=issuer, secrets=secrets, gates=gates, clock=clock, memory=memory
        )
        source = ClientCredentialsSource(client)
        keeper = TokenKeeper(client, drawer, self.emit) if drawer else None
        return self.managed(identity, source, clock=clock, renewal=renewal, keeper=keeper)

    def managed(
        self,
        identity: Identity,
        source: TokenSource,
        *,
        clock: Clock | None = None,
        renewal: Renewal = "late",
        keeper: TokenKeeper | None = None,
    ) -> TokenManager:
        """A manager of any source, closed with the bench."""
        manager = TokenManager(
            identity,
            source,
            clock=clock or self.clock,
            emit=self.emit,
            redactor=self.redactor,
            renewal=renewal,
            keeper=keeper,
        )
        self.managers.append(manager)
        return manager


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A server that describes itself rightly and gives good tokens until told otherwise."""
    clock = BenchClock()
    async with ScriptedServer() as server, httpx2.AsyncClient(transport=WatchedTransport(clock)) as client:
        bench = Bench(server, client, clock)
        document = {"issuer": bench.issuer, "token_endpoint": server.url + TOKEN_PATH}
        server.script[DISCOVERY] = http(document)
        bench.answers(http(grant()))
        yield bench
        for manager in bench.managers:
            await manager.close()


@pytest.fixture(scope="session")
def signing_key() -> str:
    """A private key in PEM; making one takes a moment."""
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
