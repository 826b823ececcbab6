"""Signing in and out: what is sent, and everything that may come back in its place."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from erpsync.core.errors import DiscoveryError, IdentityError, SignInError
from erpsync.core.instance import Identity
from erpsync.identity.authorization import SignIn, begin, code_in, redeem, sign_out
from erpsync.identity.claims import session_of
from erpsync.identity.client import TokenClient
from erpsync.identity.discovery import ServerMetadata
from erpsync.identity.loopback import loopback
from erpsync.identity.sealed import StoredToken
from tests.identity.conftest import TOKEN_PATH, Bench, grant
from tests.servers.scripted import http

ANN = Identity(
    "ann",
    "acme",
    "my.app/desk",
    grant="authorization_code",
    auth_method="none",
    scope=("read", "openid", "offline_access"),
    resource=("urn:a", "urn:b"),
    audience="api",
    extra={"tenant": "t"},
)
SERVER = ServerMetadata(
    "https://id.example", "https://id.example/token", authorization_endpoint="https://id.example/in?x=1"
)
KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"}, private=True)
OTHER = RSAKey.generate_key(2048, {"kid": "two", "use": "sig"}, private=True)


def test_where_a_person_is_sent() -> None:
    """The address carries PKCE by S256, a state and a nonce of their own, and all that the identity asks for."""
    first, second = (begin(ANN, SERVER, "http://127.0.0.1:1/", consent=False) for _ in range(2))
    assert urlsplit(first.url)._replace(query="").geturl() == "https://id.example/in"
    asked = parse_qs(urlsplit(first.url).query)
    digest = hashlib.sha256(first.verifier.encode()).digest()
    assert asked == {
        "x": ["1"],
        "response_type": ["code"],
        "client_id": ["my.app/desk"],
        "redirect_uri": ["http://127.0.0.1:1/"],
        "scope": ["read openid offline_access"],
        "state": [first.state],
        "nonce": [first.nonce],
        "code_challenge": [base64.urlsafe_b64encode(digest).decode().rstrip("=")],
        "code_challenge_method": ["S256"],
        "resource": ["urn:a", "urn:b"],
        "audience": ["api"],
        "tenant": ["t"],
    }
    values = {value for each in (first, second) for value in (each.state, each.nonce, each.verifier)}
    assert len(values) == 6
    assert min(map(len, values)) >= 43
    assert not any(value in repr(first) for value in values)
    assert "prompt=consent" in begin(ANN, SERVER, "http://127.0.0.1:1/", consent=True).url


def test_nowhere_to_send_a_person() -> None:
    """A server without an authorization endpoint is told, with what would go."""
    with pytest.raises(DiscoveryError, match="nobody can sign in") as caught:
        begin(ANN, replace(SERVER, authorization_endpoint=None), "http://127.0.0.1:1/", consent=False)
    assert not caught.value.retryable


ASKED = SignIn("https://id.example/in", "http://127.0.0.1:1/", "right", "nonce", "verifier")
NAMED = {"iss": "https://id.example"}


@pytest.mark.parametrize("before", ["http://127.0.0.1:1/?", "?", "", "  http://127.0.0.1:1/?"])
@pytest.mark.parametrize("more", [{}, NAMED])
def test_a_good_answer(before: str, more: dict[str, str]) -> None:
    """The whole address, or what stands behind its question mark, gives the code."""
    came = before + urlencode({"code": "c/1", "state": "right", **more}) + "\n"
    assert code_in(came, ASKED, SERVER) == "c/1"
    assert code_in(before + "code=a?b&state=right", ASKED, SERVER) == "a?b"


@pytest.mark.parametrize(
    ("answer", "says", "retryable"),
    [
        ("", "nothing was pasted", False),
        ("rubbish", "state", False),
        ("http://[", "state", False),
        ("//[x", "state", False),
        ("http://a\u2100/?x", "state", False),
        ("code=\udce9&state=righ\udce9", "state", False),
        ("code=c", "state", False),
        ("code=c&state=wrong", "state", False),
        ("code=c&state=righ%C3%BC", "state", False),
        ("code=c&state=right&state=right", "twice", False),
        ("code=c&code=d&state=right", "twice", False),
        ("code=c&state=right&iss=https://evil.example", "iss", False),
        ("code=&state=right", "no code", False),
        ("state=right", "no code", False),
        (
            "error=access_denied&error_description=User%0Asaid+no&state=right",
            "access_denied: User said no",
            False,
        ),
        ("error=invalid_scope&state=right", "invalid_scope", False),
        ("error=temporarily_unavailable&state=right", "temporarily_unavailable", True),
        ("error=access_denied&state=wrong", "state", False),
    ],
)
def test_answers_that_are_none(answer: str, says: str, retryable: bool) -> None:
    """Whatever is not the answer to this very sign-in ends it, with words; waiting helps where the server is away."""
    with pytest.raises(SignInError, match=says) as caught:
        code_in(answer, ASKED, SERVER)
    assert caught.value.retryable is retryable


@pytest.mark.parametrize(
    ("came", "says"),
    [
        ("https://id.example/in?client_id=x&redirect_uri=y&state=right", "has not sent the browser back"),
        ("https://id.example/home/error?errorId=7", "has not sent the browser back"),
        (
            "https://id.example/e?error=invalid_request&error_description=Bad+way+back&state=right",
            r"\(invalid_request: Bad way back\)",
        ),
        (
            "error=invalid_redirect_uri&error_description=None+of+yours&state=right",
            "invalid_redirect_uri: None of yours",
        ),
    ],
)
def test_a_way_back_that_is_not_registered(came: str, says: str) -> None:
    """Where the server keeps the browser, or names the way back as its reason, it is said what to register."""
    server = replace(SERVER, sends_issuer=True)
    with pytest.raises(SignInError, match=says) as caught:
        code_in(came, ASKED, server)
    assert "(iss)" not in caught.value.message
    assert "http://127.0.0.1:1/ must be registered" in caught.value.hint


def test_a_server_that_says_it_names_itself() -> None:
    """Where the server announces it, an answer without its name is refused (RFC 9207)."""
    server = replace(SERVER, sends_issuer=True)
    with pytest.raises(SignInError, match="iss"):
        code_in("code=c&state=right", ASKED, server)
    assert code_in("code=c&state=right&iss=https://id.example", ASKED, server) == "c"


@dataclass
class Provider:
    """The scripted server as an OpenID provider; `claims` go over those of a good id_token."""

    bench: Bench
    keys: list[list[Any]] = field(default_factory=lambda: [[KEY]])

    def __post_init__(self) -> None:
        issuer, url = self.bench.issuer, self.bench.server.url
        document = {
            "issuer": issuer,
            "token_endpoint": url + TOKEN_PATH,
            "authorization_endpoint": url + "/in",
            "jwks_uri": url + "/keys",
            "revocation_endpoint": url + "/revoke",
            "end_session_endpoint": url + "/end",
        }
        self.bench.server.script["/id/.well-known/openid-configuration"] = http(document)
        self.bench.server.script["/revoke"] = http(b"", 200)
        self.bench.server.script["/end"] = http(b"", 200)

    def gives(
        self, claims: dict[str, object] | None = None, *, header: dict[str, str] | None = None, key: Any = KEY
    ) -> str:
        """The id_token of the next answer; a claim of None is left out."""
        now = self.bench.clock.now().timestamp()
        good = {
            "iss": self.bench.issuer,
            "aud": "my.app/desk",
            "sub": "ann.s",
            "nonce": "nonce",
            "iat": int(now),
            "exp": int(now) + 300,
        }
        given = {name: value for name, value in {**good, **(claims or {})}.items() if value is not None}
        algorithm = (header or {}).get("alg", "RS256")
        token = jwt.encode(
            {"alg": "RS256", "kid": "one", **(header or {})}, given, key, algorithms=[algorithm]
        )
        self.answers(token)
        return token

    def answers(self, id_token: str | None, refresh: str | None = "refresh-1") -> None:
        self.bench.answers(http(grant("access-1", refresh_token=refresh, id_token=id_token)))
        self.bench.server.script["/keys"] = [
            http({"keys": [key.as_dict(private=False) for key in keys]}) for keys in self.keys
        ]

    @property
    def client(self) -> TokenClient:
        return self.bench.client_of(ANN)

    async def redeem(self) -> StoredToken:
        return await redeem(self.client, self.bench.client, ASKED, "the-code")


@pytest.fixture
def provider(bench: Bench) -> Provider:
    return Provider(bench)


async def test_a_code_becomes_tokens(provider: Provider) -> None:
    """The code goes out once, with verifier and address; what is kept says who signed in."""
    id_token = provider.gives()
    stored = await provider.redeem()
    (seen,) = provider.bench.server.requests(TOKEN_PATH)
    assert seen.form["code"] == ["the-code"]
    assert seen.form["code_verifier"] == ["verifier"]
    assert seen.form["redirect_uri"] == ["http://127.0.0.1:1/"]
    assert (stored.access_token, stored.refresh_token, stored.id_token) == ("access-1", "refresh-1", id_token)
    assert (stored.subject, stored.sent_at, stored.lifetime) == ("ann.s", provider.bench.clock.now(), 3600)
    for secret in ("access-1", "refresh-1", id_token, "the-code"):
        assert secret not in provider.bench.redactor(f"<{secret}>")


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": ["my.app/desk", "another"]},
        {"aud": ["my.app/desk", "another"], "azp": "another"},
        {"aud": None},
        {"nonce": "of another sign-in"},
        {"nonce": None},
        {"sub": None},
        {"exp": None},
        {"exp": 0},
        {"iat": None},
        {"exp": "soon"},
    ],
    ids=str,
)
async def test_id_tokens_of_somebody_else(provider: Provider, claims: dict[str, object]) -> None:
    """An id_token for anybody, anything or any time else is refused."""
    provider.gives(claims)
    with pytest.raises(SignInError):
        await provider.redeem()


async def test_clocks_may_differ(provider: Provider) -> None:
    """Two minutes too late are forgiven, three are not; two clients are fine where we are the authorised one."""
    now = int(provider.bench.clock.now().timestamp())
    provider.gives({"exp": now - 110, "aud": ["my.app/desk", "another"], "azp": "my.app/desk"})
    assert (await provider.redeem()).subject == "ann.s"
    provider.gives({"exp": now - 180})
    with pytest.raises(SignInError):
        await provider.redeem()


def _by_secret(provider: Provider) -> None:
    provider.gives(header={"alg": "HS256"}, key=OctKey.import_key("s" * 32))


def _unsigned(provider: Provider) -> None:
    _, body, _ = provider.gives().split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": "one"}).encode()).decode().rstrip("=")
    provider.answers(f"{none}.{body}.")


def _changed(provider: Provider) -> None:
    head, body, signature = provider.gives().split(".")
    provider.answers(f"{head}.{body}.{'A' * len(signature)}")


def _by_another_key(provider: Provider) -> None:
    provider.gives(key=OTHER)


def _by_another_kind(provider: Provider) -> None:
    provider.gives(header={"alg": "ES256"}, key=ECKey.generate_key("P-256", {"kid": "one"}))


@pytest.mark.parametrize("how", [_by_secret, _unsigned, _changed, _by_another_key, _by_another_kind])
async def test_forged_id_tokens(provider: Provider, how: Callable[[Provider], None]) -> None:
    """Signatures by a secret, by nobody, by another key or kind of key, or none that fits, prove nothing."""
    how(provider)
    with pytest.raises(SignInError, match="id_token"):
        await provider.redeem()


async def test_keys_that_were_rolled_over(provider: Provider) -> None:
    """A key that is not among those published is looked for once more, and only once."""
    provider.keys = [[OTHER], [OTHER, KEY]]
    provider.gives()
    assert (await provider.redeem()).subject == "ann.s"
    assert len(provider.bench.server.requests("/keys")) == 2
    provider.keys = [[OTHER]]
    provider.gives()
    with pytest.raises(SignInError):
        await provider.redeem()
    assert len(provider.bench.server.requests("/keys")) == 4


async def test_what_a_sign_in_must_bring(provider: Provider) -> None:
    """Without an id_token nobody knows who it is, without a refresh token nobody stays; both name the scope."""
    provider.answers(None)
    with pytest.raises(SignInError, match="who has signed in") as caught:
        await provider.redeem()
    assert "openid" in caught.value.hint
    id_token = provider.gives()
    provider.answers(id_token, refresh=None)
    with pytest.raises(SignInError, match="no refresh token") as caught:
        await provider.redeem()
    assert "offline_access" in caught.value.hint


STORED = StoredToken("access", datetime(2026, 1, 1, tzinfo=UTC), 60.0, (), "refresh-1", id_token="hint")


async def test_signing_out(provider: Provider) -> None:
    """The refresh token is revoked by the client itself, and the session ended with the id_token as its name."""
    assert (await sign_out(provider.client, provider.bench.client, STORED)).undone == ()
    (revoked,) = provider.bench.server.requests("/revoke")
    assert revoked.form["token"] == ["refresh-1"]
    assert revoked.form["token_type_hint"] == ["refresh_token"]
    assert revoked.form["client_id"] == ["my.app/desk"]
    (ended,) = [seen for seen in provider.bench.server.seen if seen.path.startswith("/end?")]
    assert parse_qs(urlsplit(ended.path).query)["id_token_hint"] == ["hint"]


async def test_a_session_is_over_where_the_server_says_so(provider: Provider) -> None:
    """The session that the access token names is told as ended after the server's yes, and after nothing else."""
    claims = base64.urlsafe_b64encode(b'{"sid": "S1"}').decode().rstrip("=")
    stored = replace(STORED, access_token=f"e30.{claims}.x")
    done = await sign_out(provider.client, provider.bench.client, stored)
    assert done.session == session_of(stored.access_token) != ""
    confirm = http(b"", 302, {"Location": "/account/logout?logoutId=1"})
    for answer in (http(b"", 400), http(b"", 503), b"", confirm):
        provider.bench.server.script["/end"] = answer
        assert (await sign_out(provider.client, provider.bench.client, stored)).session == ""


async def test_signing_out_of_a_server_that_cannot(provider: Provider) -> None:
    """What a server does not offer, refuses or is not there for, is said; the rest is done."""
    server = provider.bench.server
    server.script["/revoke"] = http(b"", 503)
    (undone,) = (await sign_out(provider.client, provider.bench.client, STORED)).undone
    assert "not revoked" in undone
    server.script["/revoke"], server.script["/end"] = http(), http(b"", 400)
    (undone,) = (await sign_out(provider.client, provider.bench.client, STORED)).undone
    assert "not ended the session" in undone
    bare = {"issuer": provider.bench.issuer, "token_endpoint": server.url + TOKEN_PATH}
    server.script["/id/.well-known/openid-configuration"] = http(bare)
    assert len((await sign_out(provider.client, provider.bench.client, STORED)).undone) == 2
    server.script["/id/.well-known/openid-configuration"] = http({}, 503)
    (undone,) = (await sign_out(provider.client, provider.bench.client, STORED)).undone
    assert "was not told" in undone


async def _get(url: str) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False) as browser:
        return await browser.get(url)


async def test_a_browser_comes_back() -> None:
    """Exactly one request to the address is answered, with a page that may do nothing; icons are not it."""
    async with loopback("http://127.0.0.1/back") as listener:
        parts = urlsplit(listener.redirect_uri)
        assert (parts.hostname, parts.path) == ("127.0.0.1", "/back")
        assert parts.port
        assert (await _get(f"http://127.0.0.1:{parts.port}/favicon.ico")).status_code == 404
        page = await _get(listener.redirect_uri + "?code=secret&state=s")
        assert page.status_code == 200
        assert "close this page" in page.text
        assert "secret" not in page.text
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["content-security-policy"] == "default-src 'none'"
        assert (await _get(listener.redirect_uri + "?code=other")).status_code == 404
        assert (await _get(listener.redirect_uri + "?code=other&state=s")).status_code == 404
        assert await listener.query() == "code=secret&state=s"
    with pytest.raises(httpx2.ConnectError):
        await _get(listener.redirect_uri)


async def test_of_two_at_once_one_has_come_back() -> None:
    """Whoever sees the good page is whose answer is used, and the other one is told that nothing is here."""
    async with loopback() as listener:
        codes = ["one", "two", "three"]
        pages = await asyncio.gather(
            *(_get(f"{listener.redirect_uri}?code={code}&state=s") for code in codes)
        )
        assert sorted(page.status_code for page in pages) == [200, 404, 404]
        (good,) = (code for code, page in zip(codes, pages, strict=True) if page.status_code == 200)
        assert await listener.query() == f"code={good}&state=s"


@pytest.mark.parametrize(
    "sent", [b"", b"\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"GET\r\n\r\n", b"\xff\xfe\r\n\r\n", b"x" * 70_000]
)
async def test_whoever_else_knocks(sent: bytes) -> None:
    """Port scanners and broken requests neither end the sign-in nor break the listener."""
    async with loopback() as listener:
        port = urlsplit(listener.redirect_uri).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        if sent:
            await writer.drain()
        writer.write_eof()
        with suppress(ConnectionResetError):
            assert b"200 OK" not in await reader.read()
        writer.close()
        assert (await _get(listener.redirect_uri + "?code=c")).status_code == 404  # no answer to anybody
        assert (await _get(listener.redirect_uri + "?code=c&state=s")).status_code == 200
        assert await listener.query() == "code=c&state=s"


async def test_one_exact_address() -> None:
    """A redirect URI with a port is listened at as it is written; a port that is taken is told."""
    async with loopback() as free:
        port = urlsplit(free.redirect_uri).port
        with pytest.raises(IdentityError, match=f"127.0.0.1:{port}"):
            async with loopback(f"http://127.0.0.1:{port}/back"):
                pass
    async with loopback(f"http://localhost:{port}/back") as listener:
        assert listener.redirect_uri == f"http://localhost:{port}/back"
        assert (await _get(f"http://127.0.0.1:{port}/back?code=c&state=s")).status_code == 200
