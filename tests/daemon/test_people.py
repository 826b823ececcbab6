"""A person and a service at one instance: their tokens, sessions and troubles stay apart."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest

from erpsync.config.configuration import Configuration
from erpsync.config.load import load_configuration
from erpsync.core.clock import SystemClock
from erpsync.core.errors import LoginRequiredError, SignInError
from erpsync.core.event import silent
from erpsync.core.redaction import Redactor
from erpsync.daemon.compose import sealed_store
from erpsync.daemon.connections import Connections
from erpsync.daemon.person import PATIENCE, person
from erpsync.daemon.place import resolver_of
from erpsync.identity.claims import claims_of
from erpsync.identity.sealed import Drawer, StoredToken
from erpsync.sandbox.identity import CLIENT_ID, CLIENT_SECRET, NATIVE, WEB
from erpsync.sandbox.people import PASSWORD
from erpsync.sandbox.server import Sandbox

TEXT = f"""
[daemon]
data = "data"
seal_key = {{ env = "SEAL" }}
[identities.night]
client_id = "{CLIENT_ID}"
client_secret = {{ env = "SECRET" }}
scope = ["read"]
[identities.ann]
grant = "authorization_code"
client_id = "{NATIVE}"
scope = ["read", "update"]
[instances.box]
url = "URL"
license_slots = 3
[jobs.services]
plugin = "http_call"
identity = "night"
instances = ["box"]
with = {{ url = "URL/api/domain/odata/GetVersion" }}
[jobs.persons]
plugin = "http_call"
identity = "ann"
instances = ["box"]
with = {{ url = "URL/api/domain/odata/GetVersion" }}
"""


class Form(HTMLParser):
    """Where the form of a page goes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "form":
            self.action = dict(attrs)["action"] or ""


async def walk(url: str, login: str) -> str:
    """Sign in with a fresh browser; the address it is sent back to."""
    async with httpx2.AsyncClient(trust_env=False) as browser:
        page = await browser.get(url)
        form = {"username": login, "password": PASSWORD}
        answer = await browser.post(page.url.join(Form(page.text).action), data=form)
        assert answer.is_redirect, answer.text
        return str(answer.headers["location"])


class House:
    """What a daemon has of connections, and what a command beside it does."""

    def __init__(self, configuration: Configuration, sandbox: Sandbox) -> None:
        self.configuration = configuration
        self.sandbox = sandbox
        self.redactor = Redactor()
        self.resolver = resolver_of(configuration, self.redactor)

    def connections(self) -> Connections:
        store = sealed_store(self.configuration, self.resolver, silent)
        return Connections(self.configuration, self.resolver, SystemClock(), silent, self.redactor, store)

    async def sign_in(self, login: str = "admin") -> StoredToken:
        url: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def pasted() -> str:
            return await walk(await url, login)

        identity = self.configuration.identities["ann@box"]
        async with person(self.configuration, self.redactor, identity, silent) as somebody:
            return (await somebody.sign_in_elsewhere(url.set_result, pasted))[0]

    def drawer(self) -> Drawer:
        drawer = self.connections().drawer(self.configuration.identities["ann@box"])
        assert drawer is not None
        return drawer

    def make_old(self) -> None:
        """The access token is over."""
        drawer = self.drawer()
        stored = drawer.load()
        assert stored is not None
        drawer.save(replace(stored, sent_at=stored.sent_at - timedelta(hours=2)))


async def get(connections: Connections, house: House, job: str) -> int:
    connection = connections.of_job(house.configuration.jobs[job])
    url = f"{house.sandbox.url}/api/domain/odata/GetVersion"
    async with httpx2.AsyncClient(transport=connection.transport) as client:
        return (await client.get(url)).status_code


@pytest.fixture
def house(tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("SEAL", "a-seal-key-of-more-than-thirty-two-bytes")
    monkeypatch.setenv("SECRET", CLIENT_SECRET)
    (tmp_path / "erpsync.toml").write_text(TEXT.replace("URL", sandbox.url))
    return House(load_configuration(tmp_path / "erpsync.toml", {}), sandbox)


@pytest.fixture
async def connections(house: House) -> AsyncIterator[Connections]:
    made = house.connections()
    yield made
    await made.close()


async def test_a_person_and_a_service(house: House, connections: Connections) -> None:
    """Both work at one instance at once, each as who it is, with a token and a sealed file of its own; when the
    person is refused the service does not notice."""
    await house.sign_in("clerk")
    answers = await asyncio.gather(
        *(get(connections, house, job) for job in ("services@box", "persons@box") * 5)
    )
    assert set(answers) == {200}
    service, somebody = (connections.held(name) for name in ("night@box", "ann@box"))
    assert service is not None
    assert somebody is not None
    assert claims_of(service.value)["client_id"] == CLIENT_ID
    assert "sub" not in claims_of(service.value)
    assert claims_of(somebody.value)["sub"] == "clerk"
    assert len(list((house.configuration.daemon.data / "tokens").glob("*.sealed"))) == 2
    assert len(house.sandbox.sessions()) == 2
    house.sandbox.set_password("clerk", "another")
    house.make_old()
    ((manager, source),) = connections.people()
    assert source.is_changed_elsewhere()
    manager.invalidate(somebody.version, "changed")
    with pytest.raises(LoginRequiredError, match="ann@box"):
        await get(connections, house, "persons@box")
    assert await get(connections, house, "services@box") == 200
    assert connections.held("night@box") == service


async def test_the_sandbox_rotates_and_an_answer_is_lost(house: House, connections: Connections) -> None:
    """The sandbox has done the exchange and its answer is lost: the same refresh token goes out at once, which the
    sandbox calls a reuse, and the person has to sign in; then all is well."""
    first = await house.sign_in()
    house.make_old()
    assert await get(connections, house, "persons@box") == 200
    second = house.drawer().load()
    assert second is not None
    assert second.refresh_token != first.refresh_token
    house.make_old()
    house.sandbox.fail(where="token", reset=True, pass_=True)
    again = house.connections()
    with pytest.raises(LoginRequiredError):
        await get(again, house, "persons@box")
    await house.sign_in()
    assert await get(again, house, "persons@box") == 200
    await again.close()


async def test_T51_fire_times_of_nobody_are_skipped(house: House, connections: Connections) -> None:  # noqa: N802
    """Of a person who has never signed in, has signed out, or is not renewed any more; from the first look on."""
    job = house.configuration.jobs["persons@box"]
    assert connections.has_nobody(job)
    assert not connections.has_nobody(house.configuration.jobs["services@box"])
    await house.sign_in()
    assert not connections.has_nobody(job)
    house.make_old()
    house.sandbox.revoke_tokens()
    with pytest.raises(LoginRequiredError):
        await get(connections, house, "persons@box")
    assert connections.has_nobody(job)
    await house.sign_in()
    await connections.prepare("ann@box")
    assert not connections.has_nobody(job)
    house.drawer().clear()
    assert connections.has_nobody(job)


@pytest.mark.parametrize("here", [True, False])
async def test_nobody_signs_in_for_five_minutes(
    house: House, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    """The command ends by itself, says so, and has stored nothing; a minute later one can begin anew."""
    assert PATIENCE == 300
    monkeypatch.setattr("erpsync.daemon.person.PATIENCE", 0.05)
    identity = house.configuration.identities["ann@box"]
    shown: list[str] = []

    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    async with person(house.configuration, house.redactor, identity, silent) as somebody:
        with pytest.raises(SignInError, match="nobody has signed in within") as caught:
            await (
                somebody.sign_in_here(shown.append)
                if here
                else somebody.sign_in_elsewhere(shown.append, never)
            )
    assert caught.value.retryable
    assert len(shown) == 1
    assert house.drawer().load() is None


async def test_a_refusal_that_repeats_the_secret(house: House) -> None:
    """Who is refused never comes so far as to send it: it is known before somebody is asked for anything."""
    service, ann = (house.configuration.identities[name] for name in ("night@box", "ann@box"))
    identity = replace(
        ann, client_id=WEB, client_secret=service.client_secret, auth_method=service.auth_method
    )
    shown: list[str] = []

    async def refused() -> str:
        state = httpx2.URL(shown[0]).params["state"]
        issuer = f"{house.sandbox.url}/id"
        words = {"error": "access_denied", "error_description": CLIENT_SECRET, "state": state, "iss": issuer}
        return f"?{httpx2.QueryParams(words)}"

    async with person(house.configuration, house.redactor, identity, silent) as somebody:
        with pytest.raises(SignInError) as caught:
            await somebody.sign_in_elsewhere(shown.append, refused)
    assert CLIENT_SECRET in str(caught.value)
    assert CLIENT_SECRET not in house.redactor(str(caught.value))
