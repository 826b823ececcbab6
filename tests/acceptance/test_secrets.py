"""No secret and no token is anywhere but where it is needed: services, plugins, commands and the API.

What is gone through stands in tables: sources of secrets, echoes of servers, outlets of plugins, commands, requests.
Each must end as its table says, lest something that fails early counts as gone through. The commands are those of the
program, the routes those of the API, the events those of docs/events.md: what is neither gone through here or in
test_secrets_of_people.py nor excused with a reason fails `test_everything_is_gone_through_or_excused`.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import httpx2
import pytest
import typer
from joserfc.jwk import RSAKey

from erpsync.cli.app import app
from erpsync.control.api import control_application
from erpsync.control.client import ControlClient
from erpsync.core.event import silent
from erpsync.core.redaction import Redactor
from erpsync.sandbox.server import Sandbox
from tests.acceptance import test_secrets_of_people as elsewhere
from tests.acceptance.leaks import (
    UNUSUAL,
    Processes,
    Search,
    Typed,
    erpsync,
    folder,
    key_lines,
    typed,
    written,
)
from tests.acceptance.site import Site, eventually
from tests.servers.program import executed

__all__ = ["erpsync", "folder", "typed"]

HELD = {
    "BOX_REFUSED": "wrong-refused-secret",
    "HANDED_OVER": "handed-over-secret",
    "BOX_RAW": "raw: pass+word/with=signs",
}
"""In the environment of the daemon and of commands."""
LYING = {
    "secrets/seal": "Seal-key that seals & has some length 1",
    "secrets/seal-before": "Seal-key of before, of some length 2",
    "secrets/refused-too": "Another-wrong-secret",
    "secrets/rolled-new": "N3w-one-rolled-over",
    "secrets/rolled-old": "0ld-one-rolled-over",
    "kept/by-file": "File-of-its-own-secret",
    "kept/by-command": "Printed-by-a-command",
    "credentials/by-credential": "Credential-of-systemd",
}
"""By the file where it lies."""

CONFIGURATION = """
[daemon]
data = "data"
plugins = ["plugins"]
drain = "5s"
seal_key = [{ secret = "seal" }, { secret = "seal-before" }]
log = { format = "json", level = "debug" }

[metrics]
listen = "127.0.0.1:{port}"

[secrets]
from = ["credentials", "secrets", "env:BOX_"]

[instances.box]
url = "{url}"
license_slots = 400

[defaults]
retry = { attempts = 1 }
schedule = "manual"

[jobs.slow]
plugin = "slow"
with = { password = { env = "HANDED_OVER" } }

[jobs.paused]
plugin = "slow"
with = { password = { env = "HANDED_OVER" } }

[jobs.parked]
plugin = "number"
with = { password = { env = "HANDED_OVER" } }

[jobs.gone]
plugin = "slow"
with = { password = { command = ["cat", "kept/by-command", "no-such-file"] } }
"""
IDENTITY = """
[identities.NAME]
instance = "box"
client_id = "app/NAME"
scope = ["read"]
KEYS

[jobs.read-NAME]
plugin = "read"
identity = "NAME"
"""
SOURCES = {
    "by-file": 'client_secret = { file = "kept/by-file" }',
    "by-command": 'client_secret = { command = ["cat", "kept/by-command"] }',
    "by-credential": 'client_secret = { secret = "by-credential" }',
    "basic-raw": 'client_secret = { env = "BOX_RAW" }\nauth_method = "client_secret_basic"\nbasic_encoding = "raw"',
    "rolled": 'client_secret = [{ secret = "rolled-new" }, { secret = "rolled-old" }]',
    "signed": 'auth_method = "private_key_jwt"\nprivate_key = { secret = "signed" }',
    "refused": 'client_secret = [{ env = "BOX_REFUSED" }, { secret = "refused-too" }]',
}
"""The identities by how they come to their secret."""
BY_HAND = """
[identities.NAME]
instance = "box"
grant = "reference_token"
token = { secret = "NAME" }
KEYS

[jobs.read-NAME]
plugin = "read"
identity = "NAME"
"""
REFERENCE = {
    "sat-as-bearer": f"token_expires = {datetime.now(UTC) + timedelta(days=5):%Y-%m-%d}",
    "pat-as-key": 'token_header = "x-api-key"',
}

OUTLETS = {
    "print": ('print("printed", secret)', "succeeded"),
    "print in two": ('print(secret[:3], end="", flush=True); print(secret[3:])', "succeeded"),
    "print a repr": ("print(repr(secret), repr('\"' + secret), secret.encode(), file=sys.stderr)", "succeeded"),
    "print encoded": ("print(urlencode({1: secret}), quote(secret), b64encode(secret.encode()))", "succeeded"),
    "print escaped": ("print(html.escape(secret), json.dumps(secret), secret.encode().hex())", "succeeded"),
    "unterminated": ("sys.stdout.write(secret)", "succeeded"),
    "an endless line": ('print("." * 65_530 + secret + "." * 140_000)', "succeeded"),
    "past the redirection": ('sys.__stderr__.write(secret + "\\n")', "succeeded"),
    "logging": ('logging.getLogger("mine").error("logged %s", secret)', "succeeded"),
    "the log of a library": ('logging.getLogger("apscheduler").warning(secret)', "succeeded"),
    "warnings": ("warnings.warn(secret)", "succeeded"),
    "the environment": ("print(os.environ)", "succeeded"),
    "ctx.log": ("ctx.log.info(f'it is {secret}', x=[{secret: secret}], y=Thing(secret))", "succeeded"),
    "a note": ("return ctx.result(secret)", "succeeded"),
    "skip": ("raise Skip(secret)", "succeeded"),
    "a dead letter": ('ctx.dead_letter({"row": 1}, f"not taken: {secret}")', "failed"),
    "retry": ('raise Retry("1s", secret)', "failed"),
    "refused": ("raise AuthFailed(secret)", "failed"),
    "a setting": ('raise ConfigProblem("password", secret)', "failed"),
    "a key": ("raise KeyError(secret)", "failed"),
    "an exit": ("raise SystemExit(secret)", "failed"),
    "a group": ("raise ExceptionGroup(secret, [ValueError(secret), KeyError(secret)])", "failed"),
    "a note on an error": ("error = ValueError(1); error.add_note(secret); raise error", "failed"),
    "a chain": ("raise RuntimeError(secret) from ValueError(secret)", "failed"),
    "a long error": ('raise ValueError("." * 1995 + secret)', "failed"),
    "the name of a class": ("raise type(secret.replace(chr(0), ''), (Exception,), {})(secret)", "failed"),
    "a cursor": ("ctx.cursor.stage(secret + secret)", "failed"),
    "settings": ("print(ctx.settings, repr(ctx.settings), ctx.settings.model_dump())", "succeeded"),
    "too long": ("print(secret); ctx.progress(1, 2); PAUSE(2.5)", "timed_out"),
}  # fmt: skip
"""What a plugin does with its secret, and how its run ends: in the daemon and in a child."""
IN_A_CHILD = {
    "a descriptor": ("os.write(2, secret.encode())", "succeeded"),
    "killed": ("print(secret, end='', flush=True); os.kill(os.getpid(), 9)", "failed"),
}
"""What cannot be caught in the daemon (docs/secrets.md)."""
IN_THE_DAEMON = {
    "a callback": (
        "asyncio.get_running_loop().call_soon(int, secret); await asyncio.sleep(0.01)",
        "succeeded",
    ),
    "a blocked loop": ("print(secret); time.sleep(2.5)", "succeeded"),
}

LOUD = """
import asyncio, html, json, logging, os, sys, time, warnings
from base64 import b64encode
from urllib.parse import quote, urlencode
from erpsync import AuthFailed, ConfigProblem, JobContext, JobResult, Retry, Secret, Settings, Skip, job

class Thing:
    def __init__(self, secret):
        self.secret = secret
    def __str__(self):
        return f"a thing with {self.secret}"

class Options(Settings):
    password: Secret

"""
READ = '''
import time
from pydantic import model_validator
from erpsync import JobContext, JobResult, Secret, Settings, job

class Options(Settings):
    password: Secret

class Number(Settings):
    password: Secret

    @model_validator(mode="after")
    def _check(self):
        int(self.password.get())
        return self

@job("read")
async def read(ctx: JobContext[Settings]) -> JobResult:
    """One read."""
    ctx.count(read=await ctx.erp.count("General_Currencies_Currencies"))
    return ctx.result()

@job("number")
async def number(ctx: JobContext[Number]) -> JobResult:
    """Wants a number."""
    return ctx.result()

@job("slow", repeatable=True)
def slow(ctx: JobContext[Options]) -> JobResult:
    """Goes on until it is cancelled, and complains."""
    try:
        while True:
            ctx.checkpoint()
            time.sleep(0.02)
    except BaseException as error:
        raise ValueError(ctx.settings.password.get()) from error
'''


def _token(**fault: Any) -> dict[str, Any]:
    return {"where": "token", **fault}


def _api(status: int, **fault: Any) -> dict[str, Any]:
    return {"where": "api", "status": status, **({} if "error" in fault else {"raw": ""}), **fault}


_DENIED = {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="{quoted}"'}
ECHOES: dict[str, tuple[dict[str, Any], str]] = {
    "page of a failing server": (_token(status=500, raw="<h1>{said}</h1>"), "succeeded"),
    "an error code": (_token(status=400, body={"error": "{said}"}), "failed"),
    "a description": (_token(status=400, body={"error": "x", "error_description": "{said}"}), "failed"),
    "a refusal": (_token(status=401, body={"error": "invalid_client", "error_description": "{said}"}), "failed"),
    "a scope": (_token(pass_=True, merge={"scope": "read {said}"}), "succeeded"),
    "a type": (_token(pass_=True, merge={"token_type": "{said}"}), "failed"),
    "a redirect of the token": (_token(status=302, headers={"Location": "https://{quoted}/"}), "failed"),
    "an error of the API": (_api(500, error={"message": "{said}", "type": "{said}", "code": 7}), "failed"),
    "a refusal of the API": (_api(403, error={"message": "{said}", "type": "x", "code": 7}), "failed"),
    "a challenge": (_api(403, headers=_DENIED), "failed"),
    "a redirect of the API": (_api(302, headers={"Location": "https://{quoted}/"}), "failed"),
    "an expired token": (_api(401, raw="{said}"), "succeeded"),
    "a read that is tried again": (_api(503, raw="{said}"), "succeeded"),
}  # fmt: skip
"""What a server may repeat, once, of what it was sent; and how the run ends that meets it."""

COMMANDS: dict[str, list[tuple[str, int, int | None]]] = {
    "check": [("check", 78, 78), ("check --no-secrets", 0, 0), ("check --online", 78, 78)],
    "plan": [("plan", 0, 0)],
    "next": [("next", 0, 0)],
    "simulate": [("simulate --from 2026-01-01 --to 2026-01-02", 0, 0)],
    "night": [("night", 1, 1)],
    "run": [
        ("run parked", 78, 78), ("run slow --set x=handed-over-secret", 2, 2), ("run nobody", 2, 2),
        ("run task-a-chain child-a-chain read-refused --yes", 77, 77), ("run read-percent --dry-run", 0, 0),
    ],
    "status": [("status", 0, 0), ("status --check", 1, 1)],
    "jobs": [("jobs", 0, 0)],
    "jobs show": [("jobs show read-percent", 0, 0), ("jobs show slow", 0, 0)],
    "runs": [("runs --limit 500", 0, 0)],
    "show": [("show {run}", 0, 0), ("show {child}", 0, 0)],
    "logs": [("logs {run}", 0, 0), ("logs {child}", 0, 0)],
    "identities": [("identities", 0, 0)],
    "token": [("token percent", 0, 0), ("token quotes --fetch", 0, 0), ("token refused --fetch", 77, 77)],
    "doctor": [("doctor", 77, 77), ("doctor --api", 77, 77)],
    "trigger": [("trigger parked", 78, 69), ("trigger read-percent --wait", 0, 69)],
    "cancel": [
        ("cancel {run} --reason handed-over-secret", 0, 69), ("cancel {slow} --reason handed-over-secret", 0, 69),
    ],
    "retry": [("retry {run}", 1, 1)],
    "dead": [("dead child-a-dead-letter", 0, 0), ("dead child-a-dead-letter --retry", 1, 1)],
    "cursor": [("cursor read-percent", 0, 0), ("cursor read-percent --reset --yes", 0, 0)],
    "backfill": [("backfill parked --from 2026-01-01 --to 2026-01-02", 78, 69)],
    "pause": [("pause paused --reason 'it is handed-over-secret'", 0, 69)],
    "resume": [("resume paused", 0, 69)],
    "reload": [("reload", 0, 69)],
    "plugins": [("plugins", 0, 0)],
    "schema": [("schema", 0, 0)],
    "store check": [("store check", 0, 0)],
    "store backup": [("store backup copy.db", 0, 2)],
    "store upgrade": [("store upgrade", 75, 0)],
    "store restore": [("store restore copy.db --yes", 75, 0)],
    "daemon": [("daemon", 75, None)],
    "login": [("login percent", 2, 2)],
    "logout": [("logout percent", 2, 2)],
    "new job": [("new job mine", 0, 2)],
    "new instance": [("new instance acme --url https://acme.my.erp.net", 0, 2)],
}  # fmt: skip
"""By its name what is typed, in text and in JSON where there is such; the exit codes beside a daemon and alone."""
EXCUSED_COMMANDS = {
    "demo": "has a sandbox and secrets of its own, which are printed in its manual",
    "sandbox": "prints the secrets of its applications: that is what they are for",
}

_PAST = {"window": ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"], "slice_seconds": 86_400}
REQUESTS: dict[str, list[tuple[str, object, int]]] = {
    "GET /status": [("/status", None, 200)],
    "GET /identities": [("/identities", None, 200)],
    "GET /identities/{name}": [("/identities/percent", None, 200), ("/identities/handed-over-secret", None, 404)],
    "POST /identities/{name}/fetch": [
        ("/identities/tabs/fetch", None, 200), ("/identities/refused/fetch", None, 409),
    ],
    "POST /instances/{name}/examine": [("/instances/box/examine", None, 200), ("/instances/no/examine", None, 404)],
    "POST /runs": [
        ("/runs", {"job": "read-percent"}, 201), ("/runs", {"job": "parked"}, 409),
        ("/runs", {"job": "slow", "params": {"set": {"x": "handed-over-secret"}}}, 409),
        ("/runs", {"job": "handed-over-secret"}, 404),
        ("/runs", {"handed-over-secret": "handed-over-secret"}, 422),
    ],
    "POST /claims": [
        ("/claims", {"jobs": ["read-quotes", "read-tabs"]}, 201), ("/claims", {"jobs": ["slow", "parked"]}, 409),
        ("/claims", {"jobs": ["handed-over-secret"]}, 404),
        ("/claims", {"jobs": "handed-over-secret"}, 422),
    ],
    "GET /runs/{run_id}": [("/runs/{run}", None, 200), ("/runs/none", None, 404)],
    "POST /runs/{run_id}/retry": [
        ("/runs/{third}/retry", {}, 201), ("/runs/none/retry", {}, 404),
        ("/runs/{run}/retry", {"force": "handed-over-secret"}, 422),
    ],
    "POST /runs/{run_id}/cancel": [("/runs/{run}/cancel", {"reason": "handed-over-secret"}, 200)],
    "POST /jobs/{job}/dead/retry": [
        ("/jobs/task-a-dead-letter/dead/retry", None, 201), ("/jobs/slow/dead/retry", None, 409),
    ],
    "POST /jobs/{job}/cursor/reset": [
        ("/jobs/read-regex/cursor/reset", None, 200), ("/jobs/handed-over-secret/cursor/reset", None, 404),
    ],
    "POST /jobs/{job}/backfill": [
        ("/jobs/read-markup/backfill", _PAST, 201), ("/jobs/slow/backfill", {"window": "handed-over-secret"}, 422),
    ],
    "POST /pause": [
        ("/pause", {"jobs": ["paused", "gone"], "reason": "handed-over-secret"}, 200), ("/pause", {"jobs": []}, 422),
    ],
    "POST /resume": [("/resume", {"jobs": ["paused"]}, 200)],
    "POST /reload": [("/reload", None, 200)],
    "GET /openapi.json": [("/openapi.json", None, 200)],
}  # fmt: skip
PAGES = {"metrics": 200, "healthz": 200, "readyz": 200}

EVENTS = frozenset({
    "daemon.started", "daemon.draining", "daemon.stopped", "daemon.faulted", "library.warned", "config.reloaded",
    "job.parked", "job.paused", "job.resumed", "run.claimed", "run.started", "run.waiting", "run.finished",
    "loop.blocked", "loop.freed", "token.requested", "token.renewed", "token.read", "token.rejected",
    "token.renewal_failed", "token.expiry_neared", "token.invalidated", "token.answer_doubted", "session.opened",
    "request.replayed", "request.retried", "cursor.reset",
})  # fmt: skip
"""Those that the log of this daemon holds."""
_OF_SYSTEM = "needs a full disk or a refusing state, and says the system's or SQLite's own words"
EXCUSED_EVENTS = {
    "config.unkept": _OF_SYSTEM, "token.store_failed": _OF_SYSTEM, "store.unavailable": _OF_SYSTEM,
    "claim.failed": _OF_SYSTEM, "state.damaged": _OF_SYSTEM, "retention.failed": _OF_SYSTEM, "run.lost": _OF_SYSTEM,
    "control.failed": "names a path and the type of a fault", "observer.failed": "names the type of a fault",
    "claim.recovered": "names jobs", "job.renamed": "names jobs", "rename.refused": "names jobs",
    "job.overdue": "names jobs and instants",
    "license.waiting": "names an identity and those that hold its slots",
    "attempt.abandoned": "names a run", "session.ended": "has a fingerprint", "state.displaced": "names a path",
    "control.renewed": "names a path", "control.lost": "names a path and says the system's own words",
    "control.left": _OF_SYSTEM,
    "files.exhausted": "says always the same", "retention.applied": "has numbers", "clock.jumped": "has numbers",
    "run.extended": "has numbers",
}  # fmt: skip
"""Those that are hard to come by, or say nothing but what is named here."""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An instance with a licence slot for everybody."""
    with Sandbox(license_slots=400) as sandbox:
        yield sandbox


@pytest.fixture
def key() -> str:
    return RSAKey.generate_key(2048).as_pem(private=True).decode()


@pytest.fixture
def site(tmp_path: Path, sandbox: Sandbox, key: str, free_port: int) -> Site:
    """An identity for each unusual secret and for each source, jobs for the outlets and for the echoes."""
    site = Site(tmp_path, sandbox)
    site.start = executed  # others see how it was started
    site.environment |= HELD | {
        "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
        "ERPSYNC_DEBUG": "1",  # tracebacks
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
    }
    lying = LYING | {f"secrets/{name}": secret for name, secret in UNUSUAL.items()} | {"secrets/signed": key}
    lying |= {f"secrets/{name}": sandbox.reference_token("erpsync.sandbox/service") for name in REFERENCE}
    for name, value in lying.items():
        (tmp_path / name).parent.mkdir(mode=0o700, exist_ok=True)
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(f"{value}\n")
    public = RSAKey.import_key(key).as_pem(private=False).decode()
    for name, secret in {
        **UNUSUAL,
        "by-file": LYING["kept/by-file"],
        "by-command": LYING["kept/by-command"],
        "by-credential": LYING["credentials/by-credential"],
        "basic-raw": HELD["BOX_RAW"],
        "rolled": LYING["secrets/rolled-old"],
        "refused": "the right one, which nobody has",
        **{_name("echo", name): _cycled(number) for number, name in enumerate(ECHOES)},
    }.items():
        sandbox.register(f"app/{name}", secret)
    sandbox.register("app/signed", public_key=public)
    site.write("".join(_configuration()).replace("{port}", str(free_port)))
    site.write(READ, "plugins/read.py")
    site.write(LOUD + "".join(_plugins()), "plugins/loud.py")
    return site


def _configuration() -> Iterator[str]:
    yield CONFIGURATION
    methods = ["client_secret_post", "client_secret_basic"]
    for number, name in enumerate(UNUSUAL):
        keys = f'client_secret = {{ secret = "{name}" }}\nauth_method = "{methods[number % 2]}"'
        yield IDENTITY.replace("NAME", name).replace("KEYS", keys)
    for name, keys in SOURCES.items():
        yield IDENTITY.replace("NAME", name).replace("KEYS", keys)
    for name, keys in REFERENCE.items():
        yield BY_HAND.replace("NAME", name).replace("KEYS", keys)
    for number, name in enumerate(ECHOES):
        keys = f'client_secret = {{ secret = "{[*UNUSUAL][number % len(UNUSUAL)]}" }}'
        yield IDENTITY.replace("NAME", _name("echo", name)).replace("KEYS", keys)
    for number, (name, _, outcome) in enumerate(_outlets()):
        secret = [*UNUSUAL][
            number % (len(UNUSUAL) - 1)
        ]  # the last one is too short to be refused as a cursor
        timeout = "1s" if outcome == "timed_out" else "1m"
        yield f'[jobs.{name}]\nplugin = "{name}"\ntimeout = "{timeout}"\n'
        yield f'with = {{ password = {{ secret = "{secret}" }} }}\n'


def _outlets() -> Iterator[tuple[str, str, str]]:
    """Job, code and outcome."""
    for where, ways in (("task", OUTLETS | IN_THE_DAEMON), ("child", OUTLETS | IN_A_CHILD)):
        for way, (code, outcome) in ways.items():
            yield _name(where, way), code, outcome


def _plugins() -> Iterator[str]:
    for name, code, _ in _outlets():
        inside = name.startswith("task")
        define, sleep = ("async def", "await asyncio.sleep") if inside else ("def", "time.sleep")
        yield f'@job("{name}", takes_dead=True)\n'
        yield f"{define} {name.replace('-', '_')}(ctx: JobContext[Options]) -> JobResult:\n"
        yield "    secret = ctx.settings.password.get()\n"
        yield f"    {code.replace('PAUSE', sleep)}\n    return ctx.result()\n\n"


def _name(where: str, way: str) -> str:
    return f"{where}-{re.sub(r'[^a-z]+', '-', way.lower()).strip('-')}"


def _cycled(number: int) -> str:
    return [*UNUSUAL.values()][number % len(UNUSUAL)]


def test_no_secret_is_anywhere(site: Site, key: str, free_port: int, typed: Typed) -> None:
    """Through a daemon, its plugins, servers that repeat what they hear, every request, and every command beside the
    daemon and alone."""
    answers: list[str] = []
    with Processes().watched() as processes:
        with site.daemon() as daemon:
            _read_with_every_identity(site)
            _hear_echoes(site)
            _let_plugins_tell(site)
            failed = {"run": "task-a-chain", "child": "child-a-chain", "third": "task-a-group"}
            found = {name: site.runs(job)[0]["id"] for name, job in failed.items()}
            site.erpsync("trigger", "slow")
            found["slow"] = eventually(lambda: _running(site, "slow"), "a child runs")
            answers += _ask(site, found)
            answers += [_page(free_port, name, status) for name, status in PAGES.items()]
            _type_commands(found, typed, alone=False)
            assert site.stop(daemon) == 0
        log = site.outputs[-1]
        _type_commands(found, typed, alone=True)
    assert {event for event in EVENTS if f'"event":"{event}"' not in log} == set()
    said = "\n".join([*site.outputs, *answers])
    assert all(word in said for word in ("printed", "[redacted]", "erpsync_token"))
    secrets = [*UNUSUAL.values(), *HELD.values(), *LYING.values(), *key_lines(key)]
    leaked = Search(secrets, site.sandbox.tokens())
    assert leaked.found_in({"output": said.encode()}) == []
    assert leaked.found_in(written(site, ("secrets", "kept", "credentials", "plugins"))) == []
    assert any(name.endswith("fork_server environ") for name in processes.seen)
    assert leaked.found_in(processes.seen) == []


def _running(site: Site, job: str) -> str | None:
    """The run of a job, where it runs."""
    newest = site.runs(job)[0]
    return newest["id"] if newest["state"] == "running" else None


def _read_with_every_identity(site: Site) -> None:
    names = [f"read-{name}" for name in (*UNUSUAL, *SOURCES, *REFERENCE)]
    assert site.erpsync("run", *names, "--yes").returncode == 77
    expected = {name: "failed" if name == "read-refused" else "succeeded" for name in names}
    assert _outcomes(site, names) == expected


def _outcomes(site: Site, names: Iterable[str]) -> dict[str, str]:
    """How the newest run of each job has ended."""
    newest = {run["job"]: run["outcome"] for run in reversed(site.json("runs", "--limit", "5000"))}
    return {name: newest[name] for name in names}


def _hear_echoes(site: Site) -> None:
    """One after the other: each fault is for one request that its run makes."""
    expected = {f"read-{_name('echo', name)}": outcome for name, (_, outcome) in ECHOES.items()}
    with ControlClient(site.folder / "data" / "control.sock") as client:
        for number, (name, (fault, _)) in enumerate(ECHOES.items()):
            secret = _cycled(number)
            quoted = str(httpx2.QueryParams({"x": secret}))[2:]
            repeated = json.dumps(f"{secret} | {site.sandbox.tokens()[-1]}")[1:-1]
            text = json.dumps(fault).replace("{said}", repeated).replace("{quoted}", quoted)
            site.sandbox.fail(**json.loads(text))
            run = client.claim(f"read-{_name('echo', name)}", {})
            while client.find(run["id"], wait=10)["state"] != "finished":
                pass
            site.sandbox.clear_faults()
    assert _outcomes(site, expected) == expected


def _let_plugins_tell(site: Site) -> None:
    expected = {name: outcome for name, _, outcome in _outlets()}
    assert site.erpsync("run", "task-*", "child-*", "--yes").returncode == 78
    assert _outcomes(site, expected) == expected


def _type_commands(found: dict[str, str], type_: Typed, *, alone: bool) -> None:
    """As text and as JSON."""
    expected, ended = {}, {}
    for name, variants in COMMANDS.items():
        formats = [[], ["--format", "json"]] if "format" in _parameters(name) else [[]]
        for text, beside, by_itself in variants:
            code = by_itself if alone else beside
            for form in formats if code is not None else ():
                ended[text, *form] = type_(*shlex.split(text.format(**found)), *form).code
                expected[text, *form] = code
    wrong = {typed: (code, expected[typed]) for typed, code in ended.items() if code != expected[typed]}
    assert wrong == {}


def _ask(site: Site, found: dict[str, str]) -> list[str]:
    """Whatever the control API answers."""
    transport = httpx2.HTTPTransport(uds=str(site.folder / "data" / "control.sock"))
    answers = []
    with httpx2.Client(transport=transport, base_url="http://daemon", timeout=60) as http:
        for route, variants in REQUESTS.items():
            method = route.partition(" ")[0]
            for path, body, status in variants:
                answer = http.request(method, path.format(**found), json=body)
                assert (route, path, answer.status_code) == (route, path, status), answer.text
                answers.append(answer.text)
        for odd in (
            http.get("/handed-over-secret"),
            http.delete("/runs"),
            http.post("/runs", content=b"\xff{"),
        ):
            assert odd.status_code in (400, 404, 405, 422)
            answers.append(odd.text)
    return answers


def _page(port: int, name: str, status: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/{name}") as answer:
        assert answer.status == status
        return str(answer.read().decode())


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command of the program by its full name; a group that does something of its own is one too."""
    inner = getattr(command, "commands", {})
    if not inner or (path and command.invoke_without_command):
        yield " ".join(path), command
    for name, each in inner.items():
        yield from _commands(each, (*path, name))


def _parameters(name: str) -> set[str]:
    return {parameter.name for parameter in dict(_commands(typer.main.get_command(app)))[name].params}


def test_everything_is_gone_through_or_excused() -> None:
    """What a later version adds to the program, the API or the log must be added to a table here."""
    commands = {name for name, _ in _commands(typer.main.get_command(app))}
    assert commands == {*COMMANDS, *EXCUSED_COMMANDS}
    nobody: Any = None
    routes = control_application(nobody, nobody, silent, Redactor()).routes
    asked = {f"{method} {route.path}" for route in routes for method in route.methods - {"HEAD"}}  # type: ignore[attr-defined]
    assert asked == {*REQUESTS}
    page = Path(__file__).parents[2] / "docs" / "events.md"
    events = set(re.findall(r"^\| `([a-z_.]+)` \|", page.read_text(), re.MULTILINE))
    assert events == EVENTS | elsewhere.EVENTS | set(EXCUSED_EVENTS)
    assert not (EVENTS | elsewhere.EVENTS) & set(EXCUSED_EVENTS)
