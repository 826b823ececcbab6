"""The catalogue of what token endpoints, networks and clocks do, each case by its id, over a real socket."""
# ruff: noqa: N802 - catalogued cases are named by their ids

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest

from erpsync.core.errors import (
    DiscoveryError,
    ForbiddenError,
    IdentityError,
    TokenEndpointError,
    UnauthorizedError,
)
from erpsync.core.token import AccessToken
from erpsync.erpnet.answer import refusal
from erpsync.erpnet.client import ErpClient
from erpsync.erpnet.proxy import direct_or_proxied
from erpsync.erpnet.transport import AuthorizedTransport
from erpsync.identity.gate import ServerGates
from erpsync.identity.life import Phase, Renewal, failure
from erpsync.identity.manager import TokenManager
from erpsync.identity.reference import ReferenceTokenSource
from erpsync.identity.sealed import Drawer, SealedStore
from erpsync.identity.status import TokenState
from tests.identity.case_ids import CASE_IDS
from tests.identity.conftest import (
    DISCOVERY,
    DOWN,
    NIGHT,
    REFUSED,
    SECRET,
    TLS,
    TOKEN_PATH,
    Bench,
    grant,
    passing,
    seconds,
    until,
)
from tests.servers.fault_proxy import BlackHole, Cut, FaultProxy, Reset
from tests.servers.scripted import Script, Seen, http

GOOD = json.dumps(grant()).encode()
API = "/api/domain/odata/Products"


def test_every_case_has_its_test() -> None:
    """No id of the catalogue is without a test function in this folder, and no such function without its id."""
    sources = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert set(re.findall(r"def test_(T\d+)_", sources)) == set(CASE_IDS)


def doubt_levels(bench: Bench) -> list[str]:
    return [level for name, level, _ in bench.events if name == "token.answer_doubted"]


async def settled(manager: TokenManager) -> None:
    """No renewal is under way."""
    await until(lambda: manager._flight is None or manager._flight.done())


def doubts(bench: Bench) -> str:
    return " ".join(str(event["doubt"]) for event in bench.named("token.answer_doubted"))


async def token_after(bench: Bench, *answers: Script, **changes: Any) -> AccessToken:
    """The token that comes in the end, time passing as needed."""
    bench.answers(*answers)
    token: AccessToken = await passing(bench.clock, bench.manager(**changes).token())
    return token


async def refusal_of(bench: Bench, answer: Script, **changes: Any) -> TokenEndpointError:
    """The error that everybody gets at once, without a second request."""
    bench.answers(answer)
    with pytest.raises(TokenEndpointError) as caught:
        await bench.manager(**changes).token()
    assert not caught.value.retryable
    assert bench.token_requests == 1
    return caught.value


async def told_of(bench: Bench, answer: Script) -> dict[str, object]:
    """What is told of an answer that is no good and may be better next time, which it then is."""
    token = await token_after(bench, answer, http(grant("next")))
    assert token.value == "next"
    (told,) = bench.named("token.renewal_failed")
    return told


# -- how long a token lives ------------------------------------------------------------------------------------------


async def test_T02_lifetime_of_zero(bench: Bench) -> None:
    """expires_in 0 is taken for unknown, with a doubt told once: five minutes, not for ever, not a request a call."""
    bench.answers(http(grant("one", expires_in=0)), http(grant("two", expires_in=0)))
    manager = bench.manager()
    for _ in range(9):
        assert (await manager.token()).value == "one"
        bench.clock.advance(seconds(30))
    assert bench.token_requests == 1
    bench.clock.advance(seconds(30))
    assert (await manager.token()).value == "two"
    assert doubt_levels(bench) == ["warning"]


@pytest.mark.parametrize(
    ("expires_in", "lifetime"), [("3600", 3600), ("3600.0", 3600), (3599.7, 3599), (" 3600 ", 3600)]
)
async def test_T03_lifetime_as_text_or_fraction(bench: Bench, expires_in: object, lifetime: int) -> None:
    """Lifetimes written as text or with a fraction are whole seconds, without a doubt."""
    token = await token_after(bench, http(grant(expires_in=expires_in)))
    assert token.expires_at - token.obtained_at == seconds(lifetime)
    assert bench.named("token.answer_doubted") == []


@pytest.mark.parametrize("expires_in", ["abc", [], {}, float("nan"), True])
async def test_T04_lifetime_that_is_none(bench: Bench, expires_in: object) -> None:
    """What is no lifetime is one of five minutes, with a doubt; nothing crashes."""
    token = await token_after(bench, http(grant(expires_in=expires_in)))
    assert token.expires_at - token.obtained_at == seconds(300)
    assert "how long" in doubts(bench)
    assert doubt_levels(bench) == ["warning"]


@pytest.mark.parametrize(("renewal", "earliest", "latest"), [("late", 27, 27), ("early", 21, 24)])
async def test_T06_short_tokens(bench: Bench, renewal: Renewal, earliest: int, latest: int) -> None:
    """A token of 30 s is asked for once in its life, near its end, and not for each request."""
    bench.answers(http(grant(expires_in=30)))
    manager = bench.manager(renewal=renewal)
    asked: list[int] = []  # the second of each request
    for second in range(120):
        await manager.token()
        await settled(manager)
        asked += [second] * (bench.token_requests - len(asked))
        bench.clock.advance(seconds(1))
    lives = [later - earlier for earlier, later in pairwise(asked)]
    assert asked[0] == 0
    assert lives
    assert all(earliest <= life <= latest for life in lives), lives
    assert "30 s" in doubts(bench)
    assert doubt_levels(bench) == ["warning"]


async def test_T07_bogus_lifetime(bench: Bench) -> None:
    """A lifetime of thirty thousand years does not switch renewal off: a day is the longest."""
    token = await token_after(bench, http(grant(expires_in=10**12)))
    assert token.expires_at - token.obtained_at == timedelta(days=1)


async def test_T09_slow_answer(bench: Bench) -> None:
    """The life counts from sending: what the answer took is part of it."""

    async def slow(_: Seen) -> bytes:
        bench.clock.advance(
            seconds(14)
        )  # not the 20 of the catalogue: after 15 nobody listens any more (T41)
        return http(grant(expires_in=60))

    bench.answers(slow)
    sent = bench.clock.now()
    token = await bench.manager().token()
    assert (token.obtained_at, token.expires_at) == (sent, sent + seconds(60))


# -- the shape of an answer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a\r\nX-Evil: y", "with space", "nul\0", "жетон"])
async def test_T11_token_that_breaks_headers(bench: Bench, value: str) -> None:
    """A token that could break a header never reaches one, and is not shown."""
    told = await told_of(bench, http(grant(value)))
    assert f"{len(value)} characters" in str(told["error_message"])
    assert re.search(r"\(tok_[0-9a-f]{8}\)", str(told["error_message"]))
    assert value not in repr(bench.events)


async def test_T12_huge_token(bench: Bench) -> None:
    """16 KiB of token are taken, 100 kB are not, unless `largest_token` says so."""
    assert "100000 characters" in str((await told_of(bench, http(grant("x" * 100_000))))["error_message"])
    assert len((await token_after(bench, http(grant("x" * 16384)))).value) == 16384
    larger = await token_after(bench, http(grant("x" * 100_000)), largest_token=2**17)
    assert len(larger.value) == 100_000


@pytest.mark.parametrize("missing", [True, False])
async def test_T13_no_token_type(bench: Bench, missing: bool) -> None:
    """A missing token_type, or null, is taken for Bearer, with a doubt."""
    fields = grant(token_type=None) if missing else grant() | {"token_type": None}
    token = await token_after(bench, http(fields))
    assert token.header == ("Authorization", "Bearer opaque-token-1")
    assert "token_type" in doubts(bench)


@pytest.mark.parametrize("kind", ["bearer", "BEARER", "Bearer "])
async def test_T14_token_type_in_any_case(bench: Bench, kind: str) -> None:
    """However it is written, it is sent as Bearer, without a doubt."""
    token = await token_after(bench, http(grant(token_type=kind)))
    assert token.header == ("Authorization", "Bearer opaque-token-1")
    assert bench.named("token.answer_doubted") == []


async def test_T16_narrower_scope(bench: Bench) -> None:
    """Less than was asked for is accepted and shown: in the status, as a warning, in an event."""
    bench.answers(http(grant(scope="read")))
    manager = bench.manager()
    assert (await manager.token()).scope == ("read",)
    status = manager.status()
    assert (status.scope, status.asked_scope) == (("read",), ("read", "update"))
    assert status.warnings == ("the server did not grant the scope update",)
    assert "update" in doubts(bench)
    assert doubt_levels(bench) == ["warning"]


@pytest.mark.parametrize(
    "body", [GOOD[:-1] + b', "access_token": "other"}', GOOD + b"garbage"], ids=["two tokens", "garbage"]
)
async def test_T20_doubtful_json(bench: Bench, body: bytes) -> None:
    """Two access tokens or trailing garbage: nothing of it is believed."""
    assert "JSON" in str((await told_of(bench, http(body)))["error_message"])


async def test_T20_byte_order_mark(bench: Bench) -> None:
    """A byte order mark does no harm."""
    assert (await token_after(bench, http(b"\xef\xbb\xbf" + GOOD))).value == "opaque-token-1"


async def test_T21_error_with_success_status(bench: Bench) -> None:
    """200 with an error in it is that error."""
    assert (await refusal_of(bench, http({"error": "invalid_client"}, 200))).credentials


@pytest.mark.parametrize("status", [201, 206])
async def test_T22_other_success_status(bench: Bench, status: int) -> None:
    """Any 2xx with a token is good."""
    assert (await token_after(bench, http(grant(), status))).value == "opaque-token-1"


@pytest.mark.parametrize("status", [200, 201, 206])
async def test_T22_success_without_a_token(bench: Bench, status: int) -> None:
    """A 2xx without a token is the server's fault and may pass."""
    assert f"({status})" in str((await told_of(bench, http(b"", status)))["error_message"])


async def test_T22_no_content(bench: Bench) -> None:
    """204 has no body by definition, so no token."""
    assert "(204)" in str((await told_of(bench, b"HTTP/1.1 204 No Content\r\n\r\n"))["error_message"])


# -- errors and waits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401])
async def test_T25_credentials_refused(bench: Bench, status: int) -> None:
    """An error at once for everybody, told once; asked again after 15 minutes."""
    bench.answers(http({"error": "invalid_client"}, status))
    manager = bench.manager()
    for _ in range(14):
        with pytest.raises(TokenEndpointError) as caught:
            await manager.token()
        assert caught.value.credentials
        assert not caught.value.retryable
        assert "ApplicationSecretHash" in caught.value.hint
        bench.clock.advance(seconds(60))
    assert bench.token_requests == 1
    assert manager.status().state is TokenState.REJECTED
    assert [level for name, level, _ in bench.events if name == "token.rejected"] == ["error"]
    bench.answers(http(grant()))
    bench.clock.advance(seconds(61))
    assert (await manager.token()).value == "opaque-token-1"
    assert bench.named("token.renewed")[0]["trigger"] == "probe"


async def test_T25_secret_file_that_changes(bench: Bench, tmp_path: Path) -> None:
    """Parked runs fail at once and ask nobody, until the file holds another secret: then it is tried without waiting
    for the probe."""
    file = tmp_path / "night"
    file.write_text("wrong-secret")

    async def knows(seen: Seen) -> bytes:
        return http(grant()) if seen.form["client_secret"] == [SECRET] else REFUSED

    bench.answers(knows)
    manager = bench.manager(secrets=lambda: [file.read_text()])
    for _ in range(100):  # the clock stands: whoever waited would wait for ever
        with pytest.raises(TokenEndpointError):
            async with asyncio.timeout(5):
                await manager.token()
    assert bench.token_requests == 1
    file.write_text(SECRET)
    bench.clock.advance(seconds(5))
    assert (await manager.token()).value == "opaque-token-1"
    assert bench.token_requests == 2


async def test_T25_rolled_over_meanwhile(bench: Bench) -> None:
    """A refusal is followed by reading the secret again; a new one is tried at once."""

    async def rolled(seen: Seen) -> bytes:
        if seen.form["client_secret"] == ["brand-new-secret"]:
            return http(grant())
        bench.secrets[:] = ["brand-new-secret"]
        return REFUSED

    assert (await token_after(bench, rolled)).value == "opaque-token-1"
    assert bench.named("token.rejected") == []


async def test_T25_second_secret_refused_too(bench: Bench) -> None:
    """With two secrets each is tried once, then nobody asks any more."""
    bench.answers(REFUSED)
    bench.secrets[:] = ["first-secret", "second-secret"]
    manager = bench.manager()
    for _ in range(3):
        with pytest.raises(TokenEndpointError):
            await manager.token()
    tried = [seen.form["client_secret"][0] for seen in bench.server.requests(TOKEN_PATH)]
    assert tried == ["first-secret", "second-secret"]


async def test_T26_bare_403(bench: Bench) -> None:
    """403 without a word parks like refused credentials, and says that no reason was given."""
    bench.answers(http(b"", 403))
    manager = bench.manager()
    for _ in range(15):
        with pytest.raises(TokenEndpointError, match="without a reason") as caught:
            await manager.token()
        assert caught.value.credentials
        bench.clock.advance(seconds(59))
    assert bench.token_requests == 1
    bench.answers(http(grant()))
    bench.clock.advance(seconds(20))
    assert (await manager.token()).value == "opaque-token-1"
    assert bench.named("token.renewed")[0]["trigger"] == "probe"


@pytest.mark.parametrize(
    ("code", "setting"),
    [
        ("unauthorized_client", "SystemUserAllowed"),
        ("unsupported_grant_type", "client_credentials"),
        ("invalid_scope", "`scope`"),
        ("invalid_target", "`resource`"),
        ("invalid_request", "auth_method"),
    ],
)
async def test_T27_wrong_configuration(bench: Bench, code: str, setting: str) -> None:
    """Parked, with the setting or the field of the Trusted Application to mend."""
    error = await refusal_of(bench, http({"error": code}, 400))
    assert error.error == code
    assert setting in error.hint


@pytest.mark.parametrize(
    ("status", "body"), [(500, {"error": "invalid_client"}), (502, b"<html>"), (503, b""), (504, b"x")]
)
async def test_T29_server_in_trouble(bench: Bench, status: int, body: object) -> None:
    """A 5xx with any body may pass; it is asked again with growing patience, spread at random."""
    await token_after(bench, *[http(body, status)] * 4, http(grant()))
    waits = [event["retry_seconds"] for event in bench.named("token.renewal_failed")]
    assert len(waits) == 4
    assert all(0 <= float(str(wait)) <= most for wait, most in zip(waits, [1, 2, 4, 8], strict=True))


async def test_T29_living_token_is_used_on(bench: Bench) -> None:
    """With the server away the token is used to the end; one warning, and a few requests only."""
    bench.answers(http(grant()), DOWN)
    manager = bench.manager()
    await manager.token()
    bench.clock.advance(seconds(3541))
    for _ in range(48):
        assert (await manager.token()).value == "opaque-token-1"
        await until(lambda: manager.status().state is not TokenState.FETCHING)
        bench.clock.advance(seconds(1))
    failures = [level for name, level, _ in bench.events if name == "token.renewal_failed"]
    assert failures.count("warning") == 1
    assert 2 <= bench.token_requests - 1 <= 8
    bench.answers(http(grant("after")))
    bench.clock.advance(seconds(8))
    assert (await manager.token()).value == "after"


async def test_T29_patience_in_the_background(bench: Bench) -> None:
    """While a token lives long, a server that is away is asked less and less, at least every six minutes."""
    bench.answers(http(grant(expires_in=86400)), DOWN)
    manager = bench.manager(renewal="early")
    await manager.token()
    bench.clock.advance(seconds(86400 - 890))
    for _ in range(80):
        await manager.token()
        await settled(manager)
        bench.clock.advance(seconds(10))
    assert 4 <= bench.token_requests - 1 <= 7


@pytest.mark.parametrize(("phase", "longest"), [(Phase.AGING, 300), (Phase.EXPIRING, 5), (Phase.EXPIRED, 5)])
def test_T29_longest_waits(phase: Phase, longest: float) -> None:
    """However often it has failed: five minutes in the background, five seconds where somebody waits, by a fifth."""
    for count in (1, 5, 50, 5000):
        failed = failure(TokenEndpointError("away", retryable=True), 0.0, count)
        assert 0 < failed.next_try(phase) <= 1.2 * longest
    assert failed.next_try(phase) >= 0.8 * longest


async def test_T30_too_many_requests(bench: Bench) -> None:
    """429 with Retry-After 7: no request of any identity at this server before seven seconds are over."""
    times: list[float] = []

    async def limited(_: Seen) -> bytes:
        times.append(bench.clock.boot())
        return http({"error": "slow_down"}, 429, {"Retry-After": "7"}) if len(times) == 1 else http(grant())

    bench.answers(limited)
    gates = ServerGates(bench.clock)
    first, second = bench.manager(gates=gates), bench.manager(gates=gates, name="day")
    waiting = asyncio.create_task(first.token())
    await until(lambda: bench.token_requests == 1)
    await until(lambda: bench.named("token.renewal_failed"))
    tokens = await passing(bench.clock, asyncio.gather(waiting, second.token()))
    assert [token.value for token in tokens] == ["opaque-token-1"] * 2
    assert len(times) == 3
    assert min(times[1:]) - times[0] >= 7
    assert max(times[1:]) - times[0] <= 7 * 1.1 + 1  # time passes by the second here


async def test_T30_long_wait(bench: Bench) -> None:
    """A wait that is longer than callers have is an error that says until when; nobody asks meanwhile."""
    bench.answers(http({"error": "slow_down"}, 429, {"Retry-After": "120"}), http(grant()))
    gates = ServerGates(bench.clock)
    managers = [bench.manager(gates=gates), bench.manager(gates=gates, name="day")]
    for _ in range(3):
        for manager in managers:
            with pytest.raises(TokenEndpointError) as caught:
                await manager.token()
            assert caught.value.retryable
            assert caught.value.retry_after is not None
        bench.clock.advance(seconds(39))
    assert bench.token_requests == 1
    assert all(manager.status().state is TokenState.BACKOFF for manager in managers)
    bench.clock.advance(seconds(30))
    for manager in managers:
        assert (await passing(bench.clock, manager.token())).value == "opaque-token-1"


async def test_T30_no_time_given(bench: Bench) -> None:
    """429 without Retry-After closes the server for all identities too, each time twice as long."""
    bench.answers(http(b"", 429))
    gates = ServerGates(bench.clock)
    with pytest.raises(TokenEndpointError):
        await passing(bench.clock, bench.manager(gates=gates).token())
    asked = bench.token_requests
    assert 2 <= asked <= 5
    with pytest.raises(TokenEndpointError):
        await bench.client_of(replace(NIGHT, name="day"), gates=gates).request("client_credentials")
    assert bench.token_requests == asked


@pytest.mark.parametrize("body", [{"message": "slow down"}, grant()], ids=["no error", "even a token"])
async def test_T31_429_is_never_a_token(bench: Bench, body: object) -> None:
    """Whatever a 429 holds is not used as a token."""
    assert "429" in str((await told_of(bench, http(body, 429)))["error_message"])


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("Thu, 01 Jan 2026 00:00:20 GMT", 20, 22),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0, 1),
        ("soon", 0, 1),
        ("1e30", 0, 1),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 900, 1000),
        ("99999999999999999999", 900, 1000),
    ],
)
async def test_T32_retry_after_as_a_date(bench: Bench, value: str, least: float, most: float) -> None:
    """Against the answer's own Date, whatever our clock says; the past is now, nonsense ours, 15 minutes the most."""
    bench.clock.step(timedelta(hours=5))
    headers = {"Retry-After": value, "Date": "Thu, 01 Jan 2026 00:00:00 GMT"}
    bench.answers(http(b"", 503, headers), http(grant()))
    manager = bench.manager()
    waiting = asyncio.ensure_future(manager.token())
    await until(lambda: bench.named("token.renewal_failed"))
    wait = bench.named("token.renewal_failed")[0]["retry_seconds"]
    assert isinstance(wait, float)
    assert least <= wait <= most
    assert manager.status().last_error is not None
    if least < 900:
        await passing(bench.clock, waiting)
        return
    with pytest.raises(TokenEndpointError):
        await passing(bench.clock, waiting)
    assert bench.token_requests == 1
    bench.clock.advance(seconds(1000))  # no server keeps us from asking for longer than a quarter of an hour
    assert (await manager.token()).value == "opaque-token-1"


# -- the API says 401 ------------------------------------------------------------------------------------------------


@pytest.fixture
async def api(bench: Bench) -> AsyncIterator[tuple[TokenManager, httpx2.AsyncClient]]:
    """A manager, and a client that sends its tokens to the same server as an API."""
    manager = bench.manager()
    async with calling(bench, manager) as client:
        yield manager, client


@asynccontextmanager
async def calling(bench: Bench, manager: TokenManager) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that sends the manager's tokens to the server as an API."""
    base = httpx2.AsyncHTTPTransport(verify=TLS)
    transport = AuthorizedTransport(
        base=base,
        auth=manager,
        origins=frozenset({bench.server.url}),
        clock=bench.clock,
        emit=bench.emit,
        instance="acme",
    )
    async with httpx2.AsyncClient(transport=transport, base_url=bench.server.url) as client:
        yield client
    await base.aclose()


async def test_T35_fifty_refusals(bench: Bench, api: tuple[TokenManager, httpx2.AsyncClient]) -> None:
    """Fifty API calls refused with one token cost one renewal; who comes late takes what is there."""
    bench.answers(http(grant("one")), http(grant("two")))
    all_there, arrived = asyncio.Event(), 0

    async def answer(seen: Seen) -> bytes:
        nonlocal arrived
        if seen.headers["authorization"] == "Bearer two":
            return http({"value": []})
        arrived += 1
        if arrived == 50:
            all_there.set()
        await all_there.wait()
        return http(b"", 401)

    bench.server.script[API] = answer
    manager, client = api
    answers = await asyncio.gather(*(client.get(API) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert bench.token_requests == 2
    assert len(bench.named("token.invalidated")) == 1
    manager.invalidate(1, "a late one")
    assert (await manager.token()).value == "two"
    assert bench.named("token.renewed")[1]["trigger"] == "refused"


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (403, {}, "no"),
        (403, {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}, "lacks a scope"),
        (401, {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="update"'}, "scope of: update"),
    ],
)
async def test_T37_not_the_tokens_fault(
    bench: Bench,
    api: tuple[TokenManager, httpx2.AsyncClient],
    status: int,
    headers: dict[str, str],
    words: str,
) -> None:
    """403, or a missing scope, is no reason for another token; what lacks is said."""
    manager, client = api
    bench.server.script[API + "/$count"] = http({"error": {"message": "no"}}, status, headers)

    async def root() -> str:
        return bench.server.url + API.removesuffix("Products")

    with pytest.raises(ForbiddenError) as caught:
        await ErpClient(client, root, clock=bench.clock, emit=bench.emit).count("Products")
    assert words in caught.value.message
    assert ("granted: read update" in caught.value.message) == bool(headers)
    assert "scope" in caught.value.hint
    assert bench.token_requests == 1
    assert manager.status().state is TokenState.FRESH


@pytest.mark.parametrize("streamed", [False, True])
async def test_T38_401_for_a_write(
    bench: Bench, api: tuple[TokenManager, httpx2.AsyncClient], streamed: bool
) -> None:
    """A buffered body goes out again with the new token, a streamed one cannot: the 401 is the answer."""
    bench.answers(http(grant("one")), http(grant("two")))

    async def answer(seen: Seen) -> bytes:
        return http(b"", 401) if seen.headers["authorization"] == "Bearer one" else http(seen.body, 201)

    async def body() -> AsyncIterator[bytes]:
        yield b'{"a":1}'

    bench.server.script[API] = answer
    content = body() if streamed else b'{"a":1}'
    headers = {"Content-Length": "7"}
    written = await api[1].post(API, content=content, headers=headers)
    assert (written.status_code, written.content) == ((401, b"") if streamed else (201, b'{"a":1}'))
    assert len(bench.server.requests(API)) == (1 if streamed else 2)
    assert bench.token_requests == 2


async def test_T38_a_streamed_write_is_not_tried_again(
    bench: Bench, api: tuple[TokenManager, httpx2.AsyncClient]
) -> None:
    """Nobody can send a streamed body twice: its 401 is an error that no retry mends."""
    bench.answers(http(grant("one")), http(grant("two")))
    bench.server.script[API] = http(b"", 401)

    async def body() -> AsyncIterator[bytes]:
        yield b"{}"

    refused = await api[1].post(API, content=body(), headers={"Content-Length": "2"})
    error = refusal(refused.status_code, refused.headers, refused.content, f"POST {API}")
    assert isinstance(error, UnauthorizedError)
    assert not error.retryable
    assert len(bench.server.requests(API)) == 1


async def test_T38_write_refused_twice(bench: Bench, api: tuple[TokenManager, httpx2.AsyncClient]) -> None:
    """A write that is refused with a fresh token too is an error that no retry mends; it went out twice, no more."""
    bench.answers(http(grant("one")), http(grant("two")))
    bench.server.script[API] = http(b"", 401)

    async def root() -> str:
        return bench.server.url + API.removesuffix("Products")

    erp = ErpClient(api[1], root, clock=bench.clock, emit=bench.emit)
    with pytest.raises(UnauthorizedError) as caught:
        await erp.create("Products", {"Name": "x"})
    assert not caught.value.retryable
    assert [seen.headers["authorization"] for seen in bench.server.requests(API)] == [
        "Bearer one",
        "Bearer two",
    ]
    assert bench.token_requests == 2


# -- network and crowds ----------------------------------------------------------------------------------------------


async def test_T41_silence(bench: Bench) -> None:
    """A server that accepts and says nothing costs 15 s of the boot-time clock, and one request at a time."""
    async with FaultProxy(bench.server.url) as proxy:
        proxy.queue(*[BlackHole()] * 5)
        document = {"issuer": bench.issuer, "token_endpoint": proxy.url + TOKEN_PATH}
        bench.server.script[DISCOVERY] = http(document)
        manager = bench.manager()
        waiting = asyncio.gather(manager.token(), manager.token(), return_exceptions=True)
        await until(lambda: proxy.requests == 1)
        bench.clock.advance(seconds(7200))  # suspended for two hours: no timer of the loop has noticed
        await until(lambda: len(bench.named("token.renewal_failed")) == 1)
        assert "15 s" in str(bench.named("token.renewal_failed")[0]["error_message"])
        errors = await waiting
        assert proxy.requests == 1
    assert all(isinstance(error, TokenEndpointError) and error.retryable for error in errors)


@pytest.mark.parametrize("fault", [Reset(), Reset(forward=True), Cut(40)])
async def test_T41_broken_connections(bench: Bench, fault: Reset | Cut) -> None:
    """A connection that breaks before, in or after the request is tried again."""
    async with FaultProxy(bench.server.url) as proxy:
        proxy.queue(fault)
        document = {"issuer": bench.issuer, "token_endpoint": proxy.url + TOKEN_PATH}
        bench.server.script[DISCOVERY] = http(document)
        assert (await passing(bench.clock, bench.manager().token())).value == "opaque-token-1"
    assert len(bench.named("token.renewal_failed")) == 1


async def test_T42_redirect(bench: Bench) -> None:
    """The secret goes to the token endpoint and nowhere else; only the target's host is told."""
    location = f"{bench.server.url}/elsewhere?state=s3cret-state".replace("127.0.0.1", "localhost")
    error = await refusal_of(bench, http(b"", 302, {"Location": location}))
    assert not any("elsewhere" in seen.path for seen in bench.server.seen)
    assert "localhost" in error.message
    assert "s3cret-state" not in repr((error, bench.events))


@pytest.mark.parametrize("location", ["http://[", "//[x", "http://a]b", ""])
async def test_T42_redirect_to_no_address(bench: Bench, location: str) -> None:
    """What is no address is another page."""
    assert "another page" in (await refusal_of(bench, http(b"", 302, {"Location": location}))).message


@pytest.mark.parametrize(("status", "permanent"), [(407, True), (503, False)])
async def test_T43_proxy_that_refuses(bench: Bench, status: int, permanent: bool) -> None:
    """A proxy that wants credentials is an error of configuration; its own are not shown."""
    bench.server.script["id.example:443"] = http(b"", status)
    async with by_proxy(bench, bench.server.url) as client:
        bench.client = client
        with pytest.raises(DiscoveryError) as caught:
            await passing(bench.clock, bench.manager(issuer="https://id.example/id").token())
    assert caught.value.retryable is not permanent
    assert "`proxy`" in caught.value.hint
    assert bench.server.url in caught.value.message
    assert "proxy-password" not in repr((caught.value, bench.events))


async def test_T43_proxy_on_the_way_to_the_token_endpoint(bench: Bench) -> None:
    """A token endpoint that only a proxy leads to, which then refuses: parked, with the proxy's name."""
    bench.server.script["id.example:443"] = http(b"", 407)
    document = {"issuer": bench.issuer, "token_endpoint": "https://id.example/token"}
    bench.server.script[bench.server.url + DISCOVERY] = http(document)
    async with by_proxy(bench, bench.server.url) as client:
        bench.client = client
        manager = bench.manager()
        for _ in range(3):
            with pytest.raises(TokenEndpointError) as caught:
                await manager.token()
            assert not caught.value.retryable
    assert bench.server.url in caught.value.message
    assert len(bench.server.requests("id.example:443")) == 1
    assert manager.status().state is TokenState.REJECTED
    assert "proxy-password" not in repr((caught.value, bench.events))


async def test_T43_proxy_that_is_away(bench: Bench) -> None:
    """Nobody at the proxy's address may pass, and is said of the proxy."""
    async with by_proxy(bench, "http://127.0.0.1:9") as client:
        bench.client = client
        with pytest.raises(DiscoveryError) as caught:
            await passing(bench.clock, bench.manager(issuer="https://id.example/id").token())
    assert caught.value.retryable
    assert "proxy http://127.0.0.1:9" in caught.value.message
    assert "proxy-password" not in repr((caught.value, bench.events))


def by_proxy(bench: Bench, url: str) -> httpx2.AsyncClient:
    """A client as an instance with `proxy` has it."""
    proxy = url.replace("//", "//user:proxy-password@")
    return httpx2.AsyncClient(transport=direct_or_proxied(proxy, TLS, httpx2.Limits()))


async def test_T44_hundred_jobs_at_once(bench: Bench) -> None:
    """A hundred jobs of three identities make three requests, two at a time."""
    inside, most = 0, 0
    gates = ServerGates(bench.clock)

    async def counted(_: Seen) -> bytes:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.01)
        inside -= 1
        return http(grant())

    bench.answers(counted)
    managers = [bench.manager(gates=gates, name=f"night-{number}") for number in range(3)]
    await asyncio.gather(*(managers[number % 3].token() for number in range(100)))
    assert (bench.token_requests, most) == (3, 2)


# -- roll-over, clocks -----------------------------------------------------------------------------------------------


async def test_T54_roll_over(bench: Bench) -> None:
    """The second secret is tried when the first is refused, remembered, and reported with what to do."""

    async def knows(seen: Seen) -> bytes:
        return http(grant()) if seen.form["client_secret"] == ["secret-two"] else REFUSED

    bench.answers(knows)
    bench.secrets[:] = ["secret-one", "secret-two"]
    manager = bench.manager()
    await manager.token()
    assert (bench.token_requests, manager.status().secret_in_use) == (2, 1)
    (warning,) = manager.status().warnings
    assert "number 2 is in use since 2026-01-01T00:00:00" in warning
    assert warning in doubts(bench)
    bench.clock.advance(seconds(3600))
    await manager.token()
    assert bench.token_requests == 3


async def test_T54_roll_over_and_back(bench: Bench) -> None:
    """A server that goes back to the old secret for a while is followed, and the notice goes away."""
    accepted = "secret-two"

    async def knows(seen: Seen) -> bytes:
        return http(grant(expires_in=120)) if seen.form["client_secret"] == [accepted] else REFUSED

    bench.answers(knows)
    bench.secrets[:] = ["secret-one", "secret-two"]
    manager = bench.manager()
    for secret, index in (("secret-two", 1), ("secret-one", 0), ("secret-two", 1)):
        accepted = secret
        await manager.token()
        assert manager.status().secret_in_use == index
        assert len(manager.status().warnings) == index
        bench.clock.advance(seconds(120))
    assert bench.named("token.rejected") == []


async def test_T54_a_missing_secret_keeps_its_number(bench: Bench) -> None:
    """The second of two is number 2 where the first is missing too."""
    manager = bench.manager(secrets=lambda: [None, SECRET])
    await manager.token()
    assert manager.status().secret_in_use == 1
    assert "number 2 is in use" in manager.status().warnings[0]


async def test_T54_a_restart_knows_the_secret_in_use(bench: Bench, tmp_path: Path) -> None:
    """The token of the process before is of the second secret: number and notice are still there."""

    def drawer() -> Drawer:
        return SealedStore(tmp_path, ["k" * 32], bench.emit, host="here").drawer(NIGHT, bench.issuer)

    secrets: list[str | None] = [None, SECRET]
    await bench.manager(secrets=lambda: secrets, drawer=drawer()).token()
    again = bench.manager(secrets=lambda: secrets, drawer=drawer())
    await again.token()
    assert (bench.token_requests, again.status().secret_in_use) == (1, 1)
    assert "number 2 is in use" in again.status().warnings[0]


@pytest.mark.parametrize(("ahead", "told"), [(600, True), (-600, True), (31, True), (29, False), (-31, True)])
async def test_T56_skew_is_measured(bench: Bench, ahead: int, told: bool) -> None:
    """The server's Date against our clock is shown, told once above 30 s, and changes no lifetime."""
    bench.answers(http(grant(), headers={"Date": http_date(bench, ahead)}))
    manager = bench.manager()
    for _ in range(2):
        token = await manager.token()
        assert token.expires_at - token.obtained_at == seconds(3600)
        bench.clock.advance(seconds(3600))
        bench.answers(http(grant(), headers={"Date": http_date(bench, ahead)}))
    assert manager.status().clock_skew_seconds == ahead
    assert len(bench.named("token.answer_doubted")) == told
    assert ("clock" in doubts(bench)) == told


@pytest.mark.parametrize("ahead", [600, -600, None])
async def test_T56_assertions_tell_the_servers_time(
    bench: Bench, ahead: int | None, signing_key: str
) -> None:
    """A signed assertion lives a minute of the server's time, as far as its time is known."""
    document = {"issuer": bench.issuer, "token_endpoint": bench.server.url + TOKEN_PATH}
    headers = {} if ahead is None else {"Date": http_date(bench, ahead)}
    bench.server.script[DISCOVERY] = http(document, headers=headers)
    bench.secrets[:] = [signing_key]
    await bench.manager(auth_method="private_key_jwt").token()
    (assertion,) = bench.server.requests(TOKEN_PATH)[0].form["client_assertion"]
    claims = json.loads(base64.urlsafe_b64decode(assertion.split(".")[1] + "=="))
    theirs = int((bench.clock.now() + seconds(ahead or 0)).timestamp())
    assert theirs - 10 <= claims["iat"] <= theirs < claims["exp"] <= claims["iat"] + 60


@pytest.mark.parametrize("remembered", [False, True])
async def test_T56_assertions_after_a_correction(
    bench: Bench, signing_key: str, tmp_path: Path, remembered: bool
) -> None:
    """A clock that is set right between two renewals, or before a restart, is seen in the refusal, and put right."""
    ahead = 600.0

    async def strict(seen: Seen) -> bytes:
        (assertion,) = seen.form["client_assertion"]
        claims = json.loads(base64.urlsafe_b64decode(assertion.split(".")[1] + "=="))
        theirs = (bench.clock.now() + seconds(ahead)).timestamp()
        date = {"Date": http_date(bench, ahead)}
        if claims["iat"] <= theirs + 30 and theirs <= claims["exp"]:
            return http(grant(), headers=date)
        return http({"error": "invalid_client"}, 401, date)

    document = {"issuer": bench.issuer, "token_endpoint": bench.server.url + TOKEN_PATH}
    bench.server.script[DISCOVERY] = http(document, headers={"Date": http_date(bench, ahead)})
    bench.answers(strict)
    bench.secrets[:] = [signing_key]
    manager = bench.manager(auth_method="private_key_jwt", memory=tmp_path)
    await manager.token()
    assert bench.token_requests == 1
    if remembered:  # the next process knows the addresses, and nothing of clocks
        bench.server.script[DISCOVERY] = http(b"", 503)
        manager = bench.manager(auth_method="private_key_jwt", memory=tmp_path)
        await passing(bench.clock, manager.token())
    else:
        bench.clock.step(seconds(600))
        ahead = 0.0
        bench.clock.advance(seconds(3600))
        await manager.token()
    assert bench.token_requests == 3
    assert manager.status().clock_skew_seconds == ahead
    assert bench.named("token.rejected") == []


async def test_T56_a_refusal_at_the_right_time_is_one(bench: Bench, signing_key: str) -> None:
    """Where the clocks agree, a refused assertion is not sent again."""
    bench.secrets[:] = [signing_key]
    answer = http({"error": "invalid_client"}, 401, {"Date": http_date(bench, 0)})
    assert (await refusal_of(bench, answer, auth_method="private_key_jwt")).credentials


def http_date(bench: Bench, ahead: float) -> str:
    return (bench.clock.now() + seconds(ahead)).strftime("%a, %d %b %Y %H:%M:%S GMT")


@pytest.mark.parametrize("step", [timedelta(hours=4), timedelta(hours=-4)])
async def test_T57_clock_steps(bench: Bench, step: timedelta) -> None:
    """The token is over when either clock says so; a clock set back gives it no more time."""
    bench.answers(http(grant("one")), http(grant("two")))
    manager = bench.manager()
    await manager.token()
    bench.clock.step(step)
    assert (await manager.token()).value == ("two" if step > timedelta(0) else "one")
    bench.clock.advance(seconds(3600))
    assert (await manager.token()).value != "one"


async def test_T57_suspend(bench: Bench) -> None:
    """After two hours of suspend the token of before is over, and nobody gets it."""
    bench.answers(http(grant("one")), http(grant("two")))
    manager = bench.manager()
    await manager.token()
    bench.clock.advance(timedelta(hours=2))
    assert manager.status().state is TokenState.EXPIRED
    assert (await manager.token()).value == "two"


# -- discovery -------------------------------------------------------------------------------------------------------


async def test_T59_known_endpoint_outlives_discovery(bench: Bench) -> None:
    """The description is read once a day, and does for a week while it cannot be read."""
    manager = bench.manager()
    await manager.token()
    bench.clock.advance(timedelta(hours=12))
    await manager.token()
    assert len(bench.server.requests(DISCOVERY)) == 1
    bench.server.script[DISCOVERY] = http(b"", 503)
    bench.clock.advance(timedelta(days=3))
    await manager.token()
    await until(lambda: len(bench.server.requests(DISCOVERY)) == 2)
    bench.clock.advance(timedelta(days=5))
    with pytest.raises(IdentityError):
        await passing(bench.clock, manager.token())


async def test_T59_daily_by_a_tenth(bench: Bench) -> None:
    """A day after it was read the description is read again, a tenth sooner or later, so that not all ask at once."""
    begin, read = bench.clock.boot(), []

    async def noted(_: Seen) -> bytes:
        read.append(bench.clock.boot() - begin)
        return http(document)

    document = {"issuer": bench.issuer, "token_endpoint": bench.server.url + TOKEN_PATH}
    bench.server.script[DISCOVERY] = noted
    clients = [bench.client_of(replace(NIGHT, name=f"night-{number}")) for number in range(12)]
    for client in clients:
        await client.metadata()
    for hour in (21.5, 22.5, 23.5, 24.5, 25.5, 26.5):
        bench.clock.advance(seconds(begin + hour * 3600 - bench.clock.boot()))
        for client in clients:
            await client.metadata()
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "metadata"))
        if hour == 21.5:
            assert len(read) == 12
    assert len(read) == 24
    assert len(set(read)) > 2  # spread


async def test_T59_nobody_waits_for_the_description(bench: Bench) -> None:
    """One that is a day old serves while a server that hangs is asked anew: no clock has to move for a token."""
    asked, never = asyncio.Event(), asyncio.Event()

    async def hangs(_: Seen) -> bytes:
        asked.set()
        await never.wait()
        return b""

    client = bench.client_of()
    await client.metadata()
    bench.server.script[DISCOVERY] = hangs
    bench.clock.advance(timedelta(days=3))
    async with asyncio.timeout(5):
        for _ in range(2):
            await client.request("client_credentials")
        await asked.wait()
    assert len(bench.server.requests(DISCOVERY)) == 2
    never.set()


@pytest.mark.parametrize(
    ("later", "known"), [(timedelta(days=1), True), (timedelta(days=8), False), (timedelta(days=-1), False)]
)
async def test_T59_known_endpoint_outlives_the_process(
    bench: Bench, tmp_path: Path, later: timedelta, known: bool
) -> None:
    """A process that starts while the description cannot be read goes on with the one read yesterday."""
    await bench.manager(memory=tmp_path / "servers").token()
    bench.server.script[DISCOVERY] = http(b"", 503)
    bench.clock.step(later)
    with nullcontext() if known else pytest.raises(DiscoveryError):
        token = await passing(bench.clock, bench.manager(memory=tmp_path / "servers").token())
        assert token.value == "opaque-token-1"


async def test_T59_damaged_memory(bench: Bench, tmp_path: Path) -> None:
    """What is remembered wrongly is not used, and harms nothing."""
    await bench.manager(memory=tmp_path).token()
    (file,) = tmp_path.iterdir()
    for content in (b"", b"[]", b'{"read_at": "2026-01-01", "server": {}}', b"\xff"):
        file.write_bytes(content)
        bench.server.script[DISCOVERY] = http(b"", 503)
        with pytest.raises(DiscoveryError):
            await passing(bench.clock, bench.manager(memory=tmp_path).token())


async def test_T60_tokens_from_another_host(bench: Bench) -> None:
    """A token endpoint on another host is used, told once, and shown."""
    endpoint = bench.server.url.replace("127.0.0.1", "localhost") + TOKEN_PATH
    bench.server.script[DISCOVERY] = http({"issuer": bench.issuer, "token_endpoint": endpoint})
    manager = bench.manager()
    for _ in range(2):
        await manager.token()
        bench.clock.advance(seconds(3600))
    assert len(bench.named("token.answer_doubted")) == 1
    assert "localhost" in doubts(bench)
    status = manager.status()
    assert status.token_endpoint == endpoint
    assert "localhost" in status.warnings[0]


async def test_T60_plain_http(bench: Bench) -> None:
    """A token endpoint that is not https, and not on this machine, gets nothing."""
    document = {"issuer": bench.issuer, "token_endpoint": "http://id.example/token"}
    bench.server.script[DISCOVERY] = http(document)
    with pytest.raises(DiscoveryError) as caught:
        await bench.manager().token()
    assert not caught.value.retryable


async def test_T61_unlisted_grant(bench: Bench) -> None:
    """A server that does not list Client Credentials is asked all the same, with a doubt."""
    document = {"issuer": bench.issuer, "token_endpoint": bench.server.url + TOKEN_PATH}
    bench.server.script[DISCOVERY] = http(document | {"grant_types_supported": ["authorization_code"]})
    assert (await bench.manager().token()).value == "opaque-token-1"
    assert "client_credentials" in doubts(bench)


# -- tokens made by hand ---------------------------------------------------------------------------------------------


async def test_T66_401_from_the_api(bench: Bench) -> None:
    """The API refuses a reference token: it is read again once and not sent again, nobody is asked for another, and
    no call goes out any more until somebody has made a new one."""
    tokens, reads = ["enrt_" + "A" * 64], 0

    def read() -> list[str]:
        nonlocal reads
        reads += 1
        return tokens

    async def answer(seen: Seen) -> bytes:
        good = seen.headers["authorization"] == "Bearer enrt_" + "B" * 64
        return http({"value": []}) if good else http(b"", 401)

    bench.server.script[API] = answer
    identity = replace(NIGHT, grant="reference_token", client_id="", scope=())
    source = ReferenceTokenSource(
        identity, read=read, clock=bench.clock, emit=bench.emit, redactor=bench.redactor
    )
    manager = bench.managed(identity, source)
    async with calling(bench, manager) as client:
        for _ in range(5):
            with pytest.raises(IdentityError, match="the API refuses"):
                await client.get(API)
        assert ([seen.path for seen in bench.server.seen], reads) == ([API], 2)
        assert manager.status().state is TokenState.REJECTED
        assert [level for name, level, _ in bench.events if name == "token.rejected"] == ["error"]
        tokens[:] = ["enrt_" + "B" * 64]
        bench.clock.advance(seconds(5))
        assert (await client.get(API)).status_code == 200


@pytest.mark.parametrize(
    ("left", "told"), [(15, []), (14, [14]), (10, [14]), (7, [7]), (2, [7]), (1, [1]), (0.5, [1])]
)
async def test_T66_configured_end(bench: Bench, left: float, told: list[int]) -> None:
    """The end is told when it is 14, 7 and 1 days ahead, and keeps the token from being sent afterwards."""
    end = bench.clock.now() + timedelta(days=left)
    identity = replace(NIGHT, grant="reference_token", client_id="", scope=(), token_expires=end)
    source = ReferenceTokenSource(
        identity,
        read=lambda: ["enrt_" + "A" * 64],
        clock=bench.clock,
        emit=bench.emit,
        redactor=bench.redactor,
    )
    manager = bench.managed(identity, source)
    for _ in range(3):
        assert (await manager.token()).expires_at == end
        bench.clock.advance(seconds(400))
    assert len(bench.named("token.expiry_neared")) == len(told)
    assert bool(manager.status().warnings) == bool(told)
    bench.clock.advance(timedelta(days=left))
    with pytest.raises(IdentityError) as caught:
        await manager.token()
    assert "expired at 2026-01" in caught.value.message


async def test_T66_end_is_told_three_times(bench: Bench) -> None:
    """In the last two weeks of a token that is in use there are three warnings."""
    end = bench.clock.now() + timedelta(days=20)
    identity = replace(NIGHT, grant="reference_token", client_id="", scope=(), token_expires=end)
    source = ReferenceTokenSource(
        identity,
        read=lambda: ["enrt_" + "A" * 64],
        clock=bench.clock,
        emit=bench.emit,
        redactor=bench.redactor,
    )
    manager = bench.managed(identity, source)
    for _ in range(19 * 4 + 3):
        await manager.token()
        await settled(manager)
        bench.clock.advance(timedelta(hours=6))
    assert [event["days"] for event in bench.named("token.expiry_neared")] == [14, 7, 1]
