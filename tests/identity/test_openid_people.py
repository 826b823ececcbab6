"""People at a real OpenID provider that is not ours: code with PKCE, its forms, rotation, the end of a family."""

from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest

from erpsync.core.clock import SystemClock
from erpsync.core.errors import LoginRequiredError, TokenEndpointError
from erpsync.core.instance import Identity
from erpsync.identity.authorization import begin, code_in, redeem, sign_out
from erpsync.identity.client import TokenClient
from erpsync.identity.refresh import RefreshSource
from erpsync.identity.sealed import Drawer, SealedStore, StoredToken
from tests.identity.conftest import TLS, Bench
from tests.servers.openid_provider import OpenIdProvider

pytestmark = pytest.mark.node

BACK = "http://127.0.0.1:53682/"
SCOPE = ("openid", "offline_access", "read", "update")


class Form(HTMLParser):
    """The form of a page: where it goes, and its fields."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self.action = given["action"] or ""
        if tag == "input" and given.get("name"):
            self.fields[str(given["name"])] = given.get("value") or "ann"


async def walk(url: str) -> str:
    """Through the provider's pages with a fresh browser, to the address it is sent back to."""
    async with httpx2.AsyncClient(verify=TLS, trust_env=False) as browser:
        page = await browser.get(url)
        for _ in range(12):
            if page.is_redirect:
                target = page.url.join(page.headers["location"])
                if str(target).startswith(BACK):
                    return str(target)
                page = await browser.get(target)
            else:
                form = Form(page.text)
                assert form.action, page.text
                page = await browser.post(page.url.join(form.action), data=form.fields)
    return pytest.fail("the pages lead nowhere")


class Person:
    """An identity at the provider, signed in or not."""

    def __init__(self, bench: Bench, provider: OpenIdProvider, folder: Path, identity: Identity) -> None:
        self.bench = bench
        self.provider = provider
        self.identity = identity
        self._folder = folder

    @property
    def client(self) -> TokenClient:
        return self.bench.client_of(self.identity, issuer=self.provider.issuer, clock=SystemClock())

    def drawer(self) -> Drawer:
        store = SealedStore(self._folder, ["k" * 32], self.bench.emit, host="here")
        return store.drawer(self.identity, self.provider.issuer)

    async def sign_in(self) -> StoredToken:
        client = self.client
        server = await client.metadata()
        asked = begin(self.identity, server, BACK, consent=True)
        code = code_in(await walk(asked.url), asked, server)
        stored = await redeem(client, self.bench.client, asked, code)
        self.drawer().save(stored)
        return stored

    async def refresh(self) -> StoredToken:
        """A renewal, as if the access token were over."""
        drawer = self.drawer()
        stored = drawer.load()
        assert stored is not None
        drawer.save(replace(stored, sent_at=stored.sent_at - timedelta(hours=2)))
        await RefreshSource(self.client, self.drawer()).fetch()
        renewed = self.drawer().load()
        assert renewed is not None
        return renewed


@pytest.fixture(params=["none", "client_secret_basic", "client_secret_post"])
async def ann(
    request: pytest.FixtureRequest, bench: Bench, openid_provider: OpenIdProvider, tmp_path: Path
) -> Person:
    """A person who signs in by a public or a confidential client."""
    method = request.param
    identity = Identity(
        "ann", "other", f"desk-{method}", grant="authorization_code", auth_method=method, scope=SCOPE
    )
    bench.secrets[:] = ["desk-secret"]
    secret = "" if method == "none" else "desk-secret"
    openid_provider.put_client(identity.client_id, secret, auth_method=method, people=True)
    return Person(bench, openid_provider, tmp_path / "tokens", identity)


async def test_signs_in_and_stays(ann: Person) -> None:
    """Code and PKCE bring tokens and an id_token that holds; each renewal rotates the refresh token."""
    first = await ann.sign_in()
    assert first.subject == "ann"
    assert {"read", "update"} <= set(first.scope)
    assert ann.bench.named("token.answer_doubted") == []
    second = await ann.refresh()
    third = await ann.refresh()
    assert len({each.refresh_token for each in (first, second, third)}) == 3
    assert len({each.access_token for each in (first, second, third)}) == 3
    assert third.subject == "ann"
    assert not third.refused


async def test_reuse_ends_the_family(ann: Person) -> None:
    """Whoever shows an old refresh token again loses all of them, and is told to sign in; after that all is well."""
    stolen = await ann.sign_in()
    await ann.refresh()
    assert stolen.refresh_token is not None
    with pytest.raises(TokenEndpointError) as caught:
        await ann.client.request("refresh_token", refresh_token=stolen.refresh_token)
    assert caught.value.error == "invalid_grant"
    with pytest.raises(LoginRequiredError) as refused:
        await ann.refresh()
    assert refused.value.hint == "erpsync login ann"
    await ann.sign_in()
    await ann.refresh()


async def test_signs_out(ann: Person) -> None:
    """What sign-out revokes renews nothing any more."""
    stored = await ann.sign_in()
    undone = (await sign_out(ann.client, ann.bench.client, stored)).undone
    assert not any("revo" in each for each in undone)
    with pytest.raises(LoginRequiredError):
        await ann.refresh()
