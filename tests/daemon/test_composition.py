"""What the composition decides: which jobs are parked, which connection serves whom, which secrets are used."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from erpsync.config.configuration import Configuration
from erpsync.config.load import load_configuration
from erpsync.core.clock import ManualClock, SystemClock
from erpsync.core.errors import ConfigError, SecretUnavailableError
from erpsync.core.event import silent
from erpsync.core.redaction import Redactor
from erpsync.daemon.check import all_problems, parked_jobs, require_schedules
from erpsync.daemon.connections import Connections
from erpsync.daemon.place import resolver_of
from erpsync.identity.sealed import SealedStore
from erpsync.plugins.discovery import PluginCatalog
from erpsync.sandbox.server import Sandbox
from erpsync.store.state import Store

TEXT = """
[daemon]
data = "data"
seal_key = { secret = "seal" }
[secrets]
from = ["secrets"]
[identities.night]
client_id = "erpsync.sandbox/service"
client_secret = [{ secret = "${instance}.new" }, { secret = "${instance}.old" }]
scope = ["read"]
[instances.one]
url = "URL"
[instances.two]
url = "URL"
access = "read"
[instances.other]
kind = "oidc"
issuer = "URL/id"
api = ["http://127.0.0.1:9/"]
[jobs.get]
plugin = "http_call"
identity = "night"
instances = ["*"]
with = { url = "URL/api/domain/odata/General_Currencies_Currencies" }
[jobs.also]
plugin = "http_call"
identity = "night"
instances = ["one"]
with = { url = "https://example.org/" }
[jobs.bare]
plugin = "http_call"
with = { url = "https://example.org/" }
"""


@pytest.fixture
def redactor() -> Redactor:
    return Redactor()


@pytest.fixture
def configuration(tmp_path: Path, sandbox: Sandbox) -> Configuration:
    """Three instances, of which all have the old secret and none the new one."""
    (tmp_path / "erpsync.toml").write_text(TEXT.replace("URL", sandbox.url))
    (tmp_path / "secrets").mkdir(mode=0o700)
    for name in ("one", "two", "other"):
        path = tmp_path / "secrets" / f"{name}.old"
        path.touch(mode=0o600)
        path.write_text("sandbox-secret\n")
    return load_configuration(tmp_path / "erpsync.toml", {})


@pytest.fixture
async def connections(configuration: Configuration, redactor: Redactor) -> AsyncIterator[Connections]:
    resolver = resolver_of(configuration, redactor)
    store = Store.open(configuration.daemon.state)
    made = Connections(configuration, resolver, SystemClock(), silent, redactor, store=store)
    yield made
    await made.close()
    store.close()


async def get(connections: Connections, configuration: Configuration, job: str, method: str = "GET") -> int:
    connection = connections.of_job(configuration.jobs[job])
    url = str(configuration.jobs["get@one"].settings["url"])
    async with httpx2.AsyncClient(transport=connection.transport) as client:
        return (await client.request(method, url)).status_code


async def test_jobs_of_one_identity_share_its_connection_and_token(
    connections: Connections, configuration: Configuration, sandbox: Sandbox
) -> None:
    """Two jobs of one identity at one instance have one connection and one token; another instance has its own."""
    jobs = configuration.jobs
    assert connections.of_job(jobs["get@one"]) is connections.of_job(jobs["also@one"])
    assert connections.of_job(jobs["get@one"]) is not connections.of_job(jobs["get@two"])
    answers = await asyncio.gather(*(get(connections, configuration, "get@one") for _ in range(20)))
    assert set(answers) == {200}
    assert sum(sandbox.stats()["token_requests"].values()) == 1
    (status,) = [each for each in connections.identities() if each.requests]
    assert status.identity == "night@one"


async def test_tokens_go_to_the_instances_own_origins_only(
    connections: Connections, configuration: Configuration, sandbox: Sandbox
) -> None:
    """An identity of another server, and a job without identity, get to this address without any token."""
    assert await get(connections, configuration, "get@other") == 401
    assert await get(connections, configuration, "bare") == 401
    assert sum(sandbox.stats()["token_requests"].values()) == 0


HARMLESS = {
    "tags, limits and pace": (
        "[instances.one]",
        '[instances.one]\ntags = ["x"]\nmax_runs = 3\nrate = "500/s"',
    ),
    "variables": ("[instances.one]", '[instances.one]\nvars = { company = "x" }'),
    "access": ("[instances.one]", '[instances.one]\naccess = "read"'),
    "time-outs": ("[instances.one]", '[instances.one]\nread_timeout = "30s"'),
    "slots": ("[instances.one]", "[instances.one]\nlicense_slots = 2"),
    "secrets": ('{ secret = "${instance}.new" }, ', ""),
}


@pytest.mark.parametrize("edit", HARMLESS.values(), ids=HARMLESS)
async def test_a_reload_goes_on_in_the_open_session(
    connections: Connections, configuration: Configuration, sandbox: Sandbox, edit: tuple[str, str]
) -> None:
    """Whatever asks for the same tokens at the same server keeps token and session, with one slot without a pause."""
    assert await get(connections, configuration, "get@one") == 200
    text = configuration.path.read_text()
    assert edit[0] in text
    configuration.path.write_text(text.replace(*edit))
    after = load_configuration(configuration.path, {})
    assert after != configuration
    connections.adopt(after)
    assert await asyncio.wait_for(get(connections, after, "get@one"), 20) == 200
    stats = sandbox.stats()
    assert (stats["sessions_opened"], sum(stats["token_requests"].values())) == (1, 1)
    assert connections.books["one"].slots == after.instances["one"].license_slots
    assert connections.site("one").instance == after.instances["one"]


async def test_another_scope_is_another_session(
    connections: Connections, configuration: Configuration, sandbox: Sandbox
) -> None:
    """What asks for other tokens is made anew: the new token opens a session of its own, where there is a slot."""
    assert await get(connections, configuration, "get@one") == 200
    text = configuration.path.read_text().replace("[instances.one]", "[instances.one]\nlicense_slots = 2")
    configuration.path.write_text(text.replace('scope = ["read"]', 'scope = ["read", "update"]'))
    after = load_configuration(configuration.path, {})
    connections.adopt(after)
    assert await get(connections, after, "get@one") == 200
    assert sandbox.stats()["sessions_opened"] == 2
    assert connections.status("night@one").asked_scope == ("read", "update")


@pytest.mark.parametrize("scope", ["read", "update"])
async def test_services_are_recalled_where_their_token_would_be_asked_for_now(
    configuration: Configuration, redactor: Redactor, sandbox: Sandbox, scope: str
) -> None:
    """One whose keeper refuses the token stays absent, one that left none is in nobody's way; no server is asked, and
    who uses it meanwhile goes on with what was left."""

    def life(of: Configuration) -> Connections:
        resolver = resolver_of(of, redactor)
        sealed = SealedStore(tmp_path / "tokens", [b"k" * 32], silent)
        return Connections(of, resolver, SystemClock(), silent, redactor, sealed)

    tmp_path = configuration.path.parent
    first = life(configuration)
    await first.prepare("night@one")
    left = first.status("night@one")
    await first.close()
    text = configuration.path.read_text().replace('scope = ["read"]', f'scope = ["{scope}"]')
    configuration.path.write_text(text)
    asked = sandbox.stats()
    second = life(load_configuration(configuration.path, {}))
    recalling = asyncio.create_task(second.recall_services())
    if scope == "read":
        await asyncio.gather(*(second.prepare("night@one") for _ in range(3)))
    await recalling
    found = second.status("night@one")
    assert second.in_use() == ["night@one"]
    assert sandbox.stats() == asked
    expected = ("fresh", left.fingerprint) if scope == "read" else ("absent", None)
    assert (found.state, found.fingerprint) == expected
    await second.close()


async def test_a_read_only_instance_is_never_written(
    connections: Connections, configuration: Configuration, sandbox: Sandbox
) -> None:
    """access = "read" refuses an unsafe request before anything is sent."""
    from erpsync.core.errors import ReadOnlyError

    with pytest.raises(ReadOnlyError):
        await get(connections, configuration, "get@two", "DELETE")
    assert sandbox.stats()["api_requests"] == 0


def test_one_secret_of_two_is_enough(configuration: Configuration, redactor: Redactor) -> None:
    """While a secret is rolled over nothing is parked; without any, the jobs of the identity are, and no others."""
    resolver = resolver_of(configuration, redactor)
    catalog = PluginCatalog(())
    assert parked_jobs(configuration, catalog, resolver) == {}
    (configuration.path.parent / "secrets" / "one.old").unlink()
    parked = parked_jobs(configuration, catalog, resolver)
    assert set(parked) == {"get@one", "also@one"}
    assert {problem.code for problems in parked.values() for problem in problems} == {"E119"}


def test_what_a_plugin_says_of_its_secret_parks_without_it(
    configuration: Configuration, redactor: Redactor, tmp_path: Path
) -> None:
    """A plugin's own validator may quote the value that it was given; the job's problem does not."""
    (tmp_path / "plugins").mkdir(mode=0o755)
    (tmp_path / "plugins" / "number.py").write_text(QUOTING)
    text = configuration.path.read_text().replace("[daemon]", '[daemon]\nplugins = ["plugins"]')
    used = '[jobs.number]\nplugin = "number"\nwith = { password = { secret = "one.old" } }\n'
    configuration.path.write_text(text + used)
    after = load_configuration(configuration.path, {})
    parked = parked_jobs(after, PluginCatalog(after.daemon.plugins), resolver_of(after, redactor))
    ((problem,),) = parked.values()
    assert problem.message == "invalid literal for int() with base 10: '[redacted]'"


QUOTING = '''
from pydantic import model_validator
from erpsync import JobContext, JobResult, Secret, Settings, job

class Options(Settings):
    password: Secret

    @model_validator(mode="after")
    def _check(self) -> "Options":
        int(self.password.get())
        return self

@job("number")
async def number(ctx: JobContext[Options]) -> JobResult:
    """Wants a number."""
    return ctx.result()
'''


async def test_no_secret_at_all_is_said(configuration: Configuration, connections: Connections) -> None:
    """A request whose identity has no secret any more fails with where it was looked for."""
    (configuration.path.parent / "secrets" / "one.old").unlink()
    with pytest.raises(SecretUnavailableError, match=r"one\.new"):
        await get(connections, configuration, "get@one")


def test_problems_of_a_definition_are_said_once(configuration: Configuration, redactor: Redactor) -> None:
    """A fault in a definition is one problem whatever it is fanned out to; problems come in the order of the file."""
    file = configuration.path
    text = file.read_text().replace('plugin = "http_call"\nwith', 'plugin = "htp_call"\nwith')
    file.write_text(
        text.replace("URL", "x")
        .replace("/General_Currencies_Currencies", "/C", 1)
        .replace('instances = ["*"]', 'instances = ["*"]\nschedule = "61 * * * *"')
    )
    broken = load_configuration(file, {})
    problems = all_problems(broken, None)
    assert [problem.code for problem in problems] == ["E301", "E201"]
    assert [problem.line for problem in problems] == sorted(problem.line or 0 for problem in problems)
    with pytest.raises(ConfigError):
        require_schedules(broken)


async def test_two_instances_of_one_identity_server_share_its_gate(tmp_path: Path, sandbox: Sandbox) -> None:
    """However an identity server is found, it is asked by two of us at once and no more."""
    text = TEXT.partition("[identities.night]")[0] + TEXT[TEXT.index("[instances.one]") : TEXT.index("[jobs")]
    names = [f"{instance}-{number}" for instance in ("one", "two", "other") for number in range(2)]
    for name in names:
        text += f'''
[identities.{name}]
instance = "{name.partition("-")[0]}"
client_id = "erpsync.sandbox/service"
client_secret = {{ secret = "plain" }}
scope = ["read"]
'''
    (tmp_path / "erpsync.toml").write_text(text.replace("URL", sandbox.url))
    (tmp_path / "secrets").mkdir(mode=0o700)
    (tmp_path / "secrets" / "plain").write_text("sandbox-secret")
    configuration = load_configuration(tmp_path / "erpsync.toml", {})
    sandbox.fail(where="token", pass_=True, delay_ms=50, times=-1)
    redactor = Redactor()
    connections = Connections(
        configuration, resolver_of(configuration, redactor), SystemClock(), silent, redactor
    )
    await asyncio.gather(*(connections.prepare(name) for name in names))
    assert sum(sandbox.stats()["token_requests"].values()) == len(names)
    assert sandbox.stats()["most_token_requests_at_once"] == 2
    await connections.close()


WRITES = """
from erpsync import JobContext, JobResult, job

@job("writes", scope=("update",))
async def writes(ctx: JobContext) -> JobResult:
    return ctx.result()
"""


@pytest.mark.parametrize(("scope", "codes"), [(["read"], ["E203"]), (["read", "update"], []), ([], [])])
def test_scope_that_a_plugin_needs(
    configuration: Configuration, redactor: Redactor, scope: list[str], codes: list[str]
) -> None:
    """`check` compares it with the identity's, which asks for all there is where it names none; the job is parked."""
    file = configuration.path
    (file.parent / "plugins").mkdir(mode=0o700)
    (file.parent / "plugins" / "writes.py").write_text(WRITES)
    text = file.read_text().replace('data = "data"', 'data = "data"\nplugins = ["plugins"]')
    text = text.replace('scope = ["read"]', f"scope = {scope}")
    file.write_text(text + '[jobs.write]\nplugin = "writes"\nidentity = "night"\ninstances = ["one"]\n')
    changed = load_configuration(file, {})
    found = [problem for problem in all_problems(changed, None) if problem.severity == "error"]
    assert [problem.code for problem in found] == codes
    assert all("needs the scope update, which night@one does not ask for" in each.message for each in found)
    catalog = PluginCatalog(changed.daemon.plugins)
    assert set(parked_jobs(changed, catalog, resolver_of(changed, redactor))) == (
        {"write@one"} if codes else set()
    )


async def test_granted_scope_is_known_without_a_session(
    configuration: Configuration, connections: Connections, sandbox: Sandbox
) -> None:
    """The server's word counts, not what was asked for; and no licence slot is taken to hear it."""
    sandbox.fail(where="token", pass_=True, merge={"scope": "sec"})
    connection = connections.of_job(configuration.jobs["get@one"])
    assert connection.granted is not None
    assert await connection.granted() == ("sec",)
    assert await connection.granted() == ("sec",)
    stats = sandbox.stats()
    assert (sum(stats["token_requests"].values()), stats["sessions_opened"]) == (1, 0)
    assert connections.of_job(configuration.jobs["bare"]).granted is None


async def test_runs_elsewhere_begin_with_a_token_that_outlives_them(
    configuration: Configuration, redactor: Redactor, sandbox: Sandbox
) -> None:
    """Without sessions a token is renewed before a run that it would not outlive; at ERP.net it is not."""
    clock = ManualClock()
    connections = Connections(configuration, resolver_of(configuration, redactor), clock, silent, redactor)
    elsewhere = connections.of_job(configuration.jobs["get@other"])
    assert elsewhere.ready is not None
    lasting = timedelta(minutes=20)
    tokens = []
    for passed in (0, 30, 15, 15):  # minutes; the last but one leaves fifteen of the hour
        clock.advance(timedelta(minutes=passed))
        await elsewhere.ready(lasting)
        tokens.append(connections.held("night@other"))
    assert tokens[0] is tokens[1]
    assert tokens[1] is not tokens[2]
    assert tokens[2] is tokens[3]
    assert sum(sandbox.stats()["token_requests"].values()) == 2
    assert connections.of_job(configuration.jobs["get@one"]).ready is None
    await connections.close()
