"""Whatever a client sends to the identity site, it is answered."""

from base64 import b64encode, urlsafe_b64encode

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpsync.sandbox.identity import CLIENT_ID, CLIENT_SECRET, NATIVE, SIGNED, WEB
from erpsync.sandbox.server import Sandbox
from tests.servers.person import CALLBACK

NAMES = (
    *(
        "grant_type",
        "client_id",
        "client_secret",
        "client_assertion",
        "client_assertion_type",
        "scope",
        "token",
    ),
    *("code", "code_verifier", "refresh_token", "redirect_uri", "response_type", "response_mode", "prompt"),
    *("max_age", "nonce", "code_challenge", "code_challenge_method", "id_token_hint", "username", "password"),
)
KNOWN = (
    *(NATIVE, WEB, CLIENT_ID, CLIENT_SECRET, CALLBACK, "http://[", "http://127.0.0.1:99999/callback"),
    *(
        "client_credentials",
        "authorization_code",
        "refresh_token",
        "code",
        "S256",
        "none",
        "openid read",
        "0",
    ),
    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
)
PARTS = (b"{}", b'{"alg":"ES256"}', b'{"alg":[]}', b'{"sub":[],"iss":{}}', b"[]", b"x", b"\xff")
PARTS = (*PARTS, f'{{"iss":"{SIGNED}","sub":"{SIGNED}"}}'.encode())
JWTS = st.tuples(*[st.sampled_from(PARTS).map(lambda part: urlsafe_b64encode(part).decode().rstrip("="))] * 3)
VALUES = st.one_of(st.sampled_from(KNOWN), st.text(max_size=20), JWTS.map(".".join))


@pytest.fixture(scope="module")
def http():
    """A client of a sandbox that may be asked anything."""
    with Sandbox(rows=1) as sandbox, httpx2.Client(base_url=sandbox.url, trust_env=False) as client:
        yield client


@settings(max_examples=200)
@given(
    form=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8),
    endpoint=st.sampled_from(("token", "revocation", "introspect", "authorize", "endsession")),
    basic=st.none() | st.binary(min_size=1, max_size=20),
)
def test_nothing_that_is_sent_makes_it_fall_over(http, form, endpoint, basic):
    """Whatever parameters come, in whatever combination, the answer is never a server error."""
    headers = {"Authorization": f"Basic {b64encode(basic).decode()}"} if basic else {}
    answer = http.post(f"/id/connect/{endpoint}", data=form, headers=headers)
    assert answer.status_code < 500


@pytest.mark.parametrize("payload", PARTS)
def test_an_assertion_may_say_anything(http, payload):
    """What is signed by nobody is refused, whatever it holds."""
    parts = (b'{"alg":"ES256"}', payload, b"x" * 64)
    assertion = ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    form = {"grant_type": "client_credentials", "client_assertion": assertion, "client_assertion_type": kind}
    answer = http.post("/id/connect/token", data=form)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client")
