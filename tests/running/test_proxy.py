"""HTTP from a child process: through the daemon, which holds the token."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from erpsync.core.clock import ManualClock, SystemClock
from erpsync.core.event import silent
from erpsync.core.instance import Identity
from erpsync.core.job import Job, RetryPolicy
from erpsync.core.redaction import Redactor
from erpsync.core.secret import SecretReference
from erpsync.erpnet.sites import SiteDirectory
from erpsync.erpnet.transport import AuthorizedTransport
from erpsync.identity.client import TokenClient
from erpsync.identity.client_credentials import ClientCredentialsSource
from erpsync.identity.gate import ServerGates
from erpsync.identity.manager import TokenManager
from erpsync.identity.metadata import MetadataSource
from erpsync.running.connection import Connection
from erpsync.sandbox.identity import CLIENT_ID, CLIENT_SECRET
from erpsync.sandbox.server import Sandbox

MakeDesk = Callable[..., Any]
Define = Callable[..., Job]

pytestmark = pytest.mark.asyncio(loop_scope="module")
PRODUCTS = "General_Products_Products"


@pytest.fixture(scope="module")
def instance() -> Iterator[Sandbox]:
    with Sandbox(rows=450, license_slots=100) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(instance: Sandbox) -> Sandbox:
    """The instance, without what an earlier test asked of it."""
    instance.clear_faults()
    instance.set_secret(CLIENT_ID, CLIENT_SECRET)
    return instance


@pytest_asyncio.fixture(loop_scope="module")
async def connection(sandbox: Sandbox) -> AsyncIterator[Connection]:
    """The way to the sandbox, as the daemon makes it."""
    clock = SystemClock()
    reference = SecretReference("secret", ("sandbox",))
    async with httpx2.AsyncHTTPTransport() as base, httpx2.AsyncClient(transport=base) as client:
        sites = SiteDirectory(client, sandbox.url, clock=clock)
        identity = Identity("night", "acme", CLIENT_ID, (reference,), scope=("read", "update"))
        token_client = TokenClient(
            identity,
            metadata=MetadataSource(client, sites.identity_url, clock=clock),
            secrets=lambda: [CLIENT_SECRET],
            client=client,
            gates=ServerGates(clock),
            clock=clock,
            emit=silent,
            redactor=Redactor(),
        )
        tokens = TokenManager(
            identity,
            ClientCredentialsSource(token_client),
            clock=clock,
            emit=silent,
            redactor=Redactor(),
        )
        transport = AuthorizedTransport(
            base=base, auth=tokens, origins=sites.origins, clock=clock, emit=silent, instance="acme"
        )
        yield Connection(transport, sites.odata_root, "night", "acme", httpx2.Timeout(10))
        await tokens.close()


@pytest.mark.parametrize("isolation", ["process", "task"])
async def test_relative_addresses_lie_below_the_domain_api(
    desk: MakeDesk, define: Define, connection: Connection, isolation: str
) -> None:
    """A plugin may write the end of an address, whatever it runs in."""
    job = define(
        "call-async", options={"isolation": isolation}, url=f"{PRODUCTS}?$top=1", name=f"relative-{isolation}"
    )
    run = await desk(job, connection=connection).run(job.name)
    assert run.outcome == "succeeded", run.error
    assert run.reason.startswith("200 ")


async def test_an_instance_that_is_away_for_minutes_costs_time_only(
    desk: MakeDesk, define: Define, connection: Connection, sandbox: Sandbox
) -> None:
    """503 to everything: each attempt waits as long as the server asks and holds no slot; in the end all is read."""
    clock, asked = ManualClock(), timedelta(seconds=90)
    options = {"isolation": "task", "retry": RetryPolicy(attempts=9)}
    at = desk(
        define("read-rows-async", options=options),
        define("quick"),
        connection=connection,
        clock=clock,
        max_runs=1,
    )
    sandbox.fail(where="api", status=503, headers={"Retry-After": "90"}, times=-1)
    before = sandbox.stats()["api_requests"]
    run = await at.offer("read-rows-async")
    for attempt in range(1, 7):
        failed = await at.hear("attempt.failed", attempt)
        wait = failed["next_attempt_at"] - clock.now()
        assert wait >= asked
        assert (await at.run("quick")).outcome == "succeeded"
        clock.advance(wait - timedelta(milliseconds=1))
        await asyncio.sleep(0.01)
        assert sandbox.stats()["api_requests"] - before == attempt
        if attempt == 6:
            sandbox.clear_faults()
        clock.advance(timedelta(milliseconds=1))
    ended = await at.finished(run)
    assert (ended.outcome, ended.counts.read) == ("succeeded", 450)
    assert clock.now() - ended.created_at > timedelta(minutes=9)
    assert at.attempts(run) == ["failed"] * 6 + ["succeeded"]


@pytest.mark.parametrize(
    ("plugin", "isolation"),
    [("read-rows", None), ("read-rows-async", "process"), ("read-rows-async", "task")],
)
async def test_pages_are_read_in_every_isolation(
    desk: MakeDesk, define: Define, connection: Connection, plugin: str, isolation: str | None
) -> None:
    """`ctx.erp` gives every row, from a child as from a task."""
    at = desk(define(plugin, options={"isolation": isolation}), connection=connection)
    run = await at.run(plugin)
    assert (run.outcome, run.counts.read, run.error) == ("succeeded", 450, None)


async def test_child_never_holds_the_token(
    desk: MakeDesk, define: Define, connection: Connection, sandbox: Sandbox
) -> None:
    """After calls to the API no part of a token is anywhere in the child's memory."""
    at = desk(define("search-memory", head="ey", tail=r"J[\w-]{20,}\.[\w-]{20,}"), connection=connection)
    run = await at.run("search-memory")
    assert (run.reason, run.counts.read) == ("found 0", 450)
    assert any(token.startswith("eyJ") for token in sandbox.tokens())


async def test_search_finds_what_is_there(desk: MakeDesk, define: Define, connection: Connection) -> None:
    """The search of the test before finds something that the child does hold."""
    at = desk(define("search-memory", head="General_Prod", tail="ucts_Products"), connection=connection)
    assert (await at.run("search-memory")).reason != "found 0"


@pytest.mark.parametrize("plugin", ["call", "call-async"])
@pytest.mark.parametrize("size", [0, 1000, 3_000_000])
async def test_bodies_pass_whole(
    desk: MakeDesk, define: Define, connection: Connection, plugin: str, size: int
) -> None:
    """Requests and answers of any size pass unchanged."""
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert b"authorization" not in head
        assert b"erpsync" not in head
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        received.extend(await reader.readexactly(length))
        body = b"y" * (size or 10)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nerpsync-fault: 1\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/here?a=b%20c"
        options = {"isolation": "process"}
        at = desk(define(plugin, url=url, method="POST", size=size, options=options), connection=connection)
        run = await at.run(plugin)
    assert run.error is None
    assert run.reason.startswith(f"200 {size or 10} ")
    assert bytes(received) == b"x" * size


async def test_expired_token_is_renewed_under_way(
    desk: MakeDesk, define: Define, connection: Connection, sandbox: Sandbox
) -> None:
    """A 401 in the middle costs the child nothing: the daemon renews and sends again."""
    at = desk(define("read-rows"), connection=connection)
    assert (await at.run("read-rows")).counts.read == 450
    sandbox.revoke_tokens()
    assert (await at.run("read-rows")).counts.read == 450


async def test_dry_run_sends_nothing_that_changes(
    desk: MakeDesk, define: Define, connection: Connection, sandbox: Sandbox
) -> None:
    """A dry run refuses a POST before it is sent, in a child and in a task."""
    url = f"{sandbox.url}/api/domain/odata/{PRODUCTS}"
    rows = sandbox.rows(PRODUCTS)
    for plugin in ("call", "call-async"):
        at = desk(define(plugin, url=url, method="POST", size=2), connection=connection)
        run = await at.run(plugin, params={"dry_run": True})
        assert (run.error.type, "dry run" in run.error.message) == ("ReadOnlyError", True)
    assert sandbox.rows(PRODUCTS) == rows


async def test_identity_error_reaches_the_child(
    desk: MakeDesk, define: Define, connection: Connection, sandbox: Sandbox
) -> None:
    """Refused credentials fail a child's run with the daemon's own error and hint."""
    sandbox.set_secret(CLIENT_ID, "another-secret-than-ours")
    run = await desk(define("read-rows"), connection=connection).run("read-rows")
    assert (run.outcome, run.error.type) == ("failed", "TokenEndpointError")
    assert run.error.hint


async def test_broken_answers_are_errors(
    desk: MakeDesk, define: Define, connection: Connection, sandbox: Sandbox
) -> None:
    """A truncated answer and a dead server are errors to a child, as they are to a task."""
    sandbox.fail(where="api", pass_=True, truncate=10, times=-1)
    url = f"{sandbox.url}/api/domain/odata/{PRODUCTS}?$top=1"
    dead = "http://127.0.0.1:1/"
    at = desk(define("call", url=url), define("call", name="dead", url=dead), connection=connection)
    truncated, refused = await at.run("call"), await at.run("dead")
    assert truncated.error.type == "RemoteProtocolError"
    assert refused.error.type == "ConnectError"


async def test_time_outs_of_the_client_hold(desk: MakeDesk, define: Define, connection: Connection) -> None:
    """A server that never answers ends the request after the client's time-out, seen from the child."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client gives up
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        hasty = Connection(connection.transport, connection.root, timeout=httpx2.Timeout(0.1))
        run = await desk(define("call", url=url), connection=hasty).run("call")
    assert run.error.type == "ReadTimeout"


async def test_cancel_reaches_a_waiting_request(
    desk: MakeDesk, define: Define, connection: Connection
) -> None:
    """A child that waits for a server is ended by SIGTERM, and its request to the server with it."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        while await reader.read(1000):
            pass
        gone.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        grace = timedelta(milliseconds=50)
        at = desk(define("call", url=url), connection=connection, grace=grace)
        run = await at.offer("call")
        async with asyncio.timeout(10):
            await asked.wait()
            await at.runner.cancel(run.id, "alice")
            assert (await at.finished(run)).outcome == "cancelled"
            await gone.wait()
