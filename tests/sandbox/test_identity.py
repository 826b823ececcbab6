"""Discovery and tokens, as a client meets them."""

import hashlib
import json
import time
import uuid
from base64 import b64encode, urlsafe_b64decode
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from erpsync.sandbox.identity import CLIENT_ID, CLIENT_SECRET, SIGNED


def _header(token: str) -> dict[str, Any]:
    part = token.partition(".")[0]
    return json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))


@pytest.mark.parametrize("path", ["/sys/auto-discovery", "/tools/auto-discovery"])
def test_auto_discovery_names_both_sites(reader, path):
    """Either path of auto-discovery leads to the identity site and to the service root of the Domain API."""
    document = reader.http.get(path).json()
    sites = {site["Type"]: site for site in document["WebSites"]}
    assert sites["ID"]["Url"] == f"{reader.sandbox.url}/id"
    assert sites["DomainAPI"]["Status"] == "Working"
    root = sites["DomainAPI"]["AdditionalProperties"]["ODataServiceRoot"]
    assert root == f"{reader.sandbox.url}/api/domain/odata/"


def test_auto_discovery_can_lack_a_working_api(sandbox, caller):
    """The API site can be switched to not working, or be absent."""
    statuses = []
    for status in ("NotWorking", "absent"):
        sandbox.behave(api_status=status)
        sites = caller.http.get("/sys/auto-discovery").json()["WebSites"]
        statuses.append([site["Status"] for site in sites if site["Type"] == "DomainAPI"])
    assert statuses == [["NotWorking"], []]


def test_openid_configuration_stands_under_its_issuer(reader):
    """The issuer is the authority without a slash, and every endpoint lies under it."""
    document = reader.http.get("/id/.well-known/openid-configuration").json()
    assert document["issuer"] == f"{reader.sandbox.url}/id"
    assert all(
        value.startswith(document["issuer"]) for key, value in document.items() if key.endswith("_endpoint")
    )
    assert "read" not in document["scopes_supported"]


def test_a_token_is_signed_and_has_the_documented_claims(reader):
    """An access token verifies against the published keys and has the claims of a service, no subject among them."""
    answer = reader.ask_token(scope="read update").json()
    keys = KeySet.import_key_set(reader.http.get("/id/.well-known/openid-configuration/jwks").json())
    token = jwt.decode(answer["access_token"], keys, algorithms=["RS256"])
    header, claims = _header(answer["access_token"]), token.claims
    assert header["typ"] == "at+jwt"
    assert len(header["kid"]) == 32
    assert claims["iss"] == f"{reader.sandbox.url}/id"
    assert {"DomainAPI", f"{claims['iss']}/resources"} <= set(claims["aud"])
    assert claims["scope"] == ["read", "update"]
    assert claims["exp"] - claims["iat"] == answer["expires_in"] == 3600
    assert claims["client_id"] == CLIENT_ID
    assert not {"sub", "sid", "id"} & set(claims)
    assert "refresh_token" not in answer


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": ""}, "invalid_request"),
        ({"client_secret": ""}, "invalid_request"),
        ({"client_secret": "wrong"}, "invalid_client"),
        ({"client_id": "nobody"}, "invalid_client"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"scope": "sec"}, "invalid_scope"),
        ({"scope": "read offline_access"}, "invalid_scope"),
    ],
)
def test_token_errors(reader, form, error):
    """A token request that cannot be granted is answered 400 with the documented error."""
    response = reader.ask_token(**form)
    assert (response.status_code, response.json()["error"]) == (400, error)
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"is_enabled": False}, "invalid_client"),
        ({"client_type": "Public"}, "invalid_client"),
        ({"system_user_allowed": False}, "unauthorized_client"),
        ({"system_user": ""}, "unauthorized_client"),
    ],
)
def test_a_badly_registered_application_gets_no_token(sandbox, make_caller, fields, error):
    """What is wrong with a trusted application decides the error."""
    sandbox.register("my.app/service", "s3cret", **fields)
    assert make_caller(sandbox, "my.app/service", "s3cret").ask_token().json()["error"] == error


def test_the_legacy_scope_is_tolerated_and_no_scope_means_all(reader):
    """`DomainApi` is let pass without being granted; without a scope all of the application's are granted."""
    assert reader.ask_token(scope="DomainApi read").json()["scope"] == "read"
    assert reader.ask_token().json()["scope"] == "read update"


def test_a_request_that_is_no_form_is_invalid(reader):
    """A JSON body is refused as an invalid request."""
    response = reader.http.post("/id/connect/token", json={"grant_type": "client_credentials"})
    assert response.json()["error"] == "invalid_request"


def test_basic_authentication_is_a_switch(sandbox, caller):
    """HTTP Basic at the token endpoint works, form-encoded or not, until it is switched off."""
    form = {"grant_type": "client_credentials"}
    encoded = f"{CLIENT_ID.replace('/', '%2F')}:{CLIENT_SECRET}"
    for pair in (f"{CLIENT_ID}:{CLIENT_SECRET}", encoded):
        headers = {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        assert caller.http.post("/id/connect/token", data=form, headers=headers).status_code == 200
    sandbox.behave(basic_auth="off", strict_401=True)
    assert (
        caller.http.post("/id/connect/token", data=form, headers=headers).json()["error"] == "invalid_request"
    )
    assert caller.ask_token(client_secret="wrong").status_code == 401


def test_basic_authentication_can_be_read_in_one_way_only(sandbox, caller):
    """A secret with a percent sign works form-encoded or as it is, as the switch says."""
    sandbox.register("my.app/50%25", "a+b %41")
    raw, encoded = "my.app/50%25:a+b %41", "my.app%2F50%2525:a%2Bb+%2541"
    statuses = {}
    for decoding in ("rfc6749", "raw", "either"):
        sandbox.behave(basic_auth=decoding)
        for pair in (raw, encoded):
            headers = {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
            form = {"grant_type": "client_credentials"}
            answer = caller.http.post("/id/connect/token", data=form, headers=headers)
            statuses[decoding, pair] = answer.status_code
    assert list(statuses.values()) == [400, 200, 200, 400, 200, 200]


def test_a_rotated_secret_replaces_the_old_one(sandbox, caller):
    """After a rotation only the new secret gets tokens; those issued before still work."""
    caller.renew()
    sandbox.set_secret(CLIENT_ID, "another")
    assert caller.ask_token().json()["error"] == "invalid_client"
    assert caller.ask_token(client_secret="another").status_code == 200
    assert caller.get("GetVersion").status_code == 200


def test_grants_can_be_shorter_and_narrower(sandbox, caller):
    """Lifetime and granted scope can differ from what was asked for."""
    sandbox.behave(token_ttl=5, granted_scope="read")
    answer = caller.ask_token(scope="read update").json()
    assert (answer["expires_in"], answer["scope"]) == (5, "read")


def test_the_clock_can_run_ahead(sandbox, caller):
    """A skewed instance issues tokens whose `iat` lies in the client's future."""
    sandbox.skew(300)
    token = caller.ask_token().json()["access_token"]
    payload = token.split(".")[1]
    claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["iat"] > time.time() + 250


def test_sha256_gives_the_stored_form_of_a_secret(reader):
    """The sha256 tool answers the base64 of the digest, under both of its paths."""
    expected = b64encode(hashlib.sha256(b"abc").digest()).decode()
    for path in ("/tools/sha256", "/sys/tools/sha256"):
        assert reader.http.get(path, params={"secret": "abc"}).json() == {"sha256": expected}


def test_discovery_lists_what_there_is(reader):
    """Every endpoint of the document answers, and no other grant or response type is named than those that work."""
    document = reader.http.get("/id/.well-known/openid-configuration").json()
    endpoints = [value for key, value in document.items() if key.endswith(("_endpoint", "_uri"))]
    assert len(endpoints) == 7
    for url in endpoints:
        assert {reader.http.get(url).status_code, reader.http.post(url).status_code} != {404}
    assert document["response_types_supported"] == ["code"]
    assert document["authorization_response_iss_parameter_supported"] is True


@pytest.fixture
def assertion(sandbox):
    """Signs client assertions for the seeded application, with changes."""
    key = ECKey.import_key(httpx2.get(f"{sandbox.url}/_sandbox/private-key", trust_env=False).text)

    def sign(**changes: object) -> str:
        now = int(time.time())
        claims = {"iss": SIGNED, "sub": SIGNED, "aud": f"{sandbox.url}/id/connect/token", "exp": now + 60}
        claims |= {"iat": now, "jti": uuid.uuid4().hex, **changes}
        given = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode({"alg": "ES256"}, given, key)

    return sign


def _by_assertion(caller, assertion: str, **form: str) -> httpx2.Response:
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    given = {"grant_type": "client_credentials", "client_assertion_type": kind, "client_assertion": assertion}
    return caller.http.post("/id/connect/token", data=given | form)


def test_a_signed_assertion_authenticates_once(sandbox, caller, assertion):
    """private_key_jwt works with either audience; the second use of an assertion is refused."""
    signed = assertion()
    assert _by_assertion(caller, signed, client_id=SIGNED).json()["scope"] == "read update"
    assert _by_assertion(caller, signed).json()["error"] == "invalid_client"
    assert _by_assertion(caller, assertion(aud=[f"{sandbox.url}/id"])).status_code == 200
    assert sandbox.stats()["token_requests"] == {SIGNED: 3}


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://elsewhere.example"},
        {"aud": None},
        {"iss": CLIENT_ID},
        {"sub": CLIENT_ID},
        {"exp": 1},
        {"exp": None},
        {"jti": None},
    ],
)
def test_an_assertion_has_to_be_sound(caller, assertion, changes):
    """Audience, issuer, subject, end and id are all looked at."""
    assert _by_assertion(caller, assertion(**changes)).json()["error"] == "invalid_client"


def test_an_assertion_is_judged_by_the_instances_clock(sandbox, caller, assertion):
    """A client whose clock is far behind has its assertions refused, and can read the hour in the Date header."""
    sandbox.skew(600)
    refused = _by_assertion(caller, assertion())
    assert refused.json()["error"] == "invalid_client"
    ahead = parsedate_to_datetime(refused.headers["date"]).timestamp() - time.time()
    assert 590 < ahead < 610
    assert _by_assertion(caller, assertion(exp=int(time.time()) + 660)).status_code == 200


def test_an_assertion_of_another_key_is_refused(caller, assertion):
    """Only the registered key counts, and text that is no JWT is refused like one."""
    head, payload, _ = assertion().split(".")
    assert _by_assertion(caller, f"{head}.{payload}.{'A' * 86}").json()["error"] == "invalid_client"
    assert _by_assertion(caller, "no.jwt").json()["error"] == "invalid_client"
