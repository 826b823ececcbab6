"""`identities`, `token`, `doctor`, `check --online`: with a daemon and without, against a sandbox."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from erpsync.sandbox.server import Sandbox
from tests.cli.conftest import Type
from tests.cli.test_with_daemon import begun, type_
from tests.daemon.conftest import eventually

CLIENT = "erpsync.sandbox/service"


@pytest.fixture
def site(folder: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The folder's instance is the sandbox, and its identity has a job."""
    file = folder / "erpsync.toml"
    text = file.read_text().replace("http://127.0.0.1:9", sandbox.url)
    file.write_text(text + '[jobs.get]\nplugin = "http_call"\nidentity = "service"\nschedule = "manual"\n')
    with file.open("a") as more:
        more.write(f'with = {{ url = "{sandbox.url}/api/domain/odata/General_Currencies_Currencies" }}\n')
    monkeypatch.setenv("BOX_SECRET", "sandbox-secret")
    return sandbox


@pytest.fixture
def daemon(site: Sandbox) -> Iterator[Sandbox]:
    with begun("daemon"):
        eventually(lambda: type_("status", "--check").returncode == 0, "the daemon is ready")
        yield site


def test_without_a_daemon_nothing_is_asked(site: Sandbox, erpsync: Type) -> None:
    """Both commands tell what is configured; no request leaves the machine."""
    said = erpsync("identities")
    assert (said.code, "service" in said.out, "absent" in said.out) == (0, True, True), said
    shown = erpsync("token", "service", "--format", "json").json
    assert (shown["state"], shown["asked_scope"], shown["session"]) == ("absent", ["read"], None)
    assert sum(site.stats()["token_requests"].values()) == 0


def test_fetch_is_a_real_request_and_shows_no_token(site: Sandbox, erpsync: Type) -> None:
    """State, scope, claims and fingerprint are shown; the token is kept sealed and shown by the next command."""
    said = erpsync("token", "service", "--fetch")
    assert said.code == 0, said.err
    assert "SYSTEM_APPLICATION_USER" in said.out
    assert "fetched" in said.out
    assert all(token not in said.out + said.err for token in site.tokens())
    assert site.stats()["token_requests"] == {CLIENT: 1}
    again = erpsync("token", "service", "--format", "json").json
    assert (again["state"], again["claims"]["client_db"]) == ("fresh", "SANDBOX")
    assert site.stats()["token_requests"] == {CLIENT: 1}


def test_fetch_leaves_the_kept_token_in_its_place(site: Sandbox, erpsync: Type) -> None:
    """A session may be open with the token that is kept: another one is fetched and thrown away."""
    kept = erpsync("token", "service", "--fetch", "--format", "json").json["fetched"]["fingerprint"]
    other = erpsync("token", "service", "--fetch", "--format", "json").json
    assert other["fetched"]["fingerprint"] != kept
    assert other["fingerprint"] == kept


@pytest.mark.parametrize("command", [("token", "service", "--fetch"), ("doctor",), ("check", "--online")])
def test_refused_away_and_unknown_have_their_exit_codes(
    site: Sandbox, erpsync: Type, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """77 with the field to mend, 75 when nobody answers."""
    monkeypatch.setenv("BOX_SECRET", "wrong-secret")
    said = erpsync(*command)
    assert (said.code, "IsEnabled" in said.out + said.err) == (77, True)
    assert "wrong-secret" not in said.out + said.err
    site.stop()
    assert erpsync(*command).code == 75
    site.start()


def test_unknown_names_are_usage(site: Sandbox, erpsync: Type) -> None:
    """What was perhaps meant is proposed."""
    said = erpsync("token", "servcie")
    assert (said.code, 'did you mean "service"?' in said.err) == (2, True)
    assert erpsync("doctor", "bxo").code == 2


def test_doctor_tells_a_verdict_a_line(site: Sandbox, erpsync: Type) -> None:
    """Text and JSON say the same, and no session was opened."""
    said = erpsync("doctor", "box")
    assert (said.code, "8 ok, 0 warning, 0 failed" in said.out) == (0, True), said.out
    found = erpsync("doctor", "--format", "json").json
    assert {each["verdict"] for each in found} == {"ok"}
    assert site.stats()["sessions_opened"] == 0
    checked = erpsync("check", "--online", "--format", "json")
    assert checked.code == 0
    assert [each["step"] for each in checked.json["findings"]] == [each["step"] for each in found]


def test_the_daemon_answers_with_its_own_token(daemon: Sandbox) -> None:
    """After a run `identities` has token, scope, life and session; a fetch neither replaces it nor opens one more."""
    assert type_("run", "get").returncode == 0
    document = json.loads(type_("identities", "--format", "json").stdout)
    (before,) = document["identities"]
    assert (before["state"], before["scope"], before["requests"]) == ("fresh", ["read"], 1)
    assert before["survives_seconds"] > 3000
    (slots,) = document["licenses"]
    assert (slots["instance"], slots["in_use"], slots["waiting"]) == ("box", 1, [])
    (session,) = slots["sessions"]  # reckoned twice, a microsecond apart at times
    assert session["ends_at"][:19] == before["session"]["ends_at"][:19]
    fetched = json.loads(type_("token", "service", "--fetch", "--format", "json").stdout)
    assert fetched["fetched"]["fingerprint"] != before["fingerprint"] == fetched["fingerprint"]
    assert fetched["claims"]["client_id"] == CLIENT
    shown = type_("identities").stdout + type_("token", "service").stdout + type_("status").stdout
    assert before["fingerprint"] in shown
    assert all(token not in shown for token in daemon.tokens())
    asked = json.loads(type_("doctor", "--api", "--format", "json").stdout)
    assert {each["verdict"] for each in asked} == {"ok"}, asked
    assert (daemon.stats()["sessions_opened"], "API" in {each["step"] for each in asked}) == (1, True)


def test_a_refused_identity_is_a_problem_with_its_remedy(daemon: Sandbox, folder: Path) -> None:
    """`status` names it with the field to mend; `token --fetch` after the mending ends the waiting at once."""
    daemon.register(CLIENT, "sandbox-secret", system_user_allowed=False)
    assert type_("run", "get").returncode == 77
    said = type_("status", "--check")
    assert (said.returncode, "SystemUserAllowed" in said.stderr) == (1, True), said
    refused = type_("token", "service", "--fetch")
    assert (refused.returncode, "SystemUserAllowed" in refused.stderr) == (77, True), refused
    daemon.register(CLIENT, "sandbox-secret")
    assert type_("token", "service", "--fetch").returncode == 0
    assert type_("status", "--check").returncode == 0
