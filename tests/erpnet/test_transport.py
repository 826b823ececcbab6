"""Where the token goes, and what happens when it is refused."""

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx2
import pytest

from erpsync.core.clock import SystemClock
from erpsync.core.errors import ReadOnlyError
from erpsync.core.event import silent
from erpsync.erpnet.pace import Pace
from erpsync.erpnet.transport import AuthorizedTransport, origin
from erpsync.sandbox.server import Sandbox
from tests.erpnet.conftest import PRODUCTS, HastyClock, Site
from tests.servers.scripted import ScriptedServer, http


def products(site: Site) -> str:
    return f"{site.root}/api/domain/odata/{PRODUCTS}?$top=1"


async def test_thousand_runs_take_one_token(site: Site, sandbox: Sandbox) -> None:
    """A thousand runs of one identity within one session take one token request and one licence slot."""
    gate = asyncio.Semaphore(50)

    async def run() -> int:
        async with gate:
            return await site.erp().count(PRODUCTS)

    assert set(await asyncio.gather(*(run() for _ in range(1000)))) == {50}
    stats = sandbox.stats()
    assert sum(stats["token_requests"].values()) == 1
    assert stats["sessions_opened"] == 1
    assert stats["violations"] == 0


async def test_fifty_401_cost_one_renewal(site: Site, sandbox: Sandbox) -> None:
    """T35: when all tokens are revoked, fifty calls at once are replayed with one new token."""
    erp = site.erp()
    await erp.count(PRODUCTS)
    sandbox.revoke_tokens()
    assert set(await asyncio.gather(*(erp.count(PRODUCTS) for _ in range(50)))) == {50}
    assert sum(sandbox.stats()["token_requests"].values()) == 2


async def test_second_401_is_final(site: Site, sandbox: Sandbox) -> None:
    """A fresh token that is refused too is not asked for again and again."""
    sandbox.fail(where="api", status=401, times=-1)
    async with site.http() as client:
        for _ in range(5):
            assert (await client.get(products(site))).status_code == 401
    assert sum(sandbox.stats()["token_requests"].values()) == 2


async def test_missing_scope_renews_nothing(site: Site, sandbox: Sandbox) -> None:
    """T37: 401 for a missing scope is not the token's age."""
    header = {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="update"'}
    sandbox.fail(where="api", status=401, headers=header, times=1)
    async with site.http() as client:
        assert (await client.get(products(site))).status_code == 401
    assert sum(sandbox.stats()["token_requests"].values()) == 1


async def test_full_licence_renews_nothing(site: Site, sandbox: Sandbox) -> None:
    """An exhausted licence answered with 401 is no reason for a new token, which would want a slot too."""
    sandbox.behave(license_status=401)
    sandbox.occupy(5)
    async with site.http() as client:
        answer = await client.get(products(site))
        assert "MaximumLicenseCountExceeded" in answer.text
    assert sum(sandbox.stats()["token_requests"].values()) == 1


async def test_streamed_body_is_not_replayed(site: Site, sandbox: Sandbox) -> None:
    """T38: a body that was read from a stream cannot be sent twice; the 401 is given to the caller."""

    async def body() -> AsyncIterator[bytes]:
        yield b"{}"

    async with site.http() as client:
        await client.get(products(site))
        sandbox.revoke_tokens()
        answer = await client.post(f"{site.root}/api/domain/odata/{PRODUCTS}", content=body())
    assert answer.status_code == 401


async def test_token_goes_to_allowed_origins_only(site: Site, scripted: ScriptedServer) -> None:
    """Another host, or another port of the same, gets no token."""
    scripted.script["/"] = http({})
    async with site.http() as client:
        await client.get(f"{scripted.url}/")
        await client.get(products(site))
    assert "authorization" not in scripted.seen[0].headers


async def test_redirect_takes_no_token_along(site: Site, sandbox: Sandbox, scripted: ScriptedServer) -> None:
    """A caller who follows redirects is led away without the token."""
    scripted.script["/away"] = http({})
    sandbox.fail(where="api", status=302, headers={"Location": f"{scripted.url}/away"})
    async with site.http() as client:
        answer = await client.get(products(site), follow_redirects=True)
    assert answer.status_code == 200
    assert "authorization" not in scripted.seen[0].headers
    assert "authorization" not in answer.history[0].request.headers


async def test_caller_never_sees_the_token(site: Site) -> None:
    """The request that the caller holds does not carry the token, so it cannot be logged by mistake."""
    async with site.http() as client:
        answer = await client.get(products(site))
    assert answer.status_code == 200
    assert "authorization" not in answer.request.headers


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "DELETE"])
@pytest.mark.parametrize("why", ["read", "dry run"])
async def test_writes_are_refused_before_they_are_sent(
    site: Site, sandbox: Sandbox, method: str, why: str
) -> None:
    """access = "read" and dry runs send GET and HEAD and nothing else, not even a token request."""
    transport = site.transport(access="read") if why == "read" else site.transport().for_dry_run()
    async with httpx2.AsyncClient(transport=transport) as client:
        with pytest.raises(ReadOnlyError, match=why):
            await client.request(method, products(site))
        assert sandbox.stats()["api_requests"] == 0
        assert (await client.get(products(site))).status_code == 200


async def test_connection_is_left_open_for_others(site: Site) -> None:
    """Closing one client leaves the instance's connections to the others."""
    await site.http().aclose()
    async with site.http() as client:
        assert (await client.get(products(site))).status_code == 200


async def test_silence_makes_the_address_doubtful() -> None:
    """Where nobody listens the address may have changed: whoever knows it hears so, and the error stays."""
    doubts: list[bool] = []
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with httpx2.AsyncHTTPTransport() as base:
            transport = AuthorizedTransport(
                base=base,
                auth=None,
                origins=frozenset(),
                clock=SystemClock(),
                emit=silent,
                instance="moved",
                doubt=lambda: doubts.append(True),
            )
            request = httpx2.Request("GET", f"http://127.0.0.1:{nobody.getsockname()[1]}/")
            with pytest.raises(httpx2.ConnectError):
                await transport.handle_async_request(request)
    assert doubts == [True]


async def test_pace_is_kept_and_shared() -> None:
    """Ten requests at ten a second take nine tenths of a second, whoever sends them."""
    clock = HastyClock()
    pace = Pace(10, clock)
    for _ in range(10):
        await pace.turn()
    assert clock.boot() == pytest.approx(0.9)


async def test_rate_holds_requests_back(reading: Site) -> None:
    """With a rate the transport waits on its clock between requests."""
    erp = reading.erp(rate=2.0)
    for _ in range(3):
        await erp.count(PRODUCTS)
    assert sum(reading.clock.slept) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://API.example/x", "https://api.example:443"),
        ("https://api.example:443", "https://api.example:443"),
        ("http://[::1]:80/", "http://::1:80"),
        ("https://user:pw@api.example/", "https://api.example:443"),
    ],
)
def test_origins_compare_by_host_and_port(url: str, expected: str) -> None:
    """Case, default ports and user names make no difference."""
    assert origin(url) == expected
