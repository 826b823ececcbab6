"""What a token endpoint may answer, and what becomes of it; ids name the catalogue of bad behaviour."""

import base64
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from erpsync.core.errors import IdentityError, TokenEndpointError
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.identity.answer import read_grant
from erpsync.identity.exchange import Answer
from erpsync.identity.source import Grant
from tests.identity.conftest import NIGHT, SECRET, grant

NOW = 1_000_000.0


def read(
    body: object,
    status: int = 200,
    *,
    identity: Identity = NIGHT,
    by: str = "client_credentials",
    **headers: str,
) -> Grant:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    redactor = Redactor()
    redactor.learn(SECRET)
    return read_grant(Answer(status, httpx2.Headers(named), raw), identity, redactor, grant=by, sent=NOW)


def refused(body: object, status: int, **more: Any) -> TokenEndpointError:
    with pytest.raises(TokenEndpointError) as caught:
        read(body, status, **more)
    return caught.value


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        pytest.param(0, 300, id="T02-zero"),
        pytest.param(-5, 300, id="T02-negative"),
        pytest.param("3600", 3600, id="T03-text"),
        pytest.param("3600.0", 3600, id="T03-text-with-point"),
        pytest.param(3599.7, 3599, id="T03-fraction"),
        pytest.param(" 3600 ", 3600, id="T03-spaces"),
        pytest.param("abc", 300, id="T04-word"),
        pytest.param([], 300, id="T04-list"),
        pytest.param({}, 300, id="T04-object"),
        pytest.param(float("nan"), 300, id="T04-nan"),
        pytest.param(True, 300, id="T04-true"),
        pytest.param(30, 30, id="T06"),
        pytest.param(10**12, 86400, id="T07"),
        pytest.param(10**400, 86400, id="T07-beyond-floats"),
        pytest.param(float("inf"), 86400, id="T07-infinite"),
        pytest.param(None, 300, id="missing"),
    ],
)
def test_lifetime_is_read_leniently(expires_in: object, lifetime: float) -> None:
    """Any expires_in gives a usable lifetime: never for ever, never zero, never an exception of ours."""
    granted = read(grant(expires_in=expires_in))
    assert granted.lifetime == lifetime
    assert bool(granted.doubts) == (lifetime in (300, 30))


def test_lifetime_of_a_jwt_is_a_second_witness() -> None:
    """A JWT's exp - iat limits the lifetime, and stands in for a missing expires_in."""
    token = jwt(issued=0, ends=900)
    assert read(grant(token)).lifetime == 900
    assert read(grant(token, expires_in=None)).lifetime == 900
    assert read(grant(token, expires_in=60)).lifetime == 60


@pytest.mark.parametrize(
    ("issued", "ends", "lifetime"),
    [
        pytest.param(-3000, 600, 600, id="made-long-before"),
        pytest.param(-30, 870, 900, id="just-made"),
        pytest.param(300, 1200, 900, id="their-clock-is-ahead"),
        pytest.param(-7200, -3600, 3600, id="our-clock-is-far-ahead"),
    ],
)
def test_what_is_left_of_a_jwt(issued: int, ends: int, lifetime: int) -> None:
    """Without expires_in a token that the server had kept for a while lives to its end and no longer."""
    assert read(grant(jwt(issued, ends), expires_in=None)).lifetime == lifetime


def jwt(issued: int, ends: int) -> str:
    """A token that says when it was made and when it is over, in seconds from now."""
    content = json.dumps({"iat": int(NOW) + issued, "exp": int(NOW) + ends}).encode()
    return f"eyJhbGciOiJSUzI1NiJ9.{base64.urlsafe_b64encode(content).decode().rstrip('=')}.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "token", ["a\r\nX: y", "with space", "nul\0", "жетон", "", 7, None, ["x"], "x" * 16385]
)
def test_token_that_does_not_fit_a_header_is_refused(token: object) -> None:
    """T11, T12: what could break a header is a fault of the server, and is not shown."""
    error = refused(grant() | {"access_token": token}, 200)
    assert error.retryable
    assert "X: y" not in str(error)
    assert len(str(error)) < 200


def test_token_of_16_kb_is_taken() -> None:
    """T12: large tokens work up to the size that servers take in headers."""
    assert len(read(grant("x" * 16384)).access_token) == 16384


@pytest.mark.parametrize("kind", ["bearer", "BEARER", "Bearer ", None])
def test_token_type_is_read_leniently(kind: str | None) -> None:
    """T13, T14: Bearer in any case; a missing type is taken for it, with a doubt."""
    assert bool(read(grant(token_type=kind)).doubts) == (kind is None)
    assert read(grant() | {"token_type": kind}).access_token


@pytest.mark.parametrize("kind", ["DPoP", "mac", 1])
def test_other_token_types_are_refused(kind: object) -> None:
    """A token that is no Bearer token cannot be used; waiting does not help."""
    assert not refused(grant(token_type=kind), 200).retryable


@pytest.mark.parametrize(
    ("scope", "granted"), [("read", ("read",)), (["read"], ("read",)), (None, ("read", "update"))]
)
def test_granted_scope_is_kept(scope: object, granted: tuple[str, ...]) -> None:
    """T16: a narrower scope is accepted and doubted; none told means what was asked."""
    answer = read(grant(scope=scope))
    assert answer.scope == granted
    assert any("update" in doubt for doubt in answer.doubts) == (granted == ("read",))


GOOD = json.dumps(grant()).encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(GOOD[:-1] + b', "access_token": "other"}', id="T20-two-tokens"),
        pytest.param(GOOD + b"garbage", id="T20-garbage"),
        pytest.param(b"", id="T22-empty"),
        pytest.param(b"[]", id="a-list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"\xff\xfe", id="not-utf8"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"<html>maintenance</html>", id="html"),
        pytest.param(b'{"message": "slow down"}', id="no-token"),
    ],
)
def test_success_without_a_usable_token_is_the_servers_fault(body: bytes) -> None:
    """Any 2xx without one trustworthy token is an error that may pass."""
    assert refused(body, 200).retryable
    assert refused(body, 204).retryable


def test_html_is_named() -> None:
    """An HTML page in place of JSON is called one, with what to check."""
    error = refused(b"  <!doctype html><title>Sign in</title>", 200)
    assert "HTML" in str(error)
    assert "issuer" in error.hint


@pytest.mark.parametrize("status", [200, 201, 206])
def test_bom_and_other_2xx_are_taken(status: int) -> None:
    """T20, T22: a byte order mark and another 2xx do no harm."""
    assert read(b"\xef\xbb\xbf" + GOOD, status).access_token == "opaque-token-1"


REFUSALS = [
    # case, status, body, headers, retryable, credentials, hint
    ("T21", 200, {"error": "invalid_client"}, {}, False, True, "IsEnabled"),
    ("T25-400", 400, {"error": "invalid_client"}, {}, False, True, "ApplicationSecretHash"),
    ("T25-401", 401, {"error": "invalid_client"}, {}, False, True, "ClientType"),
    ("T26", 403, b"", {}, False, True, "IsEnabled"),
    ("401-without-json", 401, b"<html>", {}, False, True, "client_secret"),
    ("T27-unauthorized", 400, {"error": "unauthorized_client"}, {}, False, False, "SystemUserAllowed"),
    ("T27-grant", 400, {"error": "unsupported_grant_type"}, {}, False, False, "client_credentials"),
    ("T27-scope", 400, {"error": "invalid_scope"}, {}, False, False, "Scope"),
    ("T27-target", 400, {"error": "invalid_target"}, {}, False, False, "resource"),
    ("T27-request", 400, {"error": "invalid_request"}, {}, False, False, "auth_method"),
    ("invalid-grant", 400, {"error": "invalid_grant"}, {}, False, False, "client_secret"),
    ("404", 404, b"", {}, False, False, "issuer"),
    ("407", 407, b"", {}, False, False, "proxy"),
    ("unknown-code", 400, {"error": "odd_case"}, {}, False, False, "log"),
    ("T29-500", 500, {"error": "invalid_client"}, {}, True, False, ""),
    ("T29-502", 502, b"<html>", {}, True, False, ""),
    ("T29-503", 503, b"", {}, True, False, ""),
    ("T29-504", 504, b"", {}, True, False, ""),
    ("408", 408, b"", {}, True, False, ""),
    ("server-error", 400, {"error": "server_error"}, {}, True, False, ""),
    ("T30", 429, {"error": "slow_down"}, {"retry_after": "7"}, True, False, ""),
    ("T31", 429, {"message": "slow down"}, {}, True, False, ""),
    ("T31-with-token", 429, grant(), {}, True, False, ""),
    ("retry-after-400", 400, b"", {"retry_after": "7"}, True, False, ""),
]


@pytest.mark.parametrize(
    ("status", "body", "headers", "retryable", "credentials", "hint"),
    [pytest.param(*case[1:], id=case[0]) for case in REFUSALS],
)
def test_refusals_are_classified(
    status: int, body: object, headers: dict[str, str], retryable: bool, credentials: bool, hint: str
) -> None:
    """Each refusal says whether waiting helps, whether it is about who we are, and which field to look at."""
    error = refused(body, status, **headers)
    assert (error.retryable, error.credentials, error.status) == (retryable, credentials, status)
    assert hint in error.hint
    assert isinstance(error, IdentityError)


PUBLIC = replace(NIGHT, name="ann", grant="authorization_code", auth_method="none")
SIGNED = replace(NIGHT, auth_method="private_key_jwt")
BASIC = replace(NIGHT, auth_method="client_secret_basic")
FIELDS = [
    # error, who, grant, what is named, what is not
    ("invalid_client", PUBLIC, "refresh_token", "ClientType = Public", "ApplicationSecretHash"),
    ("invalid_client", SIGNED, "client_credentials", "private_key", "client_secret"),
    ("invalid_client", BASIC, "client_credentials", "basic_encoding", "private_key"),
    ("unauthorized_client", PUBLIC, "refresh_token", "ImpersonateLoginUrl", "SystemUser"),
    ("unauthorized_client", PUBLIC, "authorization_code", "authorization_code", "SystemUser"),
    ("unsupported_grant_type", PUBLIC, "refresh_token", "grant refresh_token", "client_credentials"),
    ("unsupported_grant_type", PUBLIC, "authorization_code", "authorization_code", "client_credentials"),
    ("invalid_request", PUBLIC, "authorization_code", "redirect_uri", "client_secret"),
    ("invalid_request", SIGNED, "client_credentials", "key_id", "client_secret"),
    ("invalid_grant", PUBLIC, "authorization_code", "erpsync login ann", "client_secret"),
    ("invalid_grant", PUBLIC, "refresh_token", "erpsync login ann", "client_secret"),
    ("", PUBLIC, "refresh_token", "ClientType = Public", "ApplicationSecretHash"),
]


@pytest.mark.parametrize(("code", "who", "by", "named", "unnamed"), FIELDS)
def test_hints_fit_the_grant(code: str, who: Identity, by: str, named: str, unnamed: str) -> None:
    """What to mend is a field that this grant and this way of client authentication have."""
    body = {"error": code} if code else b""
    error = refused(body, 401, identity=who, by=by)
    assert named in error.hint
    assert unnamed not in error.hint + error.message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 900),
        ("99999999999999999999", 900),
        ("1e30", None),
        ("soon", None),
        ("-3", None),
        ("٣", None),
    ],
)
def test_retry_after_in_both_forms(value: str, seconds: int | None) -> None:
    """T32: seconds or a date against the answer's own Date; the past is now, the far future 15 minutes."""
    date = "Thu, 01 Jan 2026 00:00:00 GMT"
    headers = httpx2.Headers({"retry-after": value, "date": date}, encoding="utf-8")
    wait = Answer(503, headers, b"").retry_after
    assert wait == (None if seconds is None else timedelta(seconds=seconds))


def test_redirect_shows_the_host_and_nothing_else() -> None:
    """T42: a redirect is not followed, and its query (which may hold a secret) is not shown."""
    error = refused(b"", 302, location="https://login.example/sign-in?state=s3cret-state")
    assert "login.example" in str(error)
    assert "state" not in str(error)
    assert not error.retryable


def test_foreign_words_are_short_and_clean() -> None:
    """What the server says is kept on one line, shortened, and without our secret."""
    error = refused(
        {"error": "invalid_client", "error_description": f"bad\n secret {SECRET} " + "x" * 1000}, 400
    )
    assert SECRET not in str(error)
    assert "\n" not in str(error)
    assert len(error.description) <= 300


def test_no_scope_is_a_secret() -> None:
    """A server may call a scope as it likes, like the secret that it was sent, also one of several words."""
    redactor = Redactor()
    redactor.learn("correct horse  battery")
    body = grant() | {"scope": "read correct horse battery update"}
    answer = Answer(200, httpx2.Headers({}), json.dumps(body).encode())
    granted = read_grant(answer, NIGHT, redactor, grant="client_credentials", sent=0.0)
    assert granted.scope == ("read", "[redacted]", "update")
