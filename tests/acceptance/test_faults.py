"""What lies between daemon, servers and disk fails for a while: runs take longer, and nothing else happens."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx2
import pytest

from tests.acceptance.site import BASE, MIRROR, Site, eventually
from tests.acceptance.test_state import JOB, PLUGIN
from tests.servers.fault_proxy import BlackHole, Cut, Fault, FaultProxy, Latency, Reset

pytestmark = pytest.mark.slow

SET = "General_Products_Products"
PAGES = f"/{SET}?"
TOKEN = "POST /id/"
PATIENT = '[jobs.products.retry]\nattempts = 100\nbackoff = "200ms"\nmax_backoff = "400ms"\n'


@dataclass(frozen=True)
class Weather:
    """What passes over the line, and how often the daemon has told of it, in these words, before it clears up."""

    proxied: Mapping[str, tuple[Fault, ...]] = field(default_factory=dict)
    answered: tuple[Mapping[str, Any], ...] = ()
    told: tuple[tuple[str, str, int], ...] = ()


SLOW_DOWN = {"status": 429, "headers": {"Retry-After": "1"}}
WEATHER = {
    "reset": Weather(
        proxied={
            "auto-discovery": (Reset(),),
            TOKEN: (Reset(forward=True),),
            PAGES: (Reset(), Reset(forward=True)) * 2,
        },
        told=(("token.renewal_failed", "cannot be reached", 1), ("attempt.failed", "ReadError", 1)),
    ),
    "half a body": Weather(
        proxied={TOKEN: (Cut(400),), PAGES: (Cut(40), Cut(2000), Cut(8000))},
        told=(("token.renewal_failed", "cannot be reached", 1), ("request.retried", SET, 3)),
    ),
    "latency": Weather(proxied={TOKEN: (Latency(0.3),), PAGES: (Latency(0.3),) * 3}),
    "black hole": Weather(proxied={PAGES: (BlackHole(),) * 5}, told=(("attempt.failed", "ReadTimeout", 1),)),
    "a storm of 429": Weather(
        answered=({"where": "token", "times": 1} | SLOW_DOWN, {"where": "api", "times": 5} | SLOW_DOWN),
        told=(("token.renewal_failed", "429", 1), ("attempt.failed", "429", 1)),
    ),
    "503 for three attempts": Weather(
        answered=(
            {"where": "token", "times": 1, "status": 503},
            {"where": "api", "times": -1, "status": 503, "headers": {"Retry-After": "1"}},
        ),
        told=(("token.renewal_failed", "503", 1), ("attempt.failed", "503", 3)),
    ),
}


@pytest.mark.parametrize("weather", WEATHER.values(), ids=WEATHER.keys())
async def test_bad_weather_costs_time_only(site: Site, weather: Weather) -> None:
    """A line that fails is told of, tried again, and in the end the target is the image of the instance; a job that
    does not need it misses no second."""
    async with FaultProxy(site.sandbox.url) as proxy:
        base = BASE.replace('"info"', '"debug"')
        line = f'proxy = "{proxy.url}"\nread_timeout = "500ms"\nconnect_timeout = "1s"\n'
        site.write(f"{base}{line}{MIRROR}{PATIENT}{JOB}")
        site.write(PLUGIN, "plugins/tick.py")
        for at, faults in weather.proxied.items():
            proxy.queue(*faults, at=at)
        for answer in weather.answered:
            site.sandbox.fail(**answer)
        await asyncio.to_thread(_sit_it_out, site, weather)
        assert proxy.left == 0


def _sit_it_out(site: Site, weather: Weather) -> None:
    with site.daemon() as daemon:
        assert site.erpsync("trigger", "products").returncode == 0
        for event, words, count in weather.told:
            eventually(lambda: len(_lines(site, event, words)) >= count, f"{event} {words}")  # noqa: B023
        site.sandbox.clear_faults()
        eventually(lambda: _ends(site, "products"), "the run ends")
        _require_image(site)
        site.sandbox.touch(SET, count=3)
        assert site.erpsync("trigger", "products", "--wait").returncode == 0
        assert site.stop(daemon) == 0
    first, second = _ends(site, "products")
    failed = [line["error_message"] for line in _lines(site, "attempt.failed")]
    assert (first["outcome"], first["attempts"]) == ("succeeded", 1 + len(failed))
    assert (second["outcome"], second["attempts"], second["counts"]["written"]) == ("succeeded", 1, 3)
    assert "Traceback" not in site.outputs[-1]
    stats = site.sandbox.stats()
    assert (stats["sessions_opened"], stats["violations"]) == (1, 0)
    _require_image(site)
    _require_every_second(site)


def _require_every_second(site: Site) -> None:
    """Each fire time of the job that ticks has its run, which succeeded."""
    fired = site.runs("tick")
    assert {each["outcome"] for each in fired} == {"succeeded"}
    times = sorted(datetime.fromisoformat(each["fire_at"]) for each in fired)
    assert all(later - earlier == timedelta(seconds=1) for earlier, later in pairwise(times))


def _ends(site: Site, job: str) -> list[dict[str, Any]]:
    return [line for line in _lines(site, "run.finished") if line["job"] == job]


def _require_image(site: Site) -> None:
    """The target has each row of the instance once, as it is there."""
    rows = site.rows("products.db", "SELECT Id, PartNumber FROM products ORDER BY Id")
    there = site.sandbox.read(SET, "Id", "PartNumber")
    assert rows == sorted((row["Id"], row["PartNumber"]) for row in there)


def _lines(site: Site, event: str, words: str = "") -> list[dict[str, Any]]:
    """What the newest daemon has told under this name."""
    log = max(site.folder.glob("daemon-*.log"), key=lambda path: path.stat().st_mtime_ns)
    whole = log.read_text().rpartition("\n")[0].splitlines()
    found = (json.loads(line) for line in whole if line.startswith("{") and f'"{event}"' in line)
    return [each for each in found if each["event"] == event and words in str(each.get("error_message"))]


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(site: Site) -> Iterator[None]:
    """Another program writes into the state and does not come to an end."""
    command = [sys.executable, "-c", HOLD, str(site.folder / "data/erpsync.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.stdin.close()


@contextmanager
def full(site: Site) -> Iterator[None]:
    """Not a byte is free where state, target and run logs lie."""
    filler = site.folder / "data/filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            while _fits(file.fileno(), b"x" * size):
                pass
    yield
    filler.unlink()


def _fits(descriptor: int, piece: bytes) -> bool:
    try:
        return os.write(descriptor, piece) > 0
    except OSError:
        return False


@contextmanager
def small_disk(site: Site) -> Iterator[None]:
    """The data folder on a disk of its own."""
    data = site.folder / "data"
    data.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "erpsync-test", str(data)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        reason = "needs a file system of its own, which only root may mount"
        if os.environ.get("TESTS_REQUIRE_ROOT"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(data)], check=True)


@contextmanager
def any_disk(site: Site) -> Iterator[None]:
    """The data folder where it is."""
    yield


def _health(port: int) -> tuple[int, str]:
    """What /readyz answers and /metrics says."""
    url = f"http://127.0.0.1:{port}"
    page = httpx2.get(f"{url}/metrics").text
    line = next(line for line in page.splitlines() if line.startswith("erpsync_ready "))
    return httpx2.get(f"{url}/readyz").status_code, line


Trouble = Callable[[Site], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("disk", "trouble", "words", "claims"),
    [
        # each claim waits some seconds for the lock; a lock of minutes is in tests/scheduling, by a clock set by hand
        (any_disk, locked, "the state database is locked", 1),
        (small_disk, full, "no room for the state database", 3),
    ],
    ids=["locked", "full"],
)
def test_a_state_that_refuses_costs_time_only(
    site: Site, free_port: int, disk: Trouble, trouble: Trouble, words: str, claims: int
) -> None:
    """While the state takes nothing, `claims` tries long, the daemon says so and starts nothing; afterwards each
    fire time has its run."""
    site.write(PLUGIN, "plugins/tick.py")
    ticks = 'catch_up = "all"\ncatch_up_limit = 1000\noverlap = "allow"\n'
    served = BASE.replace("listen = false", f'listen = "127.0.0.1:{free_port}"').replace('"info"', '"debug"')
    site.write(served + JOB + ticks + MIRROR + PATIENT)
    site.sandbox.fail(where="api", path=f"/api/domain/odata/{SET}", delay_ms=200, times=-1, **{"pass": True})
    with disk(site), site.daemon() as daemon:
        eventually(lambda: _lines(site, "run.finished"), "the job runs")
        run = site.json("trigger", "products")["id"]
        eventually((site.folder / "data/products.db").exists, "the mirror works")
        with trouble(site):
            eventually(lambda: _lines(site, "claim.failed", words), "the claim is refused")
            status = site.erpsync("status", "--check")
            assert status.returncode == 1
            assert words in status.stdout + status.stderr
            assert _health(free_port) == (503, "erpsync_ready 0.0")
            eventually(
                lambda: len(_lines(site, "claim.failed", words)) >= claims, "it is tried in vain again"
            )
            assert not _lines(site, "claim.recovered")
        eventually(lambda: _lines(site, "claim.recovered"), "claims are taken")
        assert _health(free_port) == (200, "erpsync_ready 1.0")
        ended = eventually(
            lambda: [line for line in _lines(site, "run.finished") if line["run_id"] == run],
            "the mirror ends",
        )
        before = len(_lines(site, "run.finished"))
        eventually(lambda: len(_lines(site, "run.finished")) > before + 1, "the others go on")
        assert site.erpsync("status", "--check").returncode == 0
        assert site.stop(daemon) == 0
        assert [line["outcome"] for line in ended] == ["succeeded"]
        _require_image(site)
        _require_every_second(site)
        assert site.json("store", "check")["sound"] is True
    assert "Traceback" not in site.outputs[-1]
