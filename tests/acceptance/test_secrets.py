"""No secret and no token is anywhere but where it is needed: every command, log, error, file, API and process."""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus
from urllib.request import urlopen

import pytest
from joserfc.jwk import RSAKey

from erpsync.control.client import ControlClient
from erpsync.core.errors import ErpsyncError
from erpsync.sandbox.server import Sandbox
from tests.acceptance.site import Site, eventually
from tests.servers.program import executed

UNUSUAL = {
    "percent": "p%41ss+&=?#%zz",
    "quotes": "quo\"te\\back's`${HOME}`",
    "cyrillic": "Тайна-парола-7",
    "beyond": "𝒮ecret-\N{KEY}",
    "spaces": "  spaces at both ends  ",
    "long": "x" * 496 + "-end",
    "regex": r"a.*+?^${}()|[]\d",
    "markup": "<b>&amp;'secret'</b>",
    "lines": "the first line\nthe second line",
    "tabs": "semi;colon\ttab  two",
    "short": "s3c!",
}
"""By the name of the identity that has it."""
HELD = {"BOX_REFUSED": "wrong-refused-secret", "HANDED_OVER": "handed-over-secret"}
"""In the daemon's environment."""
SEAL = "the key that seals & has some length"

CONFIGURATION = """
[daemon]
data = "data"
plugins = ["plugins"]
drain = "5s"
seal_key = { secret = "seal" }
log = { format = "json", level = "debug" }

[metrics]
listen = "127.0.0.1:{port}"

[secrets]
from = ["secrets", "env:BOX_"]

[instances.box]
url = "{url}"
license_slots = 40

[defaults]
retry = { attempts = 1 }
schedule = "manual"

[jobs.slow]
plugin = "slow"
with = { password = { env = "HANDED_OVER" } }
"""
SERVICE = """
[identities.NAME]
instance = "box"
client_id = "app/NAME"
client_secret = { secret = "NAME" }
scope = ["read"]
auth_method = "METHOD"

[jobs.child-NAME]
plugin = "loud"
identity = "NAME"
with = { password = { secret = "NAME" } }

[jobs.task-NAME]
plugin = "loud-too"
identity = "NAME"
with = { password = { secret = "NAME" } }
"""
OTHERS = """
[identities.refused]
instance = "box"
client_id = "app/percent"
client_secret = [{ env = "BOX_REFUSED" }, { secret = "refused-too" }]

[identities.by-hand]
instance = "box"
grant = "reference_token"
token = { secret = "by-hand" }
token_header = "x-api-key"

[identities.signed]
instance = "box"
client_id = "app/signed"
auth_method = "private_key_jwt"
private_key = { secret = "signed" }

[jobs.refused]
plugin = "read"
identity = "refused"

[jobs.by-hand]
plugin = "read"
identity = "by-hand"

[jobs.signed]
plugin = "read"
identity = "signed"
"""
LOUD = '''
import base64
import json
import sys
from urllib.parse import quote, urlencode
from erpsync import JobContext, JobResult, Secret, Settings, job

class Options(Settings):
    password: Secret

@job("loud")
def loud(ctx: JobContext[Options]) -> JobResult:
    """Says what it should not, in every way it can."""
    secret = ctx.settings.password.get()
    half = len(secret) // 2
    print("printed", secret)
    print(secret[:half], end="", flush=True)
    print(secret[half:])
    print("to stderr", repr(secret), secret.encode(), file=sys.stderr)
    print("encoded", urlencode({"x": secret}), quote(secret), base64.b64encode(b"me:" + secret.encode()).decode())
    ctx.log.info("logged", text=f"the password is {secret}", **{"deep": {"list": [secret, {secret: 1}]}})
    ctx.log.info(json.dumps(secret) + str(ctx.settings))
    ctx.dead_letter({"row": 1}, f"not taken: {secret}")
    try:
        READ
    except Exception as error:
        raise RuntimeError(f"failed with {secret}") from error
    raise RuntimeError(f"failed with {secret}")

'''
READ = '''
import asyncio
import time
from pathlib import Path
from erpsync import JobContext, JobResult, Secret, Settings, Skip, job

class Options(Settings):
    password: Secret

@job("read")
async def read(ctx: JobContext[Settings]) -> JobResult:
    """One read."""
    ctx.count(read=await ctx.erp.count("General_Currencies_Currencies"))
    return ctx.result()

@job("slow")
def slow(ctx: JobContext[Options]) -> JobResult:
    """Waits for a file, then has nothing to do."""
    while not Path("go").exists():
        time.sleep(0.02)
    raise Skip(f"no need of {ctx.settings.password.get()}")
'''


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An instance with a licence slot for everybody."""
    with Sandbox(license_slots=40) as sandbox:
        yield sandbox


@pytest.fixture
def key() -> str:
    return RSAKey.generate_key(2048).as_pem(private=True).decode()


@pytest.fixture
def site(tmp_path: Path, sandbox: Sandbox, key: str, free_port: int) -> Site:
    """An application and an identity for each unusual secret, jobs that tell it, and identities of other kinds."""
    site = Site(tmp_path, sandbox)
    site.start = executed  # others see how it was started
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    values = {
        **UNUSUAL,
        "seal": SEAL,
        "refused-too": "another wrong one",
        "by-hand": sandbox.reference_token("erpsync.sandbox/service"),
        "signed": key,
    }
    for name, value in values.items():
        (secrets / name).touch(mode=0o600)
        (secrets / name).write_text(f"{value}\n")
    methods = ["client_secret_post", "client_secret_basic"]
    text = CONFIGURATION.replace("{port}", str(free_port)) + OTHERS
    for number, (name, secret) in enumerate(UNUSUAL.items()):
        sandbox.register(f"app/{name}", secret)
        text += SERVICE.replace("NAME", name).replace("METHOD", methods[number % 2])
    sandbox.register("app/signed", public_key=RSAKey.import_key(key).as_pem(private=False).decode())
    site.environment |= HELD
    site.write(text)
    call = 'ctx.erp.count("General_Currencies_Currencies")'
    site.write(LOUD.replace("READ", call), "plugins/loud.py")
    too = LOUD.replace('@job("loud")\ndef loud', '@job("loud-too")\nasync def loud_too')
    site.write(too.replace("READ", f"await {call}"), "plugins/loud_too.py")
    site.write(READ, "plugins/read.py")
    return site


def test_no_secret_and_no_token_is_anywhere(site: Site, key: str, free_port: int) -> None:
    """Unusual secrets and all tokens go through a daemon, its errors and commands; nothing of them is left."""
    box = site.sandbox
    answers: list[str] = []
    with site.daemon() as daemon:
        site.erpsync("run", "task-*", "child-*", "refused", "by-hand", "signed", "--yes")
        echoes(box)
        site.erpsync("run", "task-percent", "child-quotes", "refused")
        for command in COMMANDS:
            site.erpsync(*command)
        run = site.runs("child-percent")[0]["id"]
        for command in (["show", run], ["logs", run], ["dead", "child-percent"]):
            site.erpsync(*command)
        answers += asked(site.folder / "data" / "control.sock")
        answers += [urlopen(f"http://127.0.0.1:{free_port}/{page}").read().decode() for page in PAGES]
        site.erpsync("trigger", "slow")
        processes = eventually(lambda: descendants(daemon.pid), "a child runs")
        box.clear_faults()
        site.erpsync("token", "percent", "--fetch", ERPSYNC_DEBUG="1")
        (site.folder / "go").touch()
        assert site.stop(daemon) == 0
    site.erpsync("run", "task-cyrillic", "refused", "by-hand", ERPSYNC_DEBUG="1")
    site.erpsync("doctor", "--api")
    said = "\n".join([*site.outputs, *answers])
    assert all(word in said for word in ("printed", "logged", "[redacted]", "token.renewed", "erpsync_token"))
    assert box.stats()["token_requests"]["app/signed"] >= 1
    leaked = Search([*UNUSUAL.values(), *HELD.values(), SEAL, *key_lines(key)], box.tokens())
    assert leaked.found_in({"output": said.encode()}) == []
    assert leaked.found_in(written(site.folder / "data")) == []
    assert leaked.found_in(processes) == []


COMMANDS = [
    ["status"],
    ["status", "--format", "json"],
    ["identities"],
    ["token", "percent"],
    ["token", "quotes", "--fetch"],
    ["token", "refused", "--fetch", "--format", "json"],
    ["doctor", "--api"],
    ["check"],
    ["runs"],
    ["jobs", "show", "task-markup"],
    ["night"],
]
PAGES = ["metrics", "healthz", "readyz"]


def echoes(box: Sandbox) -> None:
    """From now on servers repeat what they were sent, as some do: secrets in every spelling, and tokens."""
    secrets = [*UNUSUAL.values(), *HELD.values()]
    said = " | ".join(
        spelled
        for value in secrets
        for spelled in (value, quote(value), html.escape(value), json.dumps(value))
    )
    tokens = " ".join(box.tokens())
    box.fail(where="token", status=500, raw=f"<h1>{said}</h1>", times=2)
    box.fail(
        where="token", status=400, body={"error": UNUSUAL["percent"], "error_description": said}, times=2
    )
    box.fail(where="token", status=401, body={"error": "invalid_client", "error_description": said}, times=3)
    box.fail(
        where="api", status=500, error={"message": f"{said} {tokens}", "type": UNUSUAL["regex"]}, times=2
    )
    box.fail(where="token", pass_=True, merge={"scope": " ".join(["read", *secrets])}, times=-1)
    box.fail(where="api", status=401, raw=tokens, times=1)


def asked(socket: Path) -> list[str]:
    """Whatever the control API answers to any of its questions."""
    with ControlClient(socket) as client:
        answers: list[object] = [client.status(), client.identities()]
        for name in (*UNUSUAL, "refused", "by-hand", "signed"):
            try:
                answers.append(client.identity(name, fetch=name in ("tabs", "refused", "by-hand")))
            except ErpsyncError as error:
                answers.append([error.message, error.hint])
        answers.append(client.examine("box", api=False))
    return [json.dumps(answer, ensure_ascii=False) for answer in answers]


def descendants(pid: int) -> dict[str, bytes]:
    """Command lines of all processes, environments of those that the daemon has started; empty without a child."""
    found, parents = {}, {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                parents[int(process.name)] = int(
                    re.sub(r".*\) . ", "", (process / "stat").read_text()).split()[0]
                )
                found[f"{process.name} cmdline"] = (process / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue
    ours = {pid}
    for _ in range(3):
        ours |= {child for child, parent in parents.items() if parent in ours}
    children = ours - {pid}
    if len(children) < 2:  # the fork server, and the child that it has made
        return {}
    return found | {f"{child} environ": Path(f"/proc/{child}/environ").read_bytes() for child in children}


def written(folder: Path) -> dict[str, bytes]:
    files = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(files) > 5
    return files


def key_lines(key: str) -> list[str]:
    return [line for line in key.splitlines() if not line.startswith("-----")]


class Search:
    """Looks for values in every form in which somebody could read them."""

    def __init__(self, secrets: Iterable[str], tokens: Iterable[str]) -> None:
        self._forms = {form: value for value in secrets for form in spellings(value)}
        for token in tokens:
            self._forms |= {token.encode(): token, token.rpartition(".")[2].encode(): token}

    def found_in(self, texts: dict[str, bytes]) -> list[tuple[str, str, str]]:
        """Where, which value, and what stands around it."""
        return [
            (name, value, str(text[max(text.index(form) - 120, 0) :][:240]))
            for name, text in texts.items()
            for form, value in self._forms.items()
            if form in text
        ]


def spellings(value: str) -> Iterator[bytes]:
    """A value as text, escaped, quoted, tidied up, in base 64 alone and as credentials."""
    texts = {value, value.strip(), " ".join(value.split()), *value.splitlines()}
    for text in texts:
        yield from (spelled.encode() for spelled in (text, repr(text)[1:-1], html.escape(text)))
        yield repr(text.encode())[2:-1].encode()
        yield from (json.dumps(text, ensure_ascii=escaped)[1:-1].encode() for escaped in (True, False))
        for quoted in (quote(text), quote(text, safe=""), quote_plus(text)):
            yield from (quoted.encode(), re.sub("%..", lambda match: match[0].lower(), quoted).encode())
    for secret in (value, quote(value, safe="")):
        for pair in (secret, f"app/percent:{secret}", f"app%2Fpercent:{secret}"):
            yield from (base64.b64encode(pair.encode()), base64.urlsafe_b64encode(pair.encode()))
