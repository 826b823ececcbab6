"""Sessions, licence slots, and the ways in which a token stops working."""

import asyncio
import itertools
from collections.abc import Iterator

import httpx2
import pytest

from erpsync.sandbox.behaviour import Behaviour
from erpsync.sandbox.identity import CLIENT_ID
from erpsync.sandbox.server import Sandbox

PRODUCTS = "General_Products_Products"


@pytest.fixture
def narrow() -> Iterator[Sandbox]:
    """A sandbox with two licence slots."""
    with Sandbox(license_slots=2, rows=20) as running:
        yield running


def test_a_token_costs_nothing_and_the_first_call_opens_a_session(sandbox, caller):
    """A session is opened by the first call; later calls re-use it."""
    caller.renew()
    assert sandbox.stats()["sessions_opened"] == 0
    for _ in range(3):
        caller.get("GetVersion")
    stats = sandbox.stats()
    assert (stats["sessions_opened"], stats["sessions_open"], stats["api_requests"]) == (1, 1, 3)
    assert sandbox.sessions()[0]["client_id"] == CLIENT_ID


def test_a_session_ends_when_idle_or_old(sandbox, caller):
    """Twenty idle minutes or sixty in all end a session; the next call with a live token opens another."""
    sandbox.behave(token_ttl=36_000)
    caller.get("GetVersion")
    sandbox.advance(20 * 60)
    assert sandbox.stats()["sessions_open"] == 0
    for _ in range(4):
        caller.get("GetVersion")
        sandbox.advance(19 * 60)
    assert sandbox.stats()["sessions_opened"] == 2
    assert sandbox.stats()["sessions_open"] == 0


def test_a_scaled_clock_makes_sessions_short():
    """With a scale of 100 000 a session is over after 36 ms, while tokens live on."""
    with Sandbox(rows=1, clock_scale=100_000) as sandbox:
        assert httpx2.get(f"{sandbox.url}/_sandbox/sessions", trust_env=False).json() == []
        body = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": "sandbox-secret"}
        with httpx2.Client(base_url=sandbox.url, trust_env=False) as http:
            token = http.post("/id/connect/token", data=body).json()["access_token"]
            headers = {"Authorization": f"Bearer {token}"}
            while sandbox.stats()["sessions_opened"] < 3:
                assert http.get("/api/domain/odata/GetVersion", headers=headers).status_code == 200


def test_a_new_token_is_a_new_session_unless_the_client_is_the_key(sandbox, caller):
    """Each token has its own session by default; with the switch an application has one."""
    caller.get("GetVersion")
    caller.renew()
    caller.get("GetVersion")
    assert sandbox.stats()["sessions_open"] == 2
    sandbox.restart_sessions()
    sandbox.behave(session_key="client")
    for _ in range(2):
        caller.renew()
        caller.get("GetVersion")
    assert sandbox.stats()["sessions_open"] == 1


def test_without_a_free_slot_a_call_is_refused(narrow, make_caller):
    """A third session is refused in ERP shape, with the status of the switch, until a slot is free."""
    narrow.occupy(1)
    first, second = make_caller(narrow), make_caller(narrow)
    first.get("GetVersion")
    status, error = second.error("GetVersion")
    assert (status, "MaximumLicenseCountExceeded" in error["message"]) == (500, True)
    narrow.behave(license_status=503, error_wrapper=False)
    bare = second.get("GetVersion")
    assert (bare.status_code, "message" in bare.json()) == (503, True)
    narrow.occupy(0)
    assert second.get("GetVersion").status_code == 200
    stats = narrow.stats()
    assert (stats["licenses_refused"], stats["max_sessions_open"], stats["violations"]) == (2, 2, 0)


async def test_many_readers_at_once_never_hold_more_sessions_than_slots(narrow):
    """Twenty clients with a token each get at most two sessions, and every call is counted once."""

    async def read(http: httpx2.AsyncClient) -> list[int]:
        form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": "sandbox-secret"}
        token = (await http.post("/id/connect/token", data=form)).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        url = f"/api/domain/odata/{PRODUCTS}?$top=5"
        return [(await http.get(url, headers=headers)).status_code for _ in range(10)]

    async with httpx2.AsyncClient(base_url=narrow.url, trust_env=False) as http:
        statuses = await asyncio.gather(*(read(http) for _ in range(20)))
    stats = narrow.stats()
    assert sorted(itertools.chain(*statuses)) == [200] * 20 + [500] * 180
    assert (stats["max_sessions_open"], stats["sessions_opened"], stats["licenses_refused"]) == (2, 2, 180)
    assert stats["api_requests"] == 200
    assert stats["token_requests"] == {CLIENT_ID: 20}


def test_a_restart_forgets_sessions_and_keeps_tokens(sandbox, caller):
    """After a restart the same token opens a new session."""
    caller.get("GetVersion")
    sandbox.restart_sessions()
    assert sandbox.stats()["sessions_open"] == 0
    assert caller.get("GetVersion").status_code == 200
    assert sandbox.stats()["sessions_opened"] == 2


def test_tokens_stop_working_when_revoked_or_expired(sandbox, caller):
    """Revoked and expired tokens are answered 401 without a body, and do not free their slot."""
    for end in (sandbox.revoke_tokens, lambda: sandbox.advance(3600)):
        caller.renew()
        assert caller.get("GetVersion").status_code == 200
        end()
        response = caller.get("GetVersion")
        assert (response.status_code, response.content) == (401, b"")
        assert "invalid_token" in response.headers["www-authenticate"]


def test_requests_need_exactly_one_valid_credential(sandbox, caller):
    """No, false or two credentials are answered 401; a browser may be sent to a login page."""
    caller.renew()
    token = sandbox.reference_token(CLIENT_ID)
    url = "/api/domain/odata/GetVersion"
    assert caller.http.get(url).status_code == 401
    assert caller.http.get(url, headers={"Authorization": "Bearer e30.e30.e30"}).status_code == 401
    assert caller.http.get(url, headers={"X-Api-Key": token}).status_code == 200
    assert caller.get("GetVersion", headers={}).status_code == 200
    assert caller.call("GET", "GetVersion", headers={"Api-Key": token}).status_code == 401
    assert sandbox.stats()["violations_by_kind"] == {"mixed_credentials": 1}
    sandbox.behave(login_redirect=True)
    assert caller.http.get(url).status_code == 302


def test_scopes_are_checked_on_every_request(caller):
    """Without `update` nothing is written; users of the system are not shown without `sec`."""
    caller.renew(scope="read")
    assert caller.call("POST", PRODUCTS, json={}).status_code == 403
    assert caller.error("Systems_Security_Users")[0] == 403


def test_an_application_with_sec_sees_users(sandbox, make_caller):
    """The `sec` scope opens the security sets."""
    sandbox.register("admin/service", "s", scope="read sec")
    assert len(make_caller(sandbox, "admin/service", "s").value("Systems_Security_Users")) == 3


def test_traffic_under_two_tokens_at_once_is_a_violation(make_caller):
    """Going back to an older token while a newer one is in use is noticed; moving on to a newer one is not."""
    with Sandbox(rows=1, behaviour=Behaviour(parallel_token_grace=0)) as sandbox:
        first, second = make_caller(sandbox), make_caller(sandbox)
        for caller in (first, second):
            caller.get("GetVersion")
        assert sandbox.stats()["violations"] == 0
        first.get("GetVersion")
        assert sandbox.stats()["violations_by_kind"] == {"parallel_tokens": 1}


def test_logging_out_is_a_violation(sandbox, caller):
    """Services must not call the log-out endpoint."""
    assert caller.http.get("/id/connect/endsession").status_code == 200
    assert caller.http.get("/_sandbox/stats").json()["violations"] == 1
