"""Tokens made by hand: read, sent as they are, read again, and watched."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from erpsync.core.errors import SecretUnavailableError
from erpsync.core.token import NEVER
from erpsync.erpnet.transport import AuthorizedTransport
from erpsync.identity.manager import TokenManager
from erpsync.identity.reference import ReferenceTokenSource, watch_ends
from erpsync.identity.status import TokenState
from tests.identity.conftest import NIGHT, TLS, Bench, seconds, until
from tests.servers.scripted import http

TOKEN = "enrt_" + "0123456789ABCDEF" * 4
OTHER = "enrt_" + "FEDCBA9876543210" * 4
SAT = replace(NIGHT, grant="reference_token", client_id="", scope=())


class Paper:
    """What the token is written on."""

    def __init__(self) -> None:
        self.token = TOKEN
        self.reads = 0

    def read(self) -> list[str]:
        self.reads += 1
        if not self.token:
            raise SecretUnavailableError("secret:sat is nowhere")
        return [self.token]


@pytest.fixture
def paper() -> Paper:
    return Paper()


Make = Callable[..., TokenManager]


@pytest.fixture
def make(bench: Bench, paper: Paper) -> Make:
    """A manager over the paper."""

    def made(**changes: Any) -> TokenManager:
        identity = replace(SAT, **changes)
        source = ReferenceTokenSource(
            identity, read=paper.read, clock=bench.clock, emit=bench.emit, redactor=bench.redactor
        )
        return bench.managed(identity, source)

    return made


async def reread(bench: Bench, manager: TokenManager, paper: Paper) -> None:
    """Five minutes later somebody asks, and the paper is looked at."""
    before = paper.reads
    bench.clock.advance(seconds(301))
    await manager.token()
    await until(lambda: paper.reads > before and manager._flight is not None and manager._flight.done())


async def test_it_is_used_as_it_is(bench: Bench, make: Make, paper: Paper) -> None:
    """No server is asked; nobody knows its end; it is fresh whatever its age, and the same for everybody."""
    manager = make()
    token = await manager.token()
    assert (token.value, token.expires_at) == (TOKEN, NEVER)
    status = manager.status()
    assert (status.state, status.grant, status.expires_at) == (TokenState.FRESH, "reference_token", None)
    assert (status.survives_seconds, status.next_renewal_at) == (None, None)
    bench.clock.advance(seconds(3600))
    assert manager.status().state is TokenState.FRESH
    for _ in range(3):
        await reread(bench, manager, paper)
        assert await manager.token(max_age=seconds(60)) is token
        assert await manager.token(min_valid=seconds(7200)) is token
        assert manager.status().state is TokenState.FRESH
    assert bench.server.seen == []
    assert [name for name, _, _ in bench.events] == ["token.read"]
    assert TOKEN not in repr((bench.events, manager.status(), token))


@pytest.mark.parametrize(
    ("scheme", "header"),
    [("bearer", ("authorization", f"Bearer {TOKEN}")), ("x-api-key", ("x-api-key", TOKEN))],
)
async def test_one_header_carries_it(bench: Bench, make: Make, scheme: str, header: tuple[str, str]) -> None:
    """It travels as Bearer or as X-Api-Key, never as both."""
    bench.server.script["/api"] = http({})
    async with httpx2.AsyncHTTPTransport(verify=TLS) as base:
        transport = AuthorizedTransport(
            base=base,
            auth=make(token_scheme=scheme),
            origins=frozenset({bench.server.url}),
            clock=bench.clock,
            emit=bench.emit,
            instance="acme",
        )
        async with httpx2.AsyncClient(transport=transport) as client:
            await client.get(f"{bench.server.url}/api")
    (seen,) = bench.server.seen
    carriers = {name: value for name, value in seen.headers.items() if name in ("authorization", "x-api-key")}
    assert carriers == dict([header])


async def test_a_new_one_is_taken(bench: Bench, make: Make, paper: Paper) -> None:
    """Another token on the paper is used from the next look on, as a new version."""
    manager = make()
    first = await manager.token()
    paper.token = OTHER
    await reread(bench, manager, paper)
    second = await manager.token()
    assert (second.value, second.version) == (OTHER, first.version + 1)
    assert len(bench.named("token.read")) == 2


async def test_a_lost_paper_does_not_take_the_token(bench: Bench, make: Make, paper: Paper) -> None:
    """While the paper is missing the token is used on, and a person hears of it once."""
    manager = make()
    token = await manager.token()
    paper.token = ""
    for _ in range(4):
        await reread(bench, manager, paper)
        assert await manager.token() is token
    assert len(bench.named("token.rejected")) == 1
    assert manager.status().last_error is not None
    assert manager.status().state is TokenState.FRESH
    paper.token = TOKEN
    bench.clock.advance(seconds(900))
    await reread(bench, manager, paper)
    assert manager.status().last_error is None


@pytest.mark.parametrize("value", ["enrt_ABC DEF", "two\nlines", "жетон", "x" * 20_000])
async def test_what_can_be_no_token(make: Make, paper: Paper, value: str) -> None:
    """What would break a header is refused before it reaches one, and not shown."""
    paper.token = value
    with pytest.raises(SecretUnavailableError) as caught:
        await make().token()
    assert value not in caught.value.message


async def test_a_refused_one_gets_another_chance(bench: Bench, make: Make, paper: Paper) -> None:
    """The API may have been wrong: after a quarter of an hour the same token is tried again."""
    manager = make()
    manager.invalidate((await manager.token()).version, "401")
    for _ in range(2):
        with pytest.raises(Exception, match="the API refuses the reference token of night"):
            await manager.token()
    bench.clock.advance(seconds(900))
    assert (await manager.token()).value == TOKEN
    assert manager.status().state is TokenState.FRESH


async def test_the_end_of_an_idle_token_is_told(bench: Bench, paper: Paper) -> None:
    """Nobody has to use a token for its end to be told, once for each of the days before; it is not even read."""
    identity = replace(SAT, token_expires=bench.clock.now() + timedelta(days=8))
    source = ReferenceTokenSource(
        identity, read=paper.read, clock=bench.clock, emit=bench.emit, redactor=bench.redactor
    )
    watching = asyncio.create_task(watch_ends(lambda: [source], bench.clock))
    told: list[object] = []
    for _ in range(9 * 24):
        bench.clock.advance(timedelta(hours=1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        told = [event["days"] for event in bench.named("token.expiry_neared")]
    watching.cancel()
    assert told == [8, 7, 1]
    assert paper.reads == 0
