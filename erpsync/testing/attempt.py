"""One attempt of a plugin under test: its Reporter, its clients, and the runner's verdict on it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
from anyio import to_thread
from anyio.from_thread import BlockingPortal

from erpsync.core.clock import Clock
from erpsync.core.event import Level
from erpsync.core.instance import Identity
from erpsync.core.job import Job
from erpsync.core.redaction import Redactor
from erpsync.core.run import Counts, Run, RunTrigger, new_run_id
from erpsync.core.secret import SecretReference
from erpsync.erpnet.blocking import BlockingErp
from erpsync.erpnet.client import ErpClient
from erpsync.erpnet.sites import SiteDirectory
from erpsync.erpnet.transport import AuthorizedTransport
from erpsync.identity.client import TokenClient
from erpsync.identity.client_credentials import ClientCredentialsSource
from erpsync.identity.gate import ServerGates
from erpsync.identity.manager import TokenManager
from erpsync.identity.metadata import MetadataSource
from erpsync.plugins.context import Cursor, JobContext
from erpsync.plugins.contract import JobResult, Plugin, Settings
from erpsync.plugins.settings import validate_settings
from erpsync.running.channel import Done
from erpsync.running.fault import Fault, fault_of, nonsense
from erpsync.running.verdict import Ending, judge
from erpsync.store.ledger import End


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that the plugin, or a client on its behalf, wrote."""

    level: Level
    event: str
    fields: Mapping[str, object]


@dataclass(slots=True)
class Attempt:
    """`work` enters the plugin and keeps what comes of it; `credentials` are client id and secret."""

    plugin: Plugin
    settings: Mapping[str, object] | Settings
    sandbox: str | None
    credentials: tuple[str, str]
    secrets: Mapping[str, str]
    cursor: Cursor
    dry_run: bool
    params: Mapping[str, object]
    window: tuple[datetime, datetime] | None
    dead: Sequence[Mapping[str, object]] | None
    data: Path
    job: Job
    clock: Clock
    stop: Callable[[], bool]
    redactor: Redactor = field(default_factory=Redactor)
    counts: Counts = Counts()
    logs: list[LogLine] = field(default_factory=list)
    steps: list[tuple[int, int | None]] = field(default_factory=list)
    result: object = None
    exception: BaseException | None = None

    def log(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        clean = {
            name: self.redactor(value) if isinstance(value, str) else value for name, value in fields.items()
        }
        self.logs.append(LogLine(level, event, clean))

    def emit(self, event: str, /, *, level: Level = "info", **fields: object) -> None:
        self.log(level, event, fields)

    def counted(self, counts: Counts) -> None:
        self.counts = counts

    def progress(self, done: int, total: int | None) -> None:
        self.steps.append((done, total))

    def stopping(self) -> bool:
        return self.stop()

    async def work(self) -> None:
        """Enter the plugin with real clients; what it raises is kept."""
        try:
            async with httpx2.AsyncHTTPTransport() as base, httpx2.AsyncClient(transport=base) as client:
                await self._enter(base, client)
        except BaseException as error:  # noqa: BLE001 - the plugin's border: SystemExit too is an outcome
            self.exception = error

    def verdict(self) -> tuple[End, Fault | None]:
        """Where the runner would send the run, and the fault it would keep."""
        answer: Done | Fault
        if self.exception is not None:
            answer = fault_of(self.exception)
        elif isinstance(self.result, JobResult):
            answer = Done(self.result.counts.document(), self.result.note, self.cursor.staged)
        else:
            answer = nonsense(self.result)
        now = self.clock.now()
        asked = {"set": self.params, "dry_run": self.dry_run, "window": self.window, "dead": self.dead}
        by_hand = {name: value for name, value in asked.items() if value}
        run = Run(
            "run", self.job.name, "manual:run", self.plugin.name, RunTrigger.MANUAL, now, params=by_hand
        )
        ending = Ending(answer, self.counts, "stopping" if self.stop() else None, "asked to stop")
        end = judge(self.job, run, ending, repeatable=self.plugin.repeatable, now=now, jitter=lambda: 1.0)
        return end, answer if isinstance(answer, Fault) else None

    async def _enter(self, base: httpx2.AsyncBaseTransport, client: httpx2.AsyncClient) -> None:
        sites = SiteDirectory(client, self.sandbox, clock=self.clock) if self.sandbox else None
        tokens = self._tokens(client, sites) if sites else None
        transport = AuthorizedTransport(
            base=base,
            auth=tokens,
            origins=sites.origins if sites else frozenset(),
            clock=self.clock,
            emit=self.emit,
            instance="sandbox",
        )
        if self.dry_run:
            transport = transport.for_dry_run()
        http = httpx2.AsyncClient(transport=transport)
        erp: ErpClient | None = None
        if sites is not None:
            erp = ErpClient(http, sites.odata_root, emit=self.emit, clock=self.clock, dry_run=self.dry_run)
        try:
            if self.plugin.is_async:
                self.result = await self.plugin.function(self._context(sites, http, erp))
                return
            async with BlockingPortal() as portal:
                blocking = httpx2.Client(transport=_BlockingTransport(transport, portal))
                context = self._context(sites, blocking, BlockingErp(erp, portal) if erp else None)
                self.result = await to_thread.run_sync(self._call, context)
        finally:
            if tokens is not None:
                await tokens.close()

    def _call(self, context: JobContext[Any]) -> object:
        """In a thread; what the plugin raises must not pass the portal, which would wrap it."""
        try:
            return self.plugin.function(context)
        except BaseException as error:  # noqa: BLE001 - the plugin's border
            self.exception = error
            return None

    def _context(
        self,
        sites: SiteDirectory | None,
        http: httpx2.AsyncClient | httpx2.Client,
        erp: ErpClient | BlockingErp | None,
    ) -> JobContext[Any]:
        settings = self.settings
        if not isinstance(settings, Settings):
            settings = validate_settings(self.plugin, settings, self._resolve)
        return JobContext(
            settings=settings,
            job=self.job.name,
            run_id=new_run_id(self.clock.now()),
            reporter=self,
            data=self.data,
            artifacts=self.data / "artifacts",
            dead_letters=str(self.data / "dead.jsonl"),
            dry_run=self.dry_run,
            params=self.params,
            window=self.window,
            dead=self.dead,
            erp=(lambda: erp) if erp else None,
            http=lambda: http,
            root=sites.odata_root if sites else None,
            cursor=self.cursor,
            clock=self.clock,
            redact=self.redactor,
        )

    def _tokens(self, client: httpx2.AsyncClient, sites: SiteDirectory) -> TokenManager:
        client_id, client_secret = self.credentials
        self.redactor.learn(client_secret)
        reference = SecretReference("secret", ("sandbox",))
        identity = Identity("sandbox", "sandbox", client_id, (reference,), scope=("read", "update"))
        token_client = TokenClient(
            identity,
            metadata=MetadataSource(client, sites.identity_url, clock=self.clock),
            secrets=lambda: [client_secret],
            client=client,
            gates=ServerGates(self.clock),
            clock=self.clock,
            emit=self.emit,
            redactor=self.redactor,
        )
        return TokenManager(
            identity,
            ClientCredentialsSource(token_client),
            clock=self.clock,
            emit=self.emit,
            redactor=self.redactor,
        )

    def _resolve(self, reference: SecretReference) -> str:
        value = self.secrets[reference.value[-1]]
        self.redactor.learn(value)
        return value


class _BlockingTransport(httpx2.BaseTransport):
    """An asynchronous transport for a blocking client; answers are read whole."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, portal: BlockingPortal) -> None:
        self._inner = inner
        self._portal = portal

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return self._portal.call(self._answer, request, request.read())

    async def _answer(self, request: httpx2.Request, body: bytes) -> httpx2.Response:
        asked = httpx2.Request(
            request.method,
            request.url,
            headers=request.headers,
            stream=httpx2.ByteStream(body),
            extensions=request.extensions,
        )
        answer = await self._inner.handle_async_request(asked)
        assert isinstance(answer.stream, httpx2.AsyncByteStream)
        try:
            pieces = [piece async for piece in answer.stream]
        finally:
            await answer.aclose()
        stream = httpx2.ByteStream(b"".join(pieces))  # still encoded as its headers say
        return httpx2.Response(answer.status_code, headers=answer.headers, stream=stream)
