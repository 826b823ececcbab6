"""Faults on demand, each seen from the outside."""

import asyncio
import socket
import time

import httpx2
import msgspec
import pytest

PRODUCTS = "General_Products_Products"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_token_endpoint_fails_as_often_as_told(sandbox, caller, status):
    """A fault takes its number of requests, and each is counted as a token request."""
    sandbox.fail(where="token", status=status, times=2)
    assert [caller.ask_token().status_code for _ in range(3)] == [status, status, 200]
    assert sandbox.stats()["token_requests"] == {"erpsync.sandbox/service": 3}


def test_answers_can_be_html_or_malformed(sandbox, caller):
    """Raw text replaces the answer, with its own headers."""
    sandbox.fail(where="token", status=200, raw="<html>maintenance</html>")
    sandbox.fail(
        where="token", status=200, raw='{"access_token": "x', headers={"Content-Type": "application/json"}
    )
    page, broken = caller.ask_token(), caller.ask_token()
    assert page.headers["content-type"].startswith("text/html")
    assert broken.headers["content-type"] == "application/json"
    with pytest.raises(ValueError):
        broken.json()


def test_real_answers_can_be_changed(sandbox, caller):
    """With `pass` the instance answers, and single keys are replaced or removed."""
    merge = {"expires_in": 3, "scope": "read", "token_type": None}
    sandbox.fail({"where": "token", "pass": True, "merge": merge})
    answer = caller.ask_token().json()
    assert (answer["expires_in"], answer["scope"], "token_type" in answer) == (3, "read", False)


def test_the_date_of_an_answer_can_be_another(sandbox, caller):
    """A fault's own Date header stands in place of the instance's."""
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    sandbox.fail(where="token", status=503, headers={"Date": date, "Retry-After": date})
    assert caller.ask_token().headers.get_list("date") == [date]


async def test_token_requests_under_way_together_are_counted(sandbox):
    """The highest number of token requests at one time is in the stats."""
    sandbox.fail({"where": "token", "status": 503, "delay_ms": 300, "times": 3})
    async with httpx2.AsyncClient(base_url=sandbox.url, trust_env=False) as http:
        await asyncio.gather(*(http.post("/id/connect/token") for _ in range(3)))
        await http.post("/id/connect/token")
    assert sandbox.stats()["most_token_requests_at_once"] == 3


def test_throttling_and_rejections(sandbox, caller):
    """Any status with any header can be had, and afterwards all is as before."""
    caller.renew()
    sandbox.fail(where="api", status=429, headers={"Retry-After": "7"})
    sandbox.fail(where="api", status=401)
    throttled = caller.get(PRODUCTS, top=1)
    assert (throttled.status_code, throttled.headers["retry-after"]) == (429, "7")
    assert caller.get(PRODUCTS, top=1).status_code == 401
    assert caller.get(PRODUCTS, top=1).status_code == 200


def test_business_errors_have_the_shape_of_erp_net(sandbox, caller):
    """`error` gives the fields of an ERP error object."""
    sandbox.fail(where="api", error={"code": 2029, "message": "R1"})
    status, error = caller.error(PRODUCTS)
    assert (status, error["code"], error["message"]) == (500, 2029, "R1")


def test_faults_choose_their_requests(sandbox, caller):
    """Path prefix, glob, method and the number of requests to let through narrow a fault."""
    sandbox.fail(path="/api/domain/odata/Crm_*", status=502, times=-1)
    sandbox.fail(path="/api/domain/odata/General_", method="get", status=504, after=1)
    assert caller.get("Crm_Sales_Customers", top=1).status_code == 502
    assert [caller.get(PRODUCTS, top=1).status_code for _ in range(3)] == [200, 504, 200]
    assert caller.call("POST", PRODUCTS, json={}).status_code == 500
    assert [item["times"] for item in caller.http.get("/_sandbox/faults").json()] == [-1]
    sandbox.clear_faults()
    assert caller.get("Crm_Sales_Customers", top=1).status_code == 200


def test_one_discovery_path_can_be_dead(sandbox, caller):
    """Only the other path of auto-discovery answers."""
    sandbox.fail(path="/sys/auto-discovery", status=404, times=-1)
    answers = [caller.http.get(f"/{place}/auto-discovery").status_code for place in ("sys", "tools", "sys")]
    assert answers == [404, 200, 404]


def test_a_connection_can_be_reset(sandbox, caller):
    """The peer sees a reset in place of an answer, and the next request works."""
    caller.renew()
    sandbox.fail(where="api", reset=True)
    host, port = sandbox.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"GET /api/domain/odata/ HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    assert caller.get(PRODUCTS, top=1).status_code == 200


def test_a_body_can_break_off_after_200(sandbox, caller, caplog):
    """A truncated answer announces its whole length, so that a client notices; nothing is logged about it."""
    caller.renew()
    sandbox.fail({"where": "api", "pass": True, "truncate": 100})
    with pytest.raises(httpx2.RemoteProtocolError):
        caller.get(PRODUCTS, top=50)
    assert len(caller.value(PRODUCTS, top=50)) == 50
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_answers_can_be_late_and_slow(sandbox, caller):
    """A delay comes before the answer, a drip within it; both arrive whole."""
    caller.renew()
    sandbox.fail({"where": "api", "pass": True, "delay_ms": 30, "drip_ms": 3})
    started = time.monotonic()
    assert len(caller.value(PRODUCTS, top=50)) == 50
    assert time.monotonic() - started >= 0.03 + 20 * 0.003


def test_a_client_with_a_time_out_gives_up(sandbox, caller):
    """A delay longer than a client's patience ends in its time-out, and does not keep others waiting."""
    caller.renew()
    sandbox.fail({"where": "api", "pass": True, "delay_ms": 60_000})
    with pytest.raises(httpx2.ReadTimeout):
        caller.call("GET", PRODUCTS, timeout=0.05)
    assert caller.get(PRODUCTS, top=1).status_code == 200


def test_the_side_door_arms_and_disarms(caller):
    """Over HTTP faults are posted one or many, listed and deleted; a key that does not exist is refused."""
    door = "/_sandbox/faults"
    assert len(caller.http.post(door, json=[{"status": 500}, {"where": "token", "status": 503}]).json()) == 2
    assert caller.http.post(door, json={"state": 500}).status_code == 400
    assert len(caller.http.get(door).json()) == 2
    assert caller.http.delete(door).json() == []


def test_a_misspelt_fault_is_refused(sandbox):
    """`fail` checks its fields."""
    with pytest.raises(msgspec.ValidationError):
        sandbox.fail(wher="api")
