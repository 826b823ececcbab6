"""Steps of a real wall clock: the real daemon, whose clock is set while it works.

A shim that is compiled here stands before the C library's clock. Without a compiler the test is skipped, or fails
where TESTS_REQUIRE_CC=1.
"""

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.acceptance.site import BASE, Site, eventually
from tests.servers.program import executed

INTERVAL = timedelta(minutes=10)
STEPS = {2: "forward", -2: "back", -5: "correction"}
"""By so many hours the clock is set, one after the other, and what that is called."""
JOB = '[jobs.tick]\nplugin = "tick"\nschedule = { every = "10m" }\ncatch_up = "all"\n'
PLUGIN = """
from erpsync import JobContext, JobResult, Settings, job

@job("tick")
async def tick(ctx: JobContext) -> JobResult:
    return ctx.result()
"""


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """The compiled shim."""
    compiler = shutil.which("cc")
    if compiler is None:
        reason = "no C compiler: cc sets the wall clock of a daemon"
        (pytest.fail if os.environ.get("TESTS_REQUIRE_CC") == "1" else pytest.skip)(reason)
    source, library = Path(__file__).with_name("wall_clock.c"), tmp_path / "wall_clock.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.mark.slow
def test_each_step_of_the_wall_clock_is_told_once_and_no_fire_time_is_lost_or_doubled(
    site: Site, shim: Path, tmp_path: Path
) -> None:
    """Forward twelve fire times are there at once, back none again; a correction gives back what only passed."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    site.environment |= {"LD_PRELOAD": str(shim), "WALL_CLOCK": str(offset)}
    site.start = executed  # only then is anything preloaded
    site.write(PLUGIN, "plugins/tick.py")
    site.write(BASE + JOB)
    hours, told = 0, []
    with site.daemon() as daemon:
        due = _next_twelve(datetime.now(UTC))
        for step, kind in STEPS.items():
            hours += step
            offset.write_text(str(hours * 3600))
            told.append(kind)
            eventually(lambda told=told: _jumps(site) == told, f"the step {kind} is told")
            if kind != "correction":
                eventually(lambda: _since(due[0], site)[:12] == due, "each is there once")
        eventually(
            lambda: not _rows(site, "outcome IN ('missed', 'skipped')"), "what only passed is given back"
        )
        assert site.stop(daemon) == 0
    assert _jumps(site) == [*STEPS.values()]
    assert len(_fires(site)) == len({*_fires(site)})
    assert len(_since(due[0], site)) >= 10, "what ran stays"


def _jumps(site: Site) -> list[str]:
    """The kinds of the jumps that the daemon has told."""
    text = "".join(log.read_text() for log in site.folder.glob("daemon-*.log"))
    return re.findall(r"clock\.jumped.*?kind\W+(\w+)", text)


def _rows(site: Site, which: str) -> list[tuple[int, int | None]]:
    return site.rows("erpsync.db", f"SELECT fire_at, fire_until FROM run WHERE {which}")


def _fires(site: Site) -> list[int]:
    """All fire times that have a run, in microseconds, ranges spread out."""
    step = INTERVAL // timedelta(microseconds=1)
    return [fire for first, last in _rows(site, "1") for fire in range(first, (last or first) + 1, step)]


def _since(first: int, site: Site) -> list[int]:
    return sorted(fire for fire in _fires(site) if fire >= first)


def _next_twelve(now: datetime) -> list[int]:
    """The fire times of the two hours after an instant, in microseconds."""
    step = int(INTERVAL.total_seconds())
    following = int(now.timestamp()) // step + 1
    return [number * step * 10**6 for number in range(following, following + 12)]
