"""No secret and no token is anywhere but where it is needed: people, mistakes, broken states, forms of the log.

What is gone through besides stands in test_secrets.py, which checks that both together miss nothing.
"""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import httpx2
import pytest

from erpsync.sandbox.identity import WEB
from erpsync.sandbox.server import Sandbox
from tests.acceptance.leaks import Processes, Search, Typed, erpsync, folder, typed, written
from tests.acceptance.site import Site, eventually
from tests.acceptance.test_login import typing, walk
from tests.servers.program import Program, executed

__all__ = ["erpsync", "folder", "typed"]

CLIENT_SECRET = 'The-client\'s "secret" of people+services'
SEAL = "Seal-key of people & services, long enough"
LITERAL = "Literal-secret-by-mistake"
WORKING = f"""
[daemon]
data = "data"
plugins = ["plugins"]
seal_key = {{ env = "BOX_SEAL" }}
log = {{ format = "FORMAT", level = "LEVEL" }}

[metrics]
listen = false

[instances.box]
url = "{{url}}"
license_slots = 40

[defaults]
retry = {{ attempts = 2, backoff = "10ms" }}
schedule = "manual"

[identities.night]
client_id = "app/people"
client_secret = {{ env = "BOX_SECRET" }}
scope = ["read"]
instance = "box"

[identities.bob]
grant = "authorization_code"
client_id = "{WEB}"
client_secret = {{ env = "BOX_SECRET" }}
scope = ["read"]
instance = "box"

[jobs.loud]
plugin = "loud"
identity = "night"
with = {{ password = {{ env = "BOX_SECRET" }} }}

[jobs.deaf]
plugin = "deaf"
with = {{ password = {{ env = "BOX_SECRET" }} }}

[jobs.persons]
plugin = "http_call"
identity = "bob"
with = {{ url = "{{url}}/api/domain/odata/General_Currencies_Currencies" }}
"""
LOUD = '''
import time
from erpsync import JobContext, JobResult, Secret, Settings, job

class Options(Settings):
    password: Secret

@job("loud")
async def loud(ctx: JobContext[Options]) -> JobResult:
    """Tells it and fails."""
    print("printed", ctx.settings.password.get())
    await ctx.erp.count("General_Currencies_Currencies")
    raise ConnectionError(f"it is {ctx.settings.password.get()}")

@job("deaf", repeatable=True)
def deaf(ctx: JobContext[Options]) -> JobResult:
    """Tells it, and has to be killed."""
    print("printed", ctx.settings.password.get(), flush=True)
    time.sleep(600)
    return ctx.result()
'''
OF_PEOPLE = frozenset({"attempt.failed", "config.doubted", "token.restored", "token.login_required"})
OF_STATES = frozenset({
    "config.refused", "token.set_aside", "token.renewal_failed", "state.held", "state.released", "child.killed",
    "run.recovered",
})  # fmt: skip
EVENTS = OF_PEOPLE | OF_STATES
"""Those that the logs of the daemons here hold."""

MISTAKES = {
    "a literal": ('{ env = "BOX_SECRET" }', f'"{LITERAL}"'),
    "a literal in a list": ('{ env = "BOX_SECRET" }', f'[{{ env = "BOX_SECRET" }}, "{LITERAL}"]'),
    "not quoted": ('{ env = "BOX_SECRET" }', LITERAL),
    "not ended": ('{ env = "BOX_SECRET" }', f'"{LITERAL}'),
    "another key": ('client_secret = { env = "BOX_SECRET" }', f'client_secrt = "{LITERAL}"'),
    "no name": ('{ env = "BOX_SECRET" }', f'{{ secret = "{LITERAL}!%" }}'),
    "no variable": ('{ env = "BOX_SECRET" }', f'{{ env = "{LITERAL}" }}'),
    "in a URL": ('url = "{url}"', f'url = "https://user:{LITERAL}@example.org"'),
    "of a plugin": ('with = { password = { env = "BOX_SECRET" } }', f'with = {{ password = "{LITERAL}" }}'),
}
"""What people write into a configuration by mistake."""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(license_slots=40) as sandbox:
        yield sandbox


@pytest.fixture
def site(tmp_path: Path, sandbox: Sandbox) -> Site:
    """Persons and a service that share an application."""
    site = Site(tmp_path, sandbox)
    site.start = executed  # others see how it was started
    site.environment |= {
        "BOX_SEAL": SEAL,
        "BOX_SECRET": CLIENT_SECRET,
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "ERPSYNC_DEBUG": "1",  # tracebacks
        "ERPSYNC_ODD": "1",  # a doubt: nobody knows it
    }
    sandbox.register("app/people", CLIENT_SECRET)
    sandbox.set_secret(WEB, CLIENT_SECRET)
    site.write(LOUD, "plugins/loud.py")
    configure(site)
    return site


def configure(site: Site, form: str = "json", level: str = "debug", *edit: str) -> None:
    """The working configuration, with an edit (before, after)."""
    text = WORKING.replace("FORMAT", form).replace("LEVEL", level)
    assert not edit or edit[0] in text
    site.write(text.replace(*edit) if edit else text)


def nothing_leaked(site: Site, processes: Processes, *more: str) -> None:
    """One search through all that was said, written and run."""
    leaked = Search([CLIENT_SECRET, SEAL, *more], site.sandbox.tokens())
    assert leaked.found_in({"output": "\n".join(site.outputs).encode()}) == []
    files = written(site, ("erpsync.toml",) if more else ())
    assert leaked.found_in(files) == []
    assert leaked.found_in(processes.seen) == []


def told(site: Site) -> set[str]:
    """The events in the logs of all daemons so far."""
    lines = (line for output in site.outputs for line in output.splitlines() if line.startswith('{"at"'))
    return {json.loads(line)["event"] for line in lines}


def test_people_sign_in_and_out(site: Site, typed: Typed) -> None:
    """By a pasted address and by loopback, refused and at a server that repeats; renewed with rotation beside a
    daemon, which starts anew with the sealed token; signed out where revocation and end of session fail."""
    box = site.sandbox
    with Processes().watched() as processes:
        box.fail(where="discovery", status=500, raw=CLIENT_SECRET, times=-1)
        assert typed("login", "bob", "--no-browser").code == 75
        box.clear_faults()
        box.fail(where="token", pass_=True, merge={"scope": f"read {CLIENT_SECRET}"}, times=1)
        with typing(site, "login", "bob", "--no-browser") as terminal:
            url = terminal.url()
            code, said = terminal.end(walk(url) + "\n")
        assert code == 0
        site.outputs.append(said)
        _refuse(site)
        with site.daemon() as daemon:
            assert typed("trigger", "loud", "--wait").code == 1
            assert typed("trigger", "persons", "--wait").code == 0
            box.advance(3700)
            assert typed("trigger", "persons", "--wait").code == 0
            assert site.stop(daemon) == 0
        with site.daemon() as daemon:
            assert typed("trigger", "persons", "--wait").code == 0
            for where in ("revocation", "endsession"):
                raw = f"{CLIENT_SECRET} {' '.join(box.tokens()[-4:])}"
                box.fail(path=f"/id/connect/{where}", status=500, raw=raw, times=1)
            assert typed("logout", "bob").code == 0
            assert typed("trigger", "persons", "--wait").code == 77
            assert site.stop(daemon) == 0
    assert told(site) >= OF_PEOPLE
    nothing_leaked(site, processes)


def _refuse(site: Site) -> None:
    """By loopback, where the answer of the browser is a refusal that repeats the secret."""
    with typing(site, "login", "bob") as terminal:
        asked = httpx2.URL(terminal.url()).params
        words = {"error": "access_denied", "error_description": CLIENT_SECRET, "state": asked["state"]}
        with httpx2.Client(trust_env=False) as browser:
            browser.get(asked["redirect_uri"], params=words | {"iss": f"{site.sandbox.url}/id"})
        assert terminal.end()[0] == 77


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_in_the_configuration(site: Site, typed: Typed, mistake: tuple[str, str]) -> None:
    """A secret in the wrong place is quoted by no command, whether the file can be used or not."""
    configure(site, "json", "debug", *mistake)
    commands = (["check"], ["check", "--no-secrets"], ["plan"], ["jobs", "show", "loud"], ["status"])
    said = [typed(*command, *form) for command in commands for form in ([], ["--format", "json"])]
    assert {each.code for each in said} <= {0, 78}
    assert any("E1" in each.out or "E2" in each.out for each in said)
    assert Search([LITERAL], []).found_in({"output": "\n".join(site.outputs).encode()}) == []


def test_states_that_are_broken(site: Site, typed: Typed) -> None:
    """A refused reload, a damaged seal, a server that is away, a held state, an owner that is killed, and a child."""
    with Processes().watched() as processes:
        with site.daemon() as daemon:
            assert typed("trigger", "loud", "--wait").code == 1
            broken = f'[identities.x]\nclient_secret = "{LITERAL}"\n'
            site.write((site.folder / "erpsync.toml").read_text() + broken)
            assert typed("reload").code == 78
            assert typed("status").code == 0
            configure(site)
            assert site.stop(daemon) == 0
        for sealed in (site.folder / "data" / "tokens").glob("*.sealed"):
            sealed.write_bytes(b"damaged " + sealed.read_bytes())
        site.sandbox.fail(where="token", status=503, raw=CLIENT_SECRET, times=2)
        assert typed("store", "backup", "copy.db").code == 0
        assert typed("store", "restore", "copy.db", "--yes").code == 0
        with site.daemon() as daemon:
            assert typed("run", "loud").code == 75
            assert typed("resume", "--all").code == 0
            assert typed("trigger", "loud", "--wait").code == 1
            assert typed("trigger", "deaf").code == 0
            eventually(lambda: _has_told(typed, "deaf", attempt=1), "it runs")
            daemon.kill()
            daemon.wait()
        with site.daemon() as daemon:
            eventually(lambda: _has_told(typed, "deaf", attempt=2), "it is taken up again")
            eventually(lambda: _ends(daemon), "the second signal ends it at once")
    assert told(site) >= OF_STATES
    nothing_leaked(site, processes, LITERAL)


def _has_told(type_: Typed, job: str, attempt: int) -> bool:
    """Whether this attempt of a job's only run has told its secret, and so is in the middle of its work."""
    (run,) = type_("runs", job, "--format", "json").json
    return type_("logs", run["id"]).out.count("printed") == attempt


def _ends(daemon: Program) -> bool:
    """Tell it once more to end; whether it has."""
    daemon.send_signal(signal.SIGTERM)
    return daemon.poll() is not None


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_every_form_and_level_of_the_log(site: Site, typed: Typed, form: str, level: str) -> None:
    """A run that tells and fails, at a server that repeats."""
    configure(site, form, level)
    with Processes().watched() as processes, (site.folder / "log").open("wb") as log:
        _fail_beside_a_daemon(site, typed, log)
    site.outputs.append((site.folder / "log").read_text())
    assert "[redacted]" in site.outputs[-1]
    nothing_leaked(site, processes)


def test_a_terminal(site: Site, typed: Typed) -> None:
    """What is shown in colours, by a daemon and by a command that does the work itself."""
    configure(site, "auto", "debug")
    ours, theirs = pty.openpty()
    with ThreadPoolExecutor() as reader, Processes().watched() as processes:
        shown = reader.submit(_read_to_the_end, ours)
        with open(theirs, "wb") as terminal:
            _fail_beside_a_daemon(site, typed, terminal)
            command = [sys.executable, "-m", "erpsync.cli.main", "run", "loud"]
            done = subprocess.run(
                command, cwd=site.folder, env=site.environment, stdout=terminal, stderr=terminal, check=False
            )
    assert done.returncode == 1
    site.outputs.append(shown.result())
    log, _, rest = site.outputs[-1].rpartition("\x1b[")
    assert "[redacted]" in log
    assert "[redacted]" in rest
    nothing_leaked(site, processes)


def _fail_beside_a_daemon(site: Site, type_: Typed, log: BinaryIO) -> None:
    """A daemon that writes to `log`, a run of it that tells its secret, and a server that repeats it."""
    words = {"message": CLIENT_SECRET, "type": "x", "code": 7}
    site.sandbox.fail(where="api", status=500, error=words, times=1)
    daemon = site.spawn(log)
    try:
        eventually((site.folder / "data" / "control.sock").exists, "it listens")
        eventually(lambda: type_("trigger", "loud", "--wait").code == 1, "it serves")
        assert site.stop(daemon) == 0
    finally:
        daemon.kill()
        daemon.wait()


def _read_to_the_end(terminal: int) -> str:
    """All that a terminal shows until nobody has it open any more."""
    shown = b""
    try:
        while piece := os.read(terminal, 65536):
            shown += piece
    except OSError:  # Linux says so
        pass
    os.close(terminal)
    return shown.decode()
