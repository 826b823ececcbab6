"""The sandbox can do to a client whatever the catalogue of token cases holds: each once, by a plain HTTP client."""

import asyncio
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import pytest

from erpsync.sandbox.identity import CLIENT_ID, CLIENT_SECRET
from erpsync.sandbox.server import Sandbox
from tests.identity.case_ids import CASE_IDS
from tests.sandbox.conftest import PRODUCTS, Caller
from tests.sandbox.test_sign_in import Browser

Answer = httpx2.Response
PASSING = {"where": "token", "pass": True}
GOOD = '{"access_token": "t", "token_type": "Bearer", "expires_in": 60}'


def merged(**changes: object) -> dict[str, object]:
    return {**PASSING, "merge": changes}


def field(name: str, value: object) -> Callable[[Answer], bool]:
    return lambda answer: answer.status_code == 200 and answer.json()[name] == value


def refused(status: int, error: str) -> Callable[[Answer], bool]:
    return lambda answer: (answer.status_code, answer.json()["error"]) == (status, error)


# What a fault makes of the answer to a token request, and how that is seen.
ANSWERS: dict[str, tuple[dict[str, Any], Callable[[Answer], bool]]] = {
    "T02": (merged(expires_in=0), field("expires_in", 0)),
    "T03": (merged(expires_in=" 3600 "), field("expires_in", " 3600 ")),
    "T04": (merged(expires_in="abc"), field("expires_in", "abc")),
    "T06": (merged(expires_in=30), field("expires_in", 30)),
    "T07": (merged(expires_in=10**12), field("expires_in", 10**12)),
    "T11": (merged(access_token="a\r\nX: y"), field("access_token", "a\r\nX: y")),
    "T12": (merged(access_token="x" * 100_000), field("access_token", "x" * 100_000)),
    "T13": (merged(token_type=None), lambda answer: "token_type" not in answer.json()),
    "T14": (merged(token_type="BEARER "), field("token_type", "BEARER ")),
    "T16": (merged(scope="read"), field("scope", "read")),
    "T20": ({"where": "token", "status": 200, "raw": GOOD + "x"}, lambda answer: answer.text == GOOD + "x"),
    "T21": (
        {"where": "token", "status": 200, "body": {"error": "invalid_client"}},
        refused(200, "invalid_client"),
    ),
    "T22": ({**PASSING, "status": 206}, lambda answer: answer.status_code == 206),
    "T25": (
        {"where": "token", "status": 401, "body": {"error": "invalid_client"}},
        refused(401, "invalid_client"),
    ),
    "T26": (
        {"where": "token", "status": 403},
        lambda answer: (answer.status_code, answer.content) == (403, b""),
    ),
    "T27": (
        {"where": "token", "status": 400, "body": {"error": "invalid_target"}},
        refused(400, "invalid_target"),
    ),
    "T29": ({"where": "token", "status": 502, "raw": "<html>"}, lambda answer: answer.status_code == 502),
    "T30": (
        {"where": "token", "status": 429, "headers": {"Retry-After": "7"}},
        lambda answer: (answer.status_code, answer.headers["retry-after"]) == (429, "7"),
    ),
    "T31": (
        {"where": "token", "status": 429, "body": {"message": "slow down"}},
        lambda answer: answer.json() == {"message": "slow down"},
    ),
    "T32": (
        {"where": "token", "status": 503, "headers": {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}},
        lambda answer: "2100" in answer.headers["retry-after"],
    ),
    "T42": (
        {"where": "token", "status": 302, "headers": {"Location": "https://elsewhere.example/"}},
        lambda answer: answer.headers["location"] == "https://elsewhere.example/",
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_answers_of_the_token_endpoint(sandbox: Sandbox, caller: Caller, case: str) -> None:
    """A fault gives this answer once; the next one is as it should be."""
    fault, is_seen = ANSWERS[case]
    sandbox.fail(fault)
    assert is_seen(caller.ask_token())
    assert set(caller.ask_token().json()) >= {"access_token", "expires_in", "scope"}


OTHERS: dict[str, Callable[[Sandbox, Caller], None]] = {}


def case(name: str) -> Callable[[Callable[[Sandbox, Caller], None]], Callable[[Sandbox, Caller], None]]:
    """Enters a way of its own into the table."""

    def enter(way: Callable[[Sandbox, Caller], None]) -> Callable[[Sandbox, Caller], None]:
        OTHERS[name] = way
        return way

    return enter


@case("T09")
def late(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.fail({**PASSING, "delay_ms": 100})
    began = time.monotonic()
    assert caller.ask_token().status_code == 200
    assert time.monotonic() - began >= 0.1


@case("T35")
def every_call_is_refused(sandbox: Sandbox, caller: Caller) -> None:
    caller.renew()
    sandbox.revoke_tokens()
    assert [caller.get(PRODUCTS, top=1).status_code for _ in range(3)] == [401] * 3
    caller.renew()
    assert caller.get(PRODUCTS, top=1).status_code == 200


@case("T37")
def a_scope_is_missing(sandbox: Sandbox, caller: Caller) -> None:
    """As ERP.net says it, and as RFC 6750 does."""
    sandbox.behave(granted_scope="read")
    answer = caller.call("POST", PRODUCTS, json={})
    assert (answer.status_code, "'update' is required" in answer.text) == (403, True)
    challenge = 'Bearer error="insufficient_scope", scope="update"'
    sandbox.fail(where="api", status=401, headers={"WWW-Authenticate": challenge})
    assert caller.call("POST", PRODUCTS, json={}).headers["www-authenticate"] == challenge


@case("T38")
def a_write_is_refused(sandbox: Sandbox, caller: Caller) -> None:
    caller.renew()
    sandbox.fail(where="api", method="POST", status=401)
    assert caller.get(PRODUCTS, top=1).status_code == 200
    assert caller.call("POST", PRODUCTS, json={}).status_code == 401
    assert caller.call("POST", PRODUCTS, json={}).status_code != 401


@case("T41")
def silence(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.fail(where="token", delay_ms=60_000)
    caller.http.timeout = httpx2.Timeout(0.1)
    with pytest.raises(httpx2.ReadTimeout):
        caller.ask_token()
    caller.http.timeout = httpx2.Timeout(5)
    assert caller.ask_token().status_code == 200


@case("T43")
def a_proxy_that_refuses(sandbox: Sandbox, caller: Caller) -> None:
    """As a proxy on the way to a server by plain http, and by CONNECT on the way to one by https."""
    sandbox.fail(status=407, headers={"Proxy-Authenticate": "Basic"}, times=2)
    with httpx2.Client(proxy=sandbox.url, trust_env=False) as client:
        assert client.post("http://id.example/connect/token").status_code == 407
        with pytest.raises(httpx2.ProxyError, match="407"):
            client.post("https://id.example/connect/token")


@case("T44")
def a_crowd(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.fail({**PASSING, "delay_ms": 200, "times": 3})

    async def all_at_once() -> None:
        form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        async with httpx2.AsyncClient(base_url=sandbox.url, trust_env=False) as http:
            await asyncio.gather(*(http.post("/id/connect/token", data=form) for _ in range(3)))

    asyncio.run(all_at_once())
    assert sandbox.stats()["most_token_requests_at_once"] == 3
    assert sandbox.stats()["token_requests"] == {CLIENT_ID: 3}


@case("T46")
def a_lost_answer(sandbox: Sandbox, caller: Caller) -> None:
    browser = somebody(sandbox, caller)
    first = browser.signed_in()["refresh_token"]
    sandbox.fail({**PASSING, "reset": True})
    with pytest.raises(httpx2.TransportError):
        browser.refresh(first)
    assert browser.refresh(first).json()["error"] == "invalid_grant"


@case("T47")
def rotation_that_forgives(sandbox: Sandbox, caller: Caller) -> None:
    """For a client that died with the answer in hand."""
    sandbox.behave(refresh_reuse_seconds=10)
    browser = somebody(sandbox, caller)
    first = browser.signed_in()["refresh_token"]
    second = browser.refresh(first).json()["refresh_token"]
    assert browser.refresh(first).json()["refresh_token"] not in (first, second)


@case("T50")
def no_new_refresh_token(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.behave(rotate_refresh=False)
    browser = somebody(sandbox, caller)
    first = browser.signed_in()["refresh_token"]
    assert "refresh_token" not in browser.refresh(first).json()
    assert browser.refresh(first).status_code == 200


@case("T51")
def a_password_that_was_changed(sandbox: Sandbox, caller: Caller) -> None:
    browser = somebody(sandbox, caller)
    first = browser.signed_in()["refresh_token"]
    sandbox.set_password("admin", "another-password")
    assert browser.refresh(first).json()["error"] == "invalid_grant"


@case("T54")
def a_secret_that_was_changed(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.set_secret(CLIENT_ID, "another-secret")
    assert caller.ask_token().json()["error"] == "invalid_client"
    assert caller.ask_token(client_secret="another-secret").status_code == 200


@case("T56")
def another_clock(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.skew(-600)
    sent = parsedate_to_datetime(caller.ask_token().headers["date"]).timestamp()
    assert sent == pytest.approx(time.time() - 600, abs=5)


@case("T57")
def two_hours_that_nobody_saw(sandbox: Sandbox, caller: Caller) -> None:
    caller.renew()
    sandbox.advance(7200)
    assert caller.get(PRODUCTS, top=1).status_code == 401


@case("T59")
def no_description(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.fail(where="discovery", path="/id/.well-known", status=503)
    assert described(caller).status_code == 503
    assert described(caller).status_code == 200


@case("T60")
def another_token_endpoint(sandbox: Sandbox, caller: Caller) -> None:
    endpoint = "http://id.example/token"
    sandbox.fail({"where": "discovery", "pass": True, "merge": {"token_endpoint": endpoint}})
    assert described(caller).json()["token_endpoint"] == endpoint


@case("T61")
def an_unlisted_grant(sandbox: Sandbox, caller: Caller) -> None:
    changes = {"grant_types_supported": ["authorization_code"]}
    sandbox.fail({"where": "discovery", "pass": True, "merge": changes})
    assert described(caller).json()["grant_types_supported"] == ["authorization_code"]
    assert caller.ask_token().status_code == 200


@case("T66")
def a_reference_token_that_was_revoked(sandbox: Sandbox, caller: Caller) -> None:
    caller.token = sandbox.reference_token(CLIENT_ID)
    assert caller.get(PRODUCTS, top=1).status_code == 200
    sandbox.revoke_tokens()
    assert caller.get(PRODUCTS, top=1).status_code == 401
    assert sandbox.stats()["token_requests"] == {}


def somebody(sandbox: Sandbox, caller: Caller) -> Browser:
    """A person's browser, over connections that end with the test."""
    browser = Browser(sandbox)
    browser.http.close()
    browser.http = caller.http
    return browser


def described(caller: Caller) -> Answer:
    return caller.http.get("/id/.well-known/openid-configuration")


@pytest.mark.parametrize("name", OTHERS)
def test_what_takes_more_than_an_answer(sandbox: Sandbox, caller: Caller, name: str) -> None:
    """Clocks, crowds, people, proxies and the API: by faults, switches and the side door."""
    OTHERS[name](sandbox, caller)


def test_no_case_is_left_out() -> None:
    """Every id of the catalogue is in one of the two tables, and nothing else."""
    assert {*ANSWERS} | {*OTHERS} == {*CASE_IDS}
    assert not {*ANSWERS} & {*OTHERS}
    assert len(CASE_IDS) == 39
