"""Identities under a daemon that runs: secrets that change, tokens that are there before their runs."""

from datetime import UTC, datetime, timedelta

from erpsync.sandbox.identity import CLIENT_ID
from erpsync.sandbox.server import Sandbox
from tests.acceptance.site import BASE, SECRET, Site, eventually

GET = """
[identities.{name}]
instance = "box"
client_id = "{client}"
client_secret = {secret}
scope = ["read"]

[jobs.{name}]
plugin = "http_call"
identity = "{name}"
schedule = {schedule}
retry = {{ attempts = 1 }}
with = {{ url = "{{url}}/api/domain/odata/General_Currencies_Currencies" }}
"""


def get(name: str, secret: str, schedule: str = '"manual"') -> str:
    return GET.format(name=name, client=CLIENT_ID, secret=secret, schedule=schedule)


def test_secrets_that_change_under_a_running_daemon(site: Site) -> None:
    """A file and what a command prints are read again after a refusal: mended there, the next run goes well, without
    reload or restart."""
    papers = {name: site.write("wrong-secret", f"{name}.txt") for name in ("file", "command")}
    for paper in papers.values():
        paper.chmod(0o600)
    command = f'{{ command = ["cat", "{papers["command"]}"] }}'
    site.write(BASE + get("file", '{ file = "file.txt" }') + get("command", command))
    with site.daemon() as daemon:
        for name in papers:
            assert site.erpsync("run", name).returncode == 77
        assert {each["state"] for each in used(site)} == {"rejected"}
        for paper in papers.values():
            paper.write_text(SECRET)
        for name in papers:
            eventually(lambda name=name: site.erpsync("run", name).returncode == 0, f"{name} is read again")
        assert {each["state"] for each in used(site)} == {"fresh"}
        assert site.stop(daemon) == 0
    assert "wrong-secret" not in "".join(site.outputs)


def used(site: Site) -> list[dict[str, object]]:
    found: list[dict[str, object]] = site.json("identities")["identities"]
    return [each for each in found if each["identity"] != "service"]


def test_a_token_is_there_before_its_run(site: Site, sandbox: Sandbox) -> None:
    """The daemon looks ahead: a cold identity has its token some seconds before a job of it is due."""
    due = datetime.now(UTC) + timedelta(seconds=38)
    site.write(BASE + get("soon", '{ env = "BOX_SECRET" }', f"{{ at = {due:%Y-%m-%dT%H:%M:%SZ} }}"))
    with site.daemon() as daemon:
        eventually(lambda: sandbox.stats()["token_requests"].get(CLIENT_ID), "a token is asked for")
        assert datetime.now(UTC) < due
        assert (site.runs("soon"), sandbox.stats()["sessions_opened"]) == ([], 0)
        assert [each["state"] for each in used(site)] == ["fresh"]
        assert site.stop(daemon) == 0
