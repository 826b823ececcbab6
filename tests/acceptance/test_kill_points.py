"""Kill -9 at every commit: one life for each boundary, before and after, of the state and of a mirror's target.

A second life, that nobody kills, must end with what a life without a kill ends with.
"""

import os
import re
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from erpsync.sandbox.server import Sandbox
from tests.acceptance.kill_points import NOWHERE, living, written_at
from tests.acceptance.site import BASE, Site, eventually

PLUGINS = '''
from erpsync import JobContext, JobResult, Retry, Settings, job

def enter(ctx: JobContext[Settings]) -> None:
    """A line that nobody can take back."""
    with open("witness", "a") as file:
        file.write(f"{ctx.job} {ctx.run_id} {ctx.attempt}\\n")

@job("count", repeatable=True)
async def count(ctx: JobContext[Settings]) -> JobResult:
    """One more than the last success."""
    enter(ctx)
    ctx.cursor.stage(str(int(ctx.cursor.value or "0") + 1))
    return ctx.result()

@job("flaky", repeatable=True)
async def flaky(ctx: JobContext[Settings]) -> JobResult:
    """Never succeeds, and may be tried again."""
    enter(ctx)
    raise Retry("100ms", "not yet")

@job("child", repeatable=True)
def child(ctx: JobContext[Settings]) -> JobResult:
    """In a process of its own, which dies with the daemon."""
    enter(ctx)
    return ctx.result()

@job("once")
async def once(ctx: JobContext[Settings]) -> JobResult:
    """Must not be entered twice."""
    enter(ctx)
    return ctx.result()
'''

JOBS = """
[jobs.products]
priority = 3
plugin = "mirror"
identity = "service"
schedule = {{ at = {first} }}
catch_up = "all"

[jobs.products.with]
entity = "General_Products_Products"
select = ["Id", "PartNumber", "Name"]
page_size = {page}
target = {{ url = "sqlite:///products.db", table = "products" }}

[jobs.once]
priority = 2
plugin = "once"
schedule = {{ after = "products" }}

[jobs.count]
priority = 1
plugin = "count"
schedule = [{{ at = {first} }}, {{ at = {second} }}]
catch_up = "all"
start_by = "1d"

[jobs.flaky]
plugin = "flaky"
schedule = {{ at = {second} }}
catch_up = "all"
retry = {{ attempts = 2 }}

[jobs.child]
plugin = "child"
schedule = {{ at = {second} }}
catch_up = "all"
"""
CLEAN = Counter(
    {
        ("products", "succeeded"): 1,
        ("once", "succeeded"): 1,
        ("count", "succeeded"): 2,
        ("flaky", "failed"): 1,
        ("child", "succeeded"): 1,
    }
)
"""The runs of a life that nobody kills."""
BOUNDARIES = (
    {"INSERT INTO run", "INSERT INTO mark"},  # claim
    {"INSERT INTO attempt", "UPDATE run"},  # an attempt begins
    {"UPDATE attempt", "UPDATE run"},  # it ends: with a result, or to be tried again
    {"UPDATE attempt", "INSERT INTO cursor"},  # with a cursor
    {"UPDATE attempt", "INSERT INTO handover", "INSERT INTO run"},  # and a child's claim
    {"INSERT INTO session"},
    {"INSERT INTO _erpsync_cursor"},  # the sink opens
    {"INSERT INTO products", "UPDATE _erpsync_cursor"},  # a page
)
"""What one transaction writes: each is killed before and after its commit."""
ROWS, PAGE = 50, 20
SLACK = 4
"""So many points another life may not come to: what is queued together commits together."""


@dataclass(frozen=True, slots=True)
class Life:
    """What is on disk when all runs have ended: `runs` by id, `ends` the outcomes of each run's attempts."""

    runs: dict[str, tuple[str, str, str, int, int]]  # job, claim, outcome, uncharged, losses
    ends: dict[str, list[str]]
    rows: list[tuple[Any, ...]]
    position: list[tuple[Any, ...]]
    cursors: list[tuple[Any, ...]]
    entered: Counter[tuple[str, ...]]

    @property
    def claims(self) -> Counter[tuple[str, str]]:
        """Who was claimed for what; a child for its parents' jobs, for every life has ids of its own."""
        return Counter(
            (job, re.sub(r"^after:(\w+)$", lambda found: "after:" + self.runs[found[1]][0], claim))
            for job, claim, *_ in self.runs.values()
        )


@pytest.mark.slow
def test_killed_at_any_commit_nothing_is_lost_or_done_twice(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Whichever commit it is killed at, the next life ends as if nobody had been killed."""
    with Sandbox(port=0, rows=ROWS, license_slots=10_000) as sandbox:
        seed = _seed(Site(tmp_path / "seed", sandbox))
        whole = _site(tmp_path / "clean", sandbox, seed)
        clean = _live(whole, kill_point=NOWHERE)
        assert clean is not None
        assert Counter((job, how) for job, _, how, *_ in clean.runs.values()) == CLEAN
        assert (len(clean.rows), dict(clean.cursors)["count"]) == (ROWS, "2")
        points = _points(whole)

        def is_killed_at(number: int) -> bool:
            return _sweep(_site(tmp_path / str(number), sandbox, seed), points[number], clean)

        with ThreadPoolExecutor(os.cpu_count()) as both:
            reached = [*both.map(is_killed_at, range(len(points)))]
    kills = [point for point, killed in zip(points, reached, strict=True) if killed]
    record_property("kill points", f"killed at {len(kills)} of {len(points)}")
    assert len(kills) >= len(points) - SLACK
    for boundary in BOUNDARIES:
        for when in ("before", "after"):
            assert any(f" {when}: " in point and boundary <= written_at(point) for point in kills), (
                f"nobody was killed {when} the commit of {boundary}"
            )


def _seed(site: Site) -> Path:
    """A state that has seen the jobs before their fire times; it belongs to no place yet."""
    _write(site, datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1))
    with site.daemon() as daemon:
        eventually(lambda: site.rows("erpsync.db", "SELECT count(*) FROM mark") == [(4,)], "marks are set")
        assert site.stop(daemon) == 0
    seed = site.folder / "data" / "erpsync.db"
    connection = sqlite3.connect(seed)
    connection.execute("UPDATE mark SET until = until - 7200000000")
    connection.execute("DELETE FROM installation")
    connection.commit()
    connection.close()  # and with the last connection the log is in the file
    return seed


def _site(folder: Path, sandbox: Sandbox, seed: Path) -> Site:
    """A folder of its own that begins where the seed stands."""
    site = Site(folder, sandbox)
    shutil.copytree(seed.parents[1], folder, ignore=shutil.ignore_patterns("data", "*.log"))
    (folder / "data").mkdir(mode=0o700)
    shutil.copyfile(seed, folder / "data" / "erpsync.db")
    return site


def _write(site: Site, first: datetime) -> None:
    second = first + timedelta(minutes=1)
    jobs = JOBS.format(first=first.isoformat(), second=second.isoformat(), page=PAGE)
    site.write(BASE.replace('data = "data"', 'data = "data"\nmax_runs = 1') + jobs)
    site.write(PLUGINS, "plugins/points.py")


def _sweep(site: Site, point: str, clean: Life) -> bool:
    """Killed at `point`, then let live; whether this life came to the point at all."""
    running = set[str]()
    life = _live(site, point)
    if killed := life is None:
        known, running = _left_behind(site)
        life = _live(site)
        assert life is not None, "nobody kills the second life"
        assert known <= set(life.runs), "a run is lost"
    try:
        _require_as(clean, life, running)
    except AssertionError as error:
        error.add_note(f"killed at {point}; see {site.folder}")
        raise
    return killed


def _live(site: Site, kill_point: str | None = None) -> Life | None:
    """One life of the daemon until every run has ended, without the injection where no point is given; None: it
    was killed at the point."""
    log = site.folder / ("second.log" if kill_point is None else "first.log")
    with living(site.folder, site.environment, log, kill_point) as daemon:
        eventually(
            lambda: daemon.poll() is not None or ("daemon.started" in _text(log) and _all_ended(site)),
            f"every run ends: {log}",
        )
        code = site.stop(daemon)
    if kill_point and code == -signal.SIGKILL:
        return None
    assert code == 0, _text(log)[-3000:]
    return _read(site)


def _text(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def _all_ended(site: Site) -> bool:
    """Read-only: another last connection to close would put the log that a kill leaves into the file."""
    connection = sqlite3.connect(f"file:{site.folder}/data/erpsync.db?mode=ro", uri=True)
    try:
        query = "SELECT count(*), coalesce(sum(state <> 'finished'), 0) FROM run"
        runs, unfinished = connection.execute(query).fetchone()
    finally:
        connection.close()
    return bool(unfinished == 0 and runs >= CLEAN.total())


def _points(site: Site) -> list[str]:
    return (site.folder / "points").read_text().splitlines()


def _left_behind(site: Site) -> tuple[set[str], set[str]]:
    """The runs on disk, and those that were running; seen in a copy, for looking heals what a kill leaves."""
    copy = site.folder / "left"
    copy.mkdir()
    for name in ("erpsync.db", "erpsync.db-wal"):
        shutil.copyfile(site.folder / "data" / name, copy / name)  # a killed daemon leaves its log
    connection = sqlite3.connect(copy / "erpsync.db")
    states = dict(connection.execute("SELECT id, state FROM run").fetchall())
    connection.close()
    return set(states), {key for key, state in states.items() if state == "running"}


def _read(site: Site) -> Life:
    ends: dict[str, list[str]] = {}
    for key, end in site.rows("erpsync.db", "SELECT run_id, outcome FROM attempt ORDER BY run_id, number"):
        ends.setdefault(key, []).append(end)
    runs = site.rows("erpsync.db", "SELECT id, job, claim, outcome, uncharged, losses FROM run")
    cursor = "SELECT job, scope, watermark, position FROM _erpsync_cursor"
    return Life(
        runs={key: rest for key, *rest in runs},  # type: ignore[misc]
        ends=ends,
        rows=site.rows("products.db", "SELECT * FROM products ORDER BY Id"),
        position=site.rows("products.db", cursor),
        cursors=site.rows("erpsync.db", "SELECT job, value FROM cursor ORDER BY job"),
        entered=Counter(tuple(line.split()) for line in (site.folder / "witness").read_text().splitlines()),
    )


def _require_as(clean: Life, life: Life, running: set[str]) -> None:
    """The same claims, ends, rows and cursors; what was `running` when the daemon died has lost one attempt."""
    assert life.claims == clean.claims
    assert (life.rows, life.position, life.cursors) == (clean.rows, clean.position, clean.cursors)
    assert set(life.entered.values()) == {1}, "an attempt was entered twice"
    normal = {
        job: (how, ends) for (job, _, how, *_), ends in zip(clean.runs.values(), _of(clean), strict=True)
    }
    for (key, (job, _, how, uncharged, losses)), ends in zip(life.runs.items(), _of(life), strict=True):
        assert (ends.count("lost"), uncharged, losses) == (int(key in running),) * 3
        charged = [end for end in ends if end != "lost"]
        if job == "once" and key in running:
            assert (how, charged) == ("abandoned", [])
        else:
            assert (how, charged) == normal[job]
    once = [entry for entry in life.entered if entry[0] == "once"]
    assert len(once) <= 1, "what may not be repeated was entered twice"


def _of(life: Life) -> list[list[str]]:
    """The ends of the attempts, run by run."""
    return [life.ends.get(key, []) for key in life.runs]
