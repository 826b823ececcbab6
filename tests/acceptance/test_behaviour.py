"""What the product promises, seen from outside: the real command against a real sandbox."""

import json
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from tests.acceptance.site import BASE, MIRROR, Site, eventually


def test_a_mirror_is_the_image_of_the_instance(site: Site) -> None:
    """One run copies every row with exact text; the next one reads only what changed."""
    first = site.erpsync("run", "products")
    assert first.returncode == 0, first.stderr
    total = site.sandbox.rows("General_Products_Products")
    assert site.rows("products.db", "SELECT count(*), count(DISTINCT Id) FROM products") == [(total, total)]
    site.sandbox.touch("General_Products_Products", count=3)
    assert site.erpsync("run", "products").returncode == 0
    newest, oldest = site.runs("products")
    assert oldest["counts"]["written"] == total
    assert newest["counts"]["written"] == 3
    assert newest["cursor"]["after"] > oldest["cursor"]["after"]


def test_kill_9_in_the_middle_of_a_mirror_costs_nothing(site: Site) -> None:
    """After kill -9 and a second start the target has exactly the rows of the API, and the ledger tells it."""
    site.sandbox.fail(
        where="api",
        path="/api/domain/odata/General_Products_Products",
        delay_ms=150,
        times=1000,
        **{"pass": True},
    )
    with site.daemon() as daemon:
        assert site.erpsync("trigger", "products").returncode == 0
        eventually(
            lambda: (site.folder / "data/products.db").exists() and _count(site) >= 200, "pages are written"
        )
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    written = _count(site)
    total = site.sandbox.rows("General_Products_Products")
    assert 200 <= written < total
    with site.daemon() as daemon:
        eventually(lambda: site.runs("products")[0]["state"] == "finished", "the run ends")
        assert site.stop(daemon) == 0
    assert site.rows("products.db", "SELECT count(*), count(DISTINCT Id) FROM products") == [(total, total)]
    (run,) = site.runs("products")
    assert (run["outcome"], run["attempts"]) == ("succeeded", 2)
    shown = site.json("show", run["id"])
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["lost", "succeeded"]


def _count(site: Site) -> int:
    try:
        return int(site.rows("products.db", "SELECT count(*) FROM products")[0][0])
    except Exception:
        return 0


NOOP = '''
from erpsync import JobContext, JobResult, Settings, job

@job("look")
async def look(ctx: JobContext[Settings]) -> JobResult:
    """One small read."""
    await ctx.erp.count("General_Currencies_Currencies")
    return ctx.result()
'''


TOGETHER = '''
import asyncio
from erpsync import JobContext, JobResult, Settings, job

entered = []
everybody = asyncio.Event()

class Options(Settings):
    runs: int

@job("together")
async def together(ctx: JobContext[Options]) -> JobResult:
    """One small read, once all the others are here."""
    entered.append(ctx.run_id)
    if len(entered) == ctx.settings.runs:
        everybody.set()
    await everybody.wait()
    await ctx.erp.count("General_Currencies_Currencies")
    return ctx.result()

@job("go")
async def go(ctx: JobContext[Settings]) -> JobResult:
    return ctx.result()
'''


@pytest.fixture
def _many_files() -> Iterator[None]:
    """Both ends of a thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_many_files")
def test_a_thousand_runs_at_once_take_one_token(site: Site) -> None:
    """1 000 runs of one identity, all in progress at once, are one token request and one session, counted there."""
    site.write(TOGETHER, "plugins/together.py")
    jobs = "".join(
        f'[jobs.look-{number}]\nplugin = "together"\nidentity = "service"\nschedule = {{ after = "go" }}\n'
        "with.runs = 1000\n"
        for number in range(1000)
    )
    base = BASE.replace('data = "data"', 'data = "data"\nmax_runs = 1001')
    site.write(base + '[jobs.go]\nplugin = "go"\nschedule = "manual"\n' + jobs)
    with site.daemon() as daemon:
        assert site.erpsync("trigger", "go").returncode == 0
        done = "SELECT count(*) FROM run WHERE job LIKE 'look-%' AND outcome = 'succeeded'"
        eventually(lambda: site.rows("erpsync.db", done)[0][0] == 1000, "1 000 runs succeed")
        assert site.stop(daemon) == 0
    stats = site.sandbox.stats()
    assert stats["token_requests"] == {"erpsync.sandbox/service": 1}
    assert (stats["sessions_opened"], stats["max_sessions_open"], stats["violations"]) == (1, 1, 0)
    assert stats["api_requests"] >= 1000


def test_every_fire_time_is_in_the_ledger_once_through_kill_9(site: Site) -> None:
    """A job of every 200 ms, a daemon killed again and again: each fire time has one run, skips and misses too."""
    site.write(NOOP, "plugins/look.py")
    site.write(
        BASE
        + '[jobs.look]\nplugin = "look"\nidentity = "service"\nschedule = { every = "200ms" }\ncatch_up = "all"\n'
    )
    for kill in range(4):
        with site.daemon() as daemon:
            before = len(site.runs("look"))
            eventually(lambda: len(site.runs("look")) >= before + 5, "runs are claimed")  # noqa: B023
            daemon.send_signal(signal.SIGKILL if kill < 3 else signal.SIGTERM)
            daemon.wait()
    spans = sorted(
        (_seconds(run["fire_at"]), _seconds(run["fire_until"] or run["fire_at"]), run["fire_count"])
        for run in site.runs("look")
    )
    assert all(later[0] > earlier[1] for earlier, later in pairwise(spans))
    assert all(count > 0 for _, _, count in spans)
    assert sum(count for _, _, count in spans) == round((spans[-1][1] - spans[0][0]) / 0.2) + 1


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


WRONG = [
    ("a typo in a key", BASE + MIRROR.replace("schedule =", "shedule ="), 78, 'did you mean "schedule"'),
    ("an unknown plugin", BASE + MIRROR.replace('"mirror"', '"miror"'), 78, 'did you mean "mirror"'),
    (
        "a setting of the wrong type",
        BASE + MIRROR.replace("page_size = 100", 'page_size = "many"'),
        78,
        "page_size",
    ),
    (
        "an unknown setting",
        BASE + MIRROR.replace("page_size =", "pagesize ="),
        78,
        'did you mean "page_size"',
    ),
    ("a secret that is missing", BASE.replace("BOX_SECRET", "NO_SUCH") + MIRROR, 78, "NO_SUCH"),
    ("a bad cron expression", BASE + MIRROR.replace('"manual"', '"61 2 * * *"'), 78, "61"),
    ("broken TOML", BASE + MIRROR + "\n[jobs.x\n", 78, "erpsync.toml"),
    (
        "a literal secret",
        BASE.replace('{ env = "BOX_SECRET" }', '"hunter2-hunter2"') + MIRROR,
        78,
        "client_secret",
    ),
]


@pytest.mark.parametrize(
    ("text", "code", "said"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG]
)
def test_wrong_configuration_is_told_and_costs_nothing(site: Site, text: str, code: int, said: str) -> None:
    """`check` names the place and the remedy and exits 78; JSON has the same problems."""
    site.write(text)
    done = site.erpsync("check")
    assert done.returncode == code, done.stdout + done.stderr
    shown = done.stdout + done.stderr
    assert said in shown
    assert "erpsync.toml:" in shown
    assert "Traceback" not in shown
    assert "hunter2" not in shown
    report = site.erpsync("check", "--format", "json")
    assert report.returncode == code
    assert json.loads(report.stdout)
    assert not (site.folder / "data" / "products.db").exists()


def test_all_problems_are_told_at_once(site: Site) -> None:
    """Faults of the file, of plugins, settings, schedules and secrets come in one answer."""
    text = (BASE + MIRROR).replace("page_size = 100", 'page_size = "many"').replace("BOX_SECRET", "NO_SUCH")
    site.write(
        text.replace("schedule =", "shedule =")
        + '[jobs.second]\nplugin = "miror"\nschedule = "61 2 * * *"\nidentity = "service"\n'
    )
    codes = [problem["code"] for problem in json.loads(site.erpsync("check", "--format", "json").stdout)]
    assert sorted(code for code in codes if code.startswith("E")) == ["E103", "E119", "E201", "E202", "E301"]


def test_a_wrong_client_secret_is_refused_with_the_field_to_mend(site: Site) -> None:
    """Exit 77, the Trusted Application's field, one or two requests and no more."""
    done = site.erpsync("run", "products", BOX_SECRET="not-the-secret")
    assert done.returncode == 77, done.stdout + done.stderr
    assert "ApplicationSecretHash" in done.stdout + done.stderr
    assert "not-the-secret" not in done.stdout + done.stderr
    assert sum(site.sandbox.stats()["token_requests"].values()) <= 2


def test_an_unreachable_host_is_temporary(site: Site) -> None:
    """Exit 75, and the run says where nobody answered."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, never listening
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        site.write((BASE + MIRROR).replace("{url}", address) + "[jobs.products.retry]\nattempts = 1\n")
        done = site.erpsync("run", "products")
    assert done.returncode == 75, done.stdout + done.stderr
    assert address.removeprefix("http://") in done.stdout + done.stderr


def test_html_in_place_of_json_is_temporary_and_named(site: Site) -> None:
    """A proxy's page instead of a token exits 75 and says what came."""
    page = "<html><body>Gateway login</body></html>"
    site.sandbox.fail(where="token", status=200, raw=page, headers={"content-type": "text/html"}, times=100)
    site.write(BASE + MIRROR + "[jobs.products.retry]\nattempts = 1\n")
    done = site.erpsync("run", "products", patience=120)
    assert done.returncode == 75, done.stdout + done.stderr
    assert "HTML" in done.stdout + done.stderr


def test_a_parked_job_stops_nobody_else(site: Site) -> None:
    """A job whose secret is missing is parked; the others run on, and status says which and why."""
    site.write(
        BASE
        + MIRROR.replace('"manual"', '{ every = "300ms" }')
        + '[identities.lost]\nclient_id = "x"\nscope = ["read"]\ninstance = "box"\n'
        + 'client_secret = { env = "NO_SUCH_SECRET" }\n'
        + MIRROR.replace("jobs.products", "jobs.orphan")
        .replace('"service"', '"lost"')
        .replace("products.db", "orphan.db")
    )
    with site.daemon() as daemon:
        eventually(
            lambda: any(run["outcome"] == "succeeded" for run in site.runs("products")), "the good job runs"
        )
        status = site.erpsync("status")
        assert "NO_SUCH_SECRET" in status.stdout
        assert site.stop(daemon) == 0


def test_sigterm_drains(site: Site) -> None:
    """A run under way at SIGTERM ends well within `drain`, and the daemon exits 0."""
    site.sandbox.fail(
        where="api",
        path="/api/domain/odata/General_Products_Products",
        delay_ms=60,
        times=1000,
        **{"pass": True},
    )
    with site.daemon() as daemon:
        site.erpsync("trigger", "products")
        eventually(lambda: _count(site) >= 100, "the mirror works")
        assert site.stop(daemon) == 0
    (run,) = site.runs("products")
    assert (run["outcome"], run["attempts"]) == ("succeeded", 1)


def test_a_second_owner_is_told_who_the_first_is(site: Site) -> None:
    """A second daemon exits 75 and names the first; `run` goes through the daemon."""
    with site.daemon() as daemon:
        second = site.erpsync("daemon")
        assert second.returncode == 75
        assert str(daemon.pid) in second.stderr
        through = site.erpsync("run", "products")
        assert through.returncode == 0, through.stderr
        assert site.runs("products")[0]["outcome"] == "succeeded"
        assert site.stop(daemon) == 0


def test_another_configurations_daemon_is_not_asked(site: Site) -> None:
    """A job of the same name in another file is another job: to ask exits 75 and names the file in force."""
    with site.daemon() as daemon:
        site.write(BASE + MIRROR.replace('table = "products"', 'table = "others"'), "other.toml")
        for command in (["run", "products"], ["reload"], ["pause", "products"]):
            done = site.erpsync("--config", "other.toml", *command)
            assert done.returncode == 75
            assert f"{site.folder}/erpsync.toml" in done.stderr
        assert "warning[W402]" in site.erpsync("--config", "other.toml", "check").stdout
        assert site.runs("products") == []
        assert site.stop(daemon) == 0


def test_a_trigger_that_starts_nothing_says_so(site: Site) -> None:
    """Exit 4 with the reason where the run was skipped, for an earlier one goes on."""
    path = "/api/domain/odata/General_Products_Products"
    site.sandbox.fail(where="api", path=path, delay_ms=300, times=1000, **{"pass": True})
    with site.daemon() as daemon:
        assert site.erpsync("trigger", "products").returncode == 0
        again = site.erpsync("trigger", "products")
        assert again.returncode == 4
        assert "overlap" in again.stdout
        site.sandbox.clear_faults()
        assert site.stop(daemon) == 0


def test_a_changed_configuration_is_told(site: Site) -> None:
    """A daemon that runs an older configuration is said to, with the remedy."""
    with site.daemon() as daemon:
        site.write(BASE + MIRROR + '[jobs.later]\nplugin = "mirror"\nidentity = "service"\nenabled = false\n')
        assert "erpsync plan" in site.erpsync("status").stdout
        done = site.erpsync("run", "products")
        assert done.returncode == 0
        assert "erpsync plan" in done.stderr
        assert site.stop(daemon) == 0


def test_without_a_daemon_there_is_nobody_to_ask(site: Site) -> None:
    """`trigger` exits 69 with the remedy; what only reads works."""
    done = site.erpsync("trigger", "products")
    assert done.returncode == 69
    assert "erpsync daemon" in done.stderr
    for command in (["jobs"], ["runs"], ["status"], ["plugins"], ["next", "products"], ["check"]):
        assert site.erpsync(*command).returncode == 0, command
    unknown = site.erpsync("run", "product")
    assert unknown.returncode == 2
    assert "products" in unknown.stderr


def test_files_are_for_their_owner_only(site: Site) -> None:
    """State, targets and logs are 0600, folders 0700, whatever the umask."""
    assert site.erpsync("run", "products").returncode == 0
    for path in (site.folder / "data").rglob("*"):
        allowed = 0o700 if path.is_dir() else 0o600
        assert path.stat().st_mode & 0o777 & ~allowed == 0, path


def test_the_sandbox_command_is_an_instance(site: Site, tmp_path: Path) -> None:
    """`erpsync sandbox` prints its address when it answers, with as many products as asked for."""
    process = subprocess.Popen(
        [sys.executable, "-m", "erpsync.cli.main", "sandbox", "--port", "0", "--rows", "42"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    word, url = process.stdout.readline().split()
    assert word == "ready"
    site.write((BASE + MIRROR).replace("{url}", url))
    assert site.erpsync("run", "products").returncode == 0
    assert site.rows("products.db", "SELECT count(*) FROM products") == [(42,)]
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode in (0, 143)
