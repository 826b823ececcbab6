"""People sign in and out with the real commands, at a sandbox, beside a daemon."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest

from erpsync.sandbox.identity import CLIENT_SECRET, NATIVE, WEB
from erpsync.sandbox.people import PASSWORD
from erpsync.sandbox.server import Sandbox
from tests.acceptance.site import PATIENCE, Site, eventually

SEAL = "a-seal-key-of-more-than-thirty-two-bytes"
PEOPLE = f"""
[daemon]
data = "data"
seal_key = {{ env = "BOX_SEAL" }}

[metrics]
listen = false

[identities.night]
client_id = "erpsync.sandbox/service"
client_secret = {{ env = "BOX_SECRET" }}
scope = ["read"]
instance = "box"

[identities.ann]
grant = "authorization_code"
client_id = "{NATIVE}"
scope = ["read", "update"]
instance = "box"

[identities.bob]
grant = "authorization_code"
client_id = "{WEB}"
client_secret = {{ env = "BOX_SECRET" }}
scope = ["read"]
instance = "box"

[instances.box]
url = "{{url}}"
license_slots = 3

[defaults]
retry = {{ attempts = 1 }}

[jobs.persons]
plugin = "http_call"
identity = "ann"
with = {{ url = "{{url}}/api/domain/odata/General_Currencies_Currencies" }}

[jobs.services]
plugin = "http_call"
identity = "night"
with = {{ url = "{{url}}/api/domain/odata/General_Currencies_Currencies" }}
"""


class Form(HTMLParser):
    """The one form of a page: where it goes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "form":
            self.action = dict(attrs)["action"] or ""


def walk(url: str, login: str = "admin", password: str = PASSWORD) -> str:
    """Go to `url` with a fresh browser and sign in; the address it is sent back to."""
    with httpx2.Client(trust_env=False) as browser:
        page = browser.get(url)
        if page.is_redirect:
            return str(page.headers["location"])
        action = httpx2.URL(url).join(Form(page.text).action)
        answer = browser.post(action, data={"username": login, "password": password})
        assert answer.is_redirect, answer.text
        return str(answer.headers["location"])


class Terminal:
    """A command under way; what it says on standard error can be read while it waits."""

    def __init__(self, site: Site, *arguments: str) -> None:
        self.log = site.folder / f"terminal-{time.monotonic_ns()}.txt"
        with self.log.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "erpsync.cli.main", *arguments],
                cwd=site.folder,
                env=site.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )

    def url(self) -> str:
        """The address it asks to open."""
        found = eventually(
            lambda: re.search(r"^  (http\S+)$", self.said, re.MULTILINE) or self.process.poll() is not None,
            "an address is shown",
        )
        assert found is not True, self.said
        return str(found[1])

    @property
    def said(self) -> str:
        return self.log.read_text()

    def end(self, typed: str | None = None) -> tuple[int, str]:
        """Exit code and standard output."""
        output, _ = self.process.communicate(typed, timeout=PATIENCE)
        return self.process.returncode, output


@contextmanager
def typing(site: Site, *arguments: str) -> Iterator[Terminal]:
    terminal = Terminal(site, *arguments)
    try:
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()
        terminal.process.communicate()
        site.outputs.append(terminal.said)


@pytest.fixture
def people(tmp_path: Path, sandbox: Sandbox) -> Site:
    """A site where people may sign in."""
    site = Site(tmp_path, sandbox)
    site.environment |= {"BOX_SEAL": SEAL, "BOX_SECRET": CLIENT_SECRET}
    site.write(PEOPLE)
    return site


def sign_in(site: Site, identity: str = "ann") -> tuple[int, str]:
    with typing(site, "login", identity) as terminal:
        back = walk(terminal.url())
        with httpx2.Client(trust_env=False) as browser:
            assert "close this page" in browser.get(back).text
        return terminal.end()


def test_login_and_logout(people: Site) -> None:
    """The browser comes back to a free port of this machine; the command says who signed in, and keeps it sealed.
    Signed out, nothing is stored, and the job says what to type."""
    code, said = sign_in(people)
    assert code == 0
    assert said.startswith("signed in as admin for ann: ")
    (sealed,) = (people.folder / "data" / "tokens").glob("*.sealed")
    assert sealed.stat().st_mode & 0o777 == 0o600
    assert people.erpsync("run", "persons").returncode == 0
    done = people.erpsync("logout", "ann")
    assert (done.returncode, done.stdout, done.stderr) == (0, "signed out: ann\n", "")
    assert not sealed.exists()
    assert people.erpsync("logout", "ann").stdout == "nobody was signed in for ann\n"
    refused = people.erpsync("run", "persons")
    assert refused.returncode == 77
    assert "erpsync login ann" in refused.stdout + refused.stderr


def test_what_the_server_grants_is_told_without_secrets(people: Site, sandbox: Sandbox) -> None:
    """A server may call a scope as it likes, like the secret or a token that it was sent."""
    scope = f"read {CLIENT_SECRET} eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwIn0.c2lnbmF0dXJl"
    sandbox.fail(where="token", pass_=True, merge={"scope": scope}, times=-1)
    with typing(people, "login", "bob", "--no-browser") as terminal:
        code, said = terminal.end(walk(terminal.url()) + "\n")
    assert (code, said) == (0, "signed in as admin for bob: read [redacted] [redacted]\n")


def test_login_without_a_browser(people: Site) -> None:
    """The address at which a browser elsewhere ended is pasted; anything else is refused with 77. The client has a
    secret here."""
    with typing(people, "login", "bob", "--no-browser") as terminal:
        code, said = terminal.end(walk(terminal.url()) + "\n")
    assert (code, said.startswith("signed in as admin for bob")) == (0, True)
    with typing(people, "login", "ann", "--no-browser") as terminal:
        other = walk(terminal.url()).replace("state=", "state=x")
        assert terminal.end(other + "\n")[0] == 77
        assert "not the answer to the sign-in" in terminal.said
    with typing(people, "login", "ann", "--no-browser") as terminal:
        terminal.url()
        assert terminal.end("")[0] == 77
        assert "nothing was pasted" in terminal.said


def test_a_person_who_says_no(people: Site) -> None:
    """A refusal at the server ends the command at once, with 77 and the server's word."""
    with typing(people, "login", "ann") as terminal:
        url = httpx2.URL(terminal.url())
        asked = url.params
        answer = {"error": "access_denied", "state": asked["state"], "iss": f"{people.sandbox.url}/id"}
        with httpx2.Client(trust_env=False) as browser:
            browser.get(asked["redirect_uri"], params=answer)
        assert terminal.end()[0] == 77
        assert "access_denied" in terminal.said


def test_the_fixed_address_of_a_strict_server(people: Site, sandbox: Sandbox) -> None:
    """Where the server wants one exact address, `redirect_uri` names it; the port that is taken is told."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        address = f"http://127.0.0.1:{port}/back"
        sandbox.register(
            NATIVE, client_type="Public", scope="read update offline_access", redirect_uris=[address]
        )
        people.write(PEOPLE.replace(f'"{NATIVE}"', f'"{NATIVE}"\nredirect_uri = "{address}"'))
        refused = people.erpsync("login", "ann")
        assert (refused.returncode, f"127.0.0.1:{port}" in refused.stderr) == (77, True)
    assert sign_in(people)[0] == 0


def test_who_cannot_sign_in(people: Site) -> None:
    """A service is no person (2); an unknown name gets a suggestion (2); no seal_key says why one is needed (78); a
    server that is away is temporary (75)."""
    service = people.erpsync("login", "night")
    assert (service.returncode, "no person" in service.stderr) == (2, True)
    unknown = people.erpsync("logout", "an")
    assert (unknown.returncode, 'did you mean "ann"' in unknown.stderr) == (2, True)
    people.write(PEOPLE.replace('seal_key = { env = "BOX_SEAL" }', ""))
    unsealed = people.erpsync("login", "ann")
    assert unsealed.returncode == 78
    assert "must be kept" in unsealed.stderr
    assert "/dev/urandom" in unsealed.stderr
    people.write(PEOPLE.replace("{url}", "http://127.0.0.1:9"))
    assert people.erpsync("login", "ann").returncode == 75


def test_beside_a_daemon(people: Site) -> None:
    """A daemon that runs notices who signs in and out, and its services never mind; nothing of it is written down."""
    with people.daemon():
        assert people.erpsync("trigger", "persons", "--wait").returncode != 0
        assert sign_in(people)[0] == 0
        assert people.erpsync("trigger", "persons", "--wait").returncode == 0
        assert people.erpsync("trigger", "services", "--wait").returncode == 0
        assert people.erpsync("logout", "ann").returncode == 0
        assert people.erpsync("trigger", "persons", "--wait").returncode != 0
        assert people.sandbox.stats()["violations"] == 0
        assert people.erpsync("trigger", "services", "--wait").returncode == 0
    written = "\n".join(people.outputs)
    for path in (people.folder / "data").rglob("*"):
        if path.is_file():
            written += path.read_bytes().decode("latin-1")
    assert not re.search(r"eyJ[\w-]{10,}\.[\w-]{10,}", written)
    for secret in (SEAL, CLIENT_SECRET):
        assert secret not in written


ONE_SLOT = PEOPLE.replace("license_slots = 3", "license_slots = 1")


def test_one_slot_for_one_person_after_the_other(people: Site) -> None:
    """With one licence slot: a second sign-in by a fresh browser ends the session of the first, a sign-out frees the
    slot for somebody else, beside a daemon and without one; never are two sessions open, and none is opened again."""
    people.write(ONE_SLOT)
    with people.daemon():
        for _ in range(2):
            assert sign_in(people)[0] == 0
            assert people.erpsync("trigger", "persons", "--wait").returncode == 0
        assert people.erpsync("logout", "ann").returncode == 0
        assert people.erpsync("trigger", "services", "--wait").returncode == 0
    stats = people.sandbox.stats()
    assert (stats["sessions_opened"], stats["max_sessions_open"]) == (3, 1)
    assert (stats["violations"], stats["licenses_refused"]) == (0, 0)


def test_a_slot_that_is_free_is_known_to_be_free_without_a_daemon(people: Site) -> None:
    """One command after the other uses the one licence slot: signed in, signed out, signed in anew."""
    people.write(ONE_SLOT)
    for _ in range(2):
        assert sign_in(people)[0] == 0
        assert people.erpsync("run", "persons").returncode == 0
        assert people.erpsync("logout", "ann").returncode == 0
    assert people.erpsync("run", "services").returncode == 0
    stats = people.sandbox.stats()
    assert (stats["sessions_opened"], stats["max_sessions_open"], stats["violations"]) == (3, 1, 0)


def test_jobs_of_a_person_who_is_signed_out_are_skipped_until_somebody_signs_in(people: Site) -> None:
    """Fire times are one growing skip with the reason `identity`; after the sign-in the next one runs."""
    people.write(PEOPLE + OFTEN)
    with people.daemon() as daemon:
        assert any("waits for somebody" in problem for problem in people.json("status")["problems"])
        skips = lambda: people.runs("often", outcome="skipped")  # noqa: E731 - asked again and again
        eventually(lambda: any(run["fire_count"] >= 2 for run in skips()), "fire times are skipped")
        assert {run["reason"] for run in people.runs("often")} == {"identity"}  # the first fire time too
        assert any("login ann" in problem for problem in people.json("status")["problems"])
        assert sign_in(people)[0] == 0
        eventually(lambda: people.runs("often", outcome="succeeded"), "it runs")
        assert people.stop(daemon) == 0


OFTEN = """
[jobs.often]
plugin = "http_call"
identity = "ann"
schedule = { every = "1s" }
with = { url = "{url}/api/domain/odata/General_Currencies_Currencies" }
"""
