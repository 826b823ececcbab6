"""A client of the sandbox as the daemon builds it: token manager, transport, Domain API."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from erpsync.core.clock import ManualClock, SystemClock
from erpsync.core.event import silent
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.erpnet.client import ErpClient
from erpsync.erpnet.sites import SiteDirectory
from erpsync.erpnet.transport import AuthorizedTransport
from erpsync.identity.client import TokenClient
from erpsync.identity.client_credentials import ClientCredentialsSource
from erpsync.identity.gate import ServerGates
from erpsync.identity.manager import TokenManager
from erpsync.identity.metadata import MetadataSource
from erpsync.sandbox.identity import CLIENT_ID, CLIENT_SECRET
from erpsync.sandbox.server import Sandbox
from tests.servers.scripted import ScriptedServer

PRODUCTS = "General_Products_Products"
TLS = ssl.create_default_context()  # slow to make, so made once


class HastyClock(ManualClock):
    """Whoever sleeps on it moves it: no test waits. `slept` keeps the seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(timedelta(seconds=max(seconds, 0)))
        await asyncio.sleep(0)


@dataclass
class Site:
    """One identity at one instance."""

    root: str
    client: httpx2.AsyncClient
    base: httpx2.AsyncBaseTransport
    clock: HastyClock = field(default_factory=HastyClock)
    redactor: Redactor = field(default_factory=Redactor)
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory = SiteDirectory(self.client, self.root, clock=SystemClock())
        identity = Identity("night", "acme", CLIENT_ID, (), scope=("read", "update"))
        token_client = TokenClient(
            identity,
            metadata=MetadataSource(self.client, self.directory.identity_url, clock=SystemClock()),
            secrets=lambda: [CLIENT_SECRET],
            client=self.client,
            gates=ServerGates(SystemClock()),
            clock=SystemClock(),
            emit=self.emit,
            redactor=self.redactor,
        )
        self.tokens = TokenManager(
            identity,
            ClientCredentialsSource(token_client),
            clock=SystemClock(),
            emit=self.emit,
            redactor=self.redactor,
        )

    def emit(self, event: str, /, *, level: str = "info", **fields: object) -> None:
        self.events.append((event, fields))

    def transport(self, **changes: Any) -> AuthorizedTransport:
        usual: dict[str, Any] = {
            "base": self.base,
            "auth": self.tokens,
            "origins": self.directory.origins,
            "clock": self.clock,
            "emit": self.emit,
            "instance": "acme",
        }
        return AuthorizedTransport(**usual | changes)

    def http(self, **changes: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=self.transport(**changes))

    def erp(self, **changes: Any) -> ErpClient:
        dry_run = changes.pop("dry_run", False)
        return ErpClient(
            self.http(**changes),
            self.directory.odata_root,
            emit=self.emit,
            clock=self.clock,
            dry_run=dry_run,
        )


@pytest.fixture(scope="session")
def shared_sandbox() -> Iterator[Sandbox]:
    """An instance for tests that only read."""
    with Sandbox(license_slots=1000) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An instance of the test's own."""
    with Sandbox(rows=50) as sandbox:
        yield sandbox


async def _site(root: str) -> AsyncIterator[Site]:
    base = httpx2.AsyncHTTPTransport(verify=TLS)
    async with httpx2.AsyncClient(transport=base) as client:
        site = Site(root, client, base)
        yield site
        await site.tokens.close()


@pytest.fixture
async def reading(shared_sandbox: Sandbox) -> AsyncIterator[Site]:
    """At the shared instance."""
    async for site in _site(shared_sandbox.url):
        yield site


@pytest.fixture
async def site(sandbox: Sandbox) -> AsyncIterator[Site]:
    """At the instance of its own."""
    async for site in _site(sandbox.url):
        yield site


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedServer]:
    """A server that answers as the test says."""
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def odd(scripted: ScriptedServer) -> AsyncIterator[ErpClient]:
    """A client of the scripted server, whose service root is `/odata/`; it sends no token."""

    async def root() -> str:
        return f"{scripted.url}/odata"

    base = httpx2.AsyncHTTPTransport(verify=TLS)
    async with httpx2.AsyncClient(transport=base) as client:
        yield ErpClient(client, root, emit=silent, clock=HastyClock())
