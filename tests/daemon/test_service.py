"""The daemon's life, seen from outside its process."""

import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from erpsync.core.calendar import spread_delay
from erpsync.core.errors import DaemonRefusedError
from erpsync.sandbox.server import Sandbox
from erpsync.scheduling.zone import zone_data
from tests.daemon.conftest import Site, eventually
from tests.servers.program import started


def test_from_start_to_drain(site: Site) -> None:
    """It becomes ready, runs its jobs, answers health checks, and ends well at SIGTERM, leaving nothing behind."""
    with site.file.open("a") as file:
        file.write('[jobs.spread]\nplugin = "long"\nschedule = "0 0 1 1 *"\nspread = "8h"\n')
    with site.daemon() as daemon:
        site.ready()
        eventually(lambda: len(site.succeeded()) >= 3, "runs succeed")
        assert httpx2.get(f"{site.metrics}/healthz").json() == {"status": "alive"}
        assert httpx2.get(f"{site.metrics}/readyz").status_code == 200
        page = httpx2.get(f"{site.metrics}/metrics").text
        assert site.stop(daemon) == 0
    runs = re.search(
        r'erpsync_runs_total\{erp_instance="box",job_name="look",outcome="succeeded",reason=""\} (\d+)', page
    )
    assert runs is not None
    assert int(runs[1]) >= 3
    assert 'erpsync_token_requests_total{identity="service",outcome="succeeded"} 1.0' in page
    starts = re.search(r'erpsync_next_fire_timestamp_seconds\{job_name="spread"\} (\S+)', page)
    assert starts is not None
    start = datetime.fromtimestamp(float(starts[1]), UTC)
    fire = datetime(start.year, 1, 1, tzinfo=UTC)
    assert start - fire == spread_delay("spread", timedelta(hours=8))
    assert [event["tzdata"] for event in site.events("daemon.started")] == [zone_data()]
    assert [event["event"] for event in site.events("daemon.stopped")] == ["daemon.stopped"]
    assert not (site.folder / "data" / "control.sock").exists()
    for path in (site.folder / "data").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_silent_connections_stall_nobody(site: Site) -> None:
    """More idle connections than files were allowed do not take the control socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))  # the daemon begins with this
    with ExitStack() as stack:
        try:
            daemon = stack.enter_context(site.daemon())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        site.ready()
        assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (hard - 64, hard)
        port = int(site.metrics.rpartition(":")[2])
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        with site.client() as client:
            assert client.status()["pid"] == daemon.pid
        assert site.events("daemon.faulted") == []


def test_the_service_manager_is_told(site: Site) -> None:
    """READY when it serves, WATCHDOG from its own loop, STOPPING when it drains."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(site.folder / "notify"))
        notify.settimeout(20)
        with site.daemon(NOTIFY_SOCKET=str(site.folder / "notify"), WATCHDOG_USEC="2000000") as daemon:
            assert notify.recv(500).startswith(b"READY=1\nSTATUS=2 jobs")
            assert notify.recv(500).startswith(b"WATCHDOG=1")
            daemon.send_signal(signal.SIGTERM)
            while not (heard := notify.recv(500)).startswith(b"STOPPING=1"):
                assert heard.startswith(b"WATCHDOG=1")
            assert b"EXTEND_TIMEOUT_USEC=65000000" in heard  # drain = 5s, and a minute for the rest
            assert daemon.wait(30) == 0


def test_status_shows_what_runs_and_what_comes(site: Site) -> None:
    """Running runs with their progress, next fire times, identities with requests and without tokens."""
    with site.daemon() as daemon, site.client() as client:
        site.ready()
        run = client.claim("long", {})
        eventually(lambda: client.find(run["id"])["progress"] == {"done": 3, "total": 10}, "progress is told")
        eventually(site.succeeded, "the identity is in use")
        status = client.status()
        assert [each["job"] for each in status["running"] if each["job"] != "look"] == ["long"]
        assert status["next"][0]["job"] == "look"
        assert (status["identities"][0]["state"], status["identities"][0]["requests"]) == ("fresh", 1)
        assert (status["problems"], status["pid"]) == ([], daemon.pid)
        assert client.cancel(run["id"]) is True
        assert client.find(run["id"], wait=20)["outcome"] == "cancelled"
        assert client.cancel(run["id"]) is False


def test_a_service_that_the_daemon_before_used_is_seen_at_once(site: Site, sandbox: Sandbox) -> None:
    """After a restart its token and its end are there before anybody uses it, and no server was asked for that."""
    text = site.file.read_text().replace('data = "data"', 'data = "data"\nseal_key = { env = "SEAL" }')
    site.file.write_text(text.replace('schedule = { every = "200ms" }', 'schedule = "manual"'))
    site.environment["SEAL"] = "a key that is long enough for sealing tokens"
    with site.daemon() as daemon, site.client() as client:
        assert site.ready()["identities"] == []
        client.claim("look", {})
        eventually(site.succeeded, "the service has its token")
        before = client.identities()[0]
        assert site.stop(daemon) == 0
    asked = sandbox.stats()
    with site.daemon() as daemon, site.client() as client:
        site.ready()
        eventually(lambda: "fresh" in str(client.status()["identities"]), "the service is in the status")
        (after,) = client.identities()
        page = httpx2.get(f"{site.metrics}/metrics").text
        assert site.stop(daemon) == 0
    told = ("state", "fingerprint", "expires_at")
    assert [after[key] for key in told] == [before[key] for key in told]
    assert after["state"] == "fresh"
    assert after["session"] is not None
    assert after["requests"] == 0
    assert 'erpsync_token_expiry_timestamp_seconds{identity="service"}' in page
    assert sandbox.stats() == asked


def test_what_keeps_a_daemon_from_its_work_is_said(site: Site) -> None:
    """A file of the state that is taken away ends it, with its log so that the next start goes on with all that was
    told; a SIGHUP to a held state, and a reload while it drains, are refused."""
    state = site.folder / "data" / "erpsync.db"
    with site.daemon() as daemon:
        site.ready()
        eventually(site.succeeded, "a run ends")
        state.with_name("erpsync.db-wal").unlink()
        assert daemon.wait(30) == 75
    (lost,) = site.events("state.displaced")
    assert (lost["path"], "saved" in lost["hint"]) == (f"{state}-wal", True)
    with sqlite3.connect(state) as ledger:
        kept = {run for (run,) in ledger.execute("SELECT id FROM run WHERE outcome = 'succeeded'")}
    assert kept == {event["run_id"] for event in site.succeeded()}
    shutil.copy(state, state.with_name("copy"))
    state.with_name("copy").replace(state)
    with site.daemon() as daemon, site.client() as client:
        eventually(lambda: site.events("state.held"), "the copy is held")
        eventually(lambda: len(site.events("daemon.started")) == 2, "it serves")
        daemon.send_signal(signal.SIGHUP)
        (refused,) = eventually(lambda: site.events("config.refused"), "the refusal is told")
        assert "held" in refused["message"]
        assert client.resume(None)["released"]
        assert site.events("state.released")[0]["requested_by"]

        run = client.claim("long", {})
        eventually(lambda: client.find(run["id"])["state"] == "running", "the run runs")
        state.rename(state.with_name("away"))
        eventually(lambda: len(site.events("daemon.draining")) == 2, "it drains")
        assert httpx2.get(f"{site.metrics}/readyz").status_code == 503
        assert any("was removed or replaced" in problem for problem in client.status()["problems"])
        with pytest.raises(DaemonRefusedError, match="stopping"):
            client.reload()
        claimed = len(site.events("run.claimed"))
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 78
    assert len(site.events("run.claimed")) == claimed
    assert [event["path"] for event in site.events("state.displaced")[1:]] == [str(state)]


def _hang_up_once_read() -> None:
    """In the daemon's process: SIGHUP while it reads its configuration for the first time."""
    waiting = [signal.SIGHUP]

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith("erpsync.toml") and waiting:
            os.kill(os.getpid(), waiting.pop())

    sys.addaudithook(audit)


def _fail_when_read_again() -> None:
    """In the daemon's process: the same, and a reload, which reads it in a thread, meets what nobody thought of."""
    _hang_up_once_read()

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        is_reload = threading.current_thread() is not threading.main_thread()
        if event == "open" and str(arguments[0]).endswith("erpsync.toml") and is_reload:
            raise RuntimeError("what nobody has thought of")

    sys.addaudithook(audit)


@pytest.mark.parametrize(
    ("before", "told", "message"),
    [
        (_hang_up_once_read, "config.reloaded", ""),
        (_fail_when_read_again, "config.refused", "a fault of erpsync itself: RuntimeError('what nobody"),
    ],
)
def test_a_hang_up_during_the_start_is_remembered(
    site: Site, before: Callable[[], None], told: str, message: str
) -> None:
    """It does not end the process: what it has read may be old already, so it reloads once it has started, or says
    why it does not."""
    with (site.folder / "daemon.log").open("ab") as log:
        daemon = started("daemon", folder=site.folder, environment=site.environment, out=log, before=before)
    try:
        (event,) = eventually(lambda: site.events(told) or daemon.poll(), "it reloads, or refuses")
        assert event["requested_by"] == "SIGHUP"
        assert message in event.get("message", "")
        assert site.stop(daemon) == 0
    finally:
        daemon.kill()


def test_a_second_signal_ends_it_now(site: Site) -> None:
    """While it drains a second signal interrupts; the run is pending again and nobody's failure."""
    with site.daemon() as daemon, site.client() as client:
        site.ready()
        run = client.claim("long", {})
        eventually(lambda: client.find(run["id"])["state"] == "running", "the run runs")
        daemon.send_signal(signal.SIGTERM)
        eventually(lambda: site.events("daemon.draining"), "it drains")
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(30) == 128 + signal.SIGINT
    with site.daemon(), site.client() as client:
        site.ready()
        found = client.find(run["id"])
        assert (found["state"] in ("pending", "running"), found["outcome"]) == (True, None)


def test_parked_jobs_are_told_and_stop_nobody(site: Site) -> None:
    """A broken plugin and a missing secret park their jobs: told, refused on request, their fire times skipped, and
    the others run."""
    text = site.file.read_text()
    site.file.write_text(
        text
        + '[jobs.broken]\nplugin = "broken"\nschedule = { every = "1s" }\n'
        + '[jobs.keyless]\nplugin = "http_call"\nschedule = "manual"\n'
        + 'with = { url = "https://example.org/", headers = { key = { env = "NO_SUCH_SECRET" } } }\n'
    )
    (site.folder / "plugins" / "broken.py").write_text(
        'from erpsync import job\nimport no_such_module\n\n@job("broken")\ndef broken(ctx): ...\n'
    )
    with site.daemon() as daemon:
        status = site.ready()
        assert {parked["job"] for parked in status["parked"]} == {"broken", "keyless"}
        assert any("NO_SUCH_SECRET" in problem for problem in status["problems"])
        assert httpx2.get(f"{site.metrics}/readyz").status_code == 200
        with site.client() as client, pytest.raises(DaemonRefusedError, match="no_such_module") as refusal:
            client.claim_all(["look", "broken"], {})
        with site.client() as client:
            assert client.pause(["look", "broken"], None, None)[1]["job"] == "broken"
            assert client.resume(None)["resumed"] == ["look", "broken"]
        eventually(site.succeeded, "the other job runs")
        eventually(
            lambda: any(event["job"] == "broken" for event in site.events("run.finished")), "a skip is told"
        )
        assert site.stop(daemon) == 0
    assert refusal.value.kind == "ParkedJobError"
    assert {event["job"] for event in site.events("job.parked")} == {"broken", "keyless"}
    ends = {(event["job"], event["outcome"], event["reason"]) for event in site.events("run.finished")}
    assert "manual" not in {event["trigger"] for event in site.events("run.finished")}
    assert {end for end in ends if end[0] != "look"} == {("broken", "skipped", "parked")}


def test_what_cannot_start_says_why(site: Site) -> None:
    """A bad schedule exits 78 with its place; a metrics address in use exits 75; the state is left free."""
    text = site.file.read_text()
    site.file.write_text(text.replace('{ every = "200ms" }', '"61 * * * *"'))
    with site.daemon() as daemon:
        assert daemon.wait(30) == 78
    site.file.write_text(text)
    port = int(site.metrics.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)), site.daemon() as daemon:
        assert daemon.wait(30) == 75
    said = (site.folder / "daemon.log").read_text()
    assert "error[E301]" in said
    assert f"another process listens on 127.0.0.1:{port}" in said
    with site.daemon() as daemon:
        site.ready()
        assert site.stop(daemon) == 0


def test_after_kill_9_the_next_one_serves(site: Site, tmp_path: Path) -> None:
    """A killed daemon's socket and lock are no obstacle, and metrics begin with the ledger's last success."""
    with site.daemon() as daemon:
        site.ready()
        eventually(site.succeeded, "a run ends")
        daemon.kill()
        daemon.wait()
    site.file.write_text(site.file.read_text().replace('{ every = "200ms" }', '"manual"'))
    with site.daemon() as daemon:
        site.ready()
        page = httpx2.get(f"{site.metrics}/metrics").text
        assert 'erpsync_last_success_timestamp_seconds{erp_instance="box",job_name="look"}' in page
        assert site.stop(daemon) == 0


TIMES = """
[pools.one]
slots = 1
[jobs.first]
plugin = "long"
schedule = "manual"
pool = "one"
[jobs.second]
plugin = "look"
identity = "service"
schedule = "manual"
pool = "one"
[jobs.child]
plugin = "look"
identity = "service"
schedule = { after = "second" }
[jobs.newest]
plugin = "long"
schedule = "manual"
overlap = "replace"
[jobs.due]
plugin = "look"
identity = "service"
schedule = "manual"
due_by = "DUE"
"""


def test_jobs_share_a_pool_follow_each_other_and_give_way(site: Site) -> None:
    """A run waits for its pool's slot, its success starts the job that comes after it, the newest takes the place."""
    site.file.write_text(site.file.read_text() + TIMES.replace("DUE", "06:30"))
    with site.daemon() as daemon, site.client() as client:
        site.ready()
        first = client.claim("first", {})
        eventually(lambda: client.find(first["id"])["state"] == "running", "the pool's slot is taken")
        second = client.claim("second", {})
        eventually(lambda: client.find(second["id"])["waiting_for"] == "pool", "the other one waits for it")
        assert client.status()["waiting"]["pool"] == 1
        assert 'erpsync_waiting{reason="pool"} 1.0' in httpx2.get(f"{site.metrics}/metrics").text
        client.cancel(first["id"])
        assert client.find(second["id"], wait=20)["outcome"] == "succeeded"
        child = eventually(
            lambda: [event for event in site.succeeded() if event["job"] == "child"], "the child runs"
        )
        assert client.find(child[0]["run_id"])["parents"] == [second["id"]]
        old = client.claim("newest", {})
        eventually(lambda: client.find(old["id"])["state"] == "running", "the older one runs")
        new = client.claim("newest", {})
        gone = client.find(old["id"], wait=20)
        assert (gone["outcome"], gone["reason"]) == ("cancelled", "replaced")
        eventually(lambda: client.find(new["id"])["state"] == "running", "the newer one runs")
        assert site.stop(daemon) == 0


def test_overdue_is_told_and_counted(site: Site) -> None:
    """A job whose last success is too old is an event, a problem and a metric, until it succeeds."""
    now = datetime.now(UTC)
    due = (now - timedelta(minutes=1)).strftime("%H:%M")
    site.file.write_text(site.file.read_text() + TIMES.replace("DUE", due))
    with site.daemon() as daemon, site.client() as client:
        site.ready()
        ran = client.claim("due", {})
        client.find(ran["id"], wait=20)
        assert client.status()["overdue"] == []
        assert site.stop(daemon) == 0
    with sqlite3.connect(site.folder / "data" / "erpsync.db") as state:
        (column,) = state.execute("SELECT typeof(finished_at) FROM run WHERE job = 'due'").fetchone()
        days = 3 * 86_400_000_000
        assert column == "integer"
        state.execute("UPDATE run SET finished_at = finished_at - ? WHERE job = 'due'", (days,))
    with site.daemon() as daemon, site.client() as client:
        site.ready()
        told = eventually(lambda: site.events("job.overdue"), "it is told")
        assert [event["job"] for event in told] == ["due"]
        assert [each["job"] for each in client.status()["overdue"]] == ["due"]
        assert any("due is overdue" in problem for problem in client.status()["problems"])
        page = httpx2.get(f"{site.metrics}/metrics").text
        assert 'erpsync_overdue{erp_instance="box",job_name="due"} 1.0' in page
        client.find(client.claim("due", {})["id"], wait=20)
        assert client.status()["overdue"] == []
        page = httpx2.get(f"{site.metrics}/metrics").text
        assert 'erpsync_overdue{erp_instance="box",job_name="due"} 0.0' in page
        assert site.stop(daemon) == 0
