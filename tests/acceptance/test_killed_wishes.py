"""Kill -9 while the daemon does what somebody asks for: backfill, reset of a cursor, dead letters, rename.

Who asked gets no answer and asks again. It must end as if nobody had been killed.
"""

import os
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from erpsync.control.client import ControlClient
from erpsync.core.errors import DaemonRefusedError, NoDaemonError
from erpsync.sandbox.server import Sandbox
from erpsync.store.dead_letters import DeadLetters, open_letters
from erpsync.store.state import Store
from tests.acceptance.kill_points import NOWHERE, living
from tests.acceptance.site import BASE, MIRROR, PATIENCE, Site, eventually

PLUGINS = '''
import asyncio
from pathlib import Path
from erpsync import JobContext, JobResult, Settings, job

@job("count", repeatable=True)
async def count(ctx: JobContext[Settings]) -> JobResult:
    """One more than the last success; of a part of the past a line."""
    if ctx.window is None:
        ctx.cursor.stage(str(int(ctx.cursor.value or "0") + 1))
    else:
        witness(ctx, str(ctx.window[0].date()))
    return ctx.result()

@job("sort", repeatable=True, takes_dead=True)
async def sort(ctx: JobContext[Settings]) -> JobResult:
    """At first every row fails; taken up again, when all have asked for that, each is well."""
    while ctx.dead and not Path("asked").exists():
        await asyncio.sleep(0.01)
    for name in "abc" if ctx.dead is None else ():
        ctx.dead_letter({"Id": name}, "refused")
    for row in ctx.dead or ():
        witness(ctx, row["Id"])
    return ctx.result()

def witness(ctx: JobContext[Settings], what: str) -> None:
    """A line that nobody can take back."""
    with open("witness", "a") as file:
        file.write(f"{ctx.job} {ctx.run_id} {ctx.attempt} {what}\\n")
'''
JOBS = """
[jobs.count]
plugin = "count"
schedule = "0 0 1 1 *"

[jobs.sort]
plugin = "sort"
schedule = "manual"
overlap = "queue"
"""
RENAMED = JOBS.replace("[jobs.count]", '[jobs.tally]\nformerly = ["count"]')
ROWS = 30
POINTS = {
    "the claim of a backfill": "1 {}: INSERT INTO run",
    "the reset in the ledger": "1 {}: DELETE FROM cursor",
    "the reset in the target": "1 {}: UPDATE _erpsync_cursor",
    "the claim of a run for dead letters": "4 {}: INSERT INTO run",
    "the claim of another": "5 {}: INSERT INTO run",
    "the end of the first of them": "3 {}: UPDATE attempt, UPDATE run",
    "the rename": "1 {}: UPDATE cursor, UPDATE handover, UPDATE mark, UPDATE pause, UPDATE run",
}
"""The commits before and after which a life is killed, as `WISHES` come to them."""

Wish = Callable[[Site, ControlClient], Sequence[dict[str, Any]]]


def _backfill(_site: Site, client: ControlClient) -> Sequence[dict[str, Any]]:
    return client.backfill("count", ("2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z"), 86400, None)


def _begin_anew(_site: Site, client: ControlClient) -> Sequence[dict[str, Any]]:
    for job in ("count", "products"):
        client.reset_cursor(job)
    return ()


def _run(job: str, wish: str = "again") -> Wish:
    """Asked again it is the very same wish, as it is where no answer comes in time."""
    return lambda _site, client: client._claims({"jobs": [job], "wish": f"{job}-{wish}"})


def _take_up(site: Site, client: ControlClient) -> Sequence[dict[str, Any]]:
    """Two at once ask for the same letters; one who asks again may hear that none are left."""
    runs = []
    for _ in range(2):
        with suppress(DaemonRefusedError):
            runs.append(client.retry_dead("sort"))
    (site.folder / "asked").touch()
    return runs


def _rename(site: Site, client: ControlClient) -> Sequence[dict[str, Any]]:
    site.write(BASE + MIRROR + RENAMED)
    client.reload()
    return ()


WISHES: Sequence[Wish] = (
    _backfill,
    _begin_anew,
    _run("count"),
    _run("products"),
    _take_up,
    _rename,
    _run("tally"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What is on disk when all wishes are fulfilled; `done`: by how many runs that succeeded. How often letters are
    asked for differs, so the runs for them do not count, only what they did."""

    runs: Counter[tuple[str, ...]]
    cursors: list[tuple[Any, ...]]
    marks: list[tuple[Any, ...]]
    rows: list[tuple[Any, ...]]
    done: Counter[tuple[str, str]]
    letters: dict[str, list[str]]


@pytest.mark.slow
def test_killed_at_its_commits_a_wish_is_fulfilled_once(tmp_path: Path) -> None:
    """Whichever commit it is killed at, asking again ends as if nobody had been killed."""
    with Sandbox(port=0, rows=ROWS, license_slots=10_000) as sandbox:
        seed = _seed(Site(tmp_path / "seed", sandbox))
        whole = _site(tmp_path / "clean", sandbox, seed)
        assert _live(whole, WISHES, NOWHERE) == ()
        clean = _read(whole)
        assert (clean.done.total(), len(clean.rows), dict(clean.cursors)["tally"]) == (5, ROWS, "2")
        points = [at.format(when) for at in POINTS.values() for when in ("before", "after")]

        def sweep(point: str) -> None:
            number = f"{points.index(point)}"
            _sweep(_site(tmp_path / number, sandbox, seed), point, clean)

        with ThreadPoolExecutor(os.cpu_count()) as both:
            list(both.map(sweep, points))


def _seed(site: Site) -> Path:
    """The data of a daemon that has run each job once; somebody has taken rows out of the target since."""
    site.write(BASE + MIRROR + JOBS)
    site.write(PLUGINS, "plugins/wishes.py")
    with living(site.folder, site.environment, site.folder / "seed.log", NOWHERE) as daemon:
        eventually(lambda: "daemon.started" in _text(site.folder / "seed.log"), "the daemon starts")
        for job in ("count", "sort", "products"):
            _fulfil(site, _run(job, "first"))
        assert site.stop(daemon) == 0
    data = site.folder / "data"
    for name, change in (
        ("products", "DELETE FROM products WHERE rowid % 2"),
        ("erpsync", "DELETE FROM installation"),
    ):
        with closing(sqlite3.connect(data / f"{name}.db")) as connection:
            connection.execute(change)
            connection.commit()
    return data


def _site(folder: Path, sandbox: Sandbox, seed: Path) -> Site:
    """A folder of its own that begins where the seed stands."""
    site = Site(folder, sandbox)
    shutil.copytree(
        seed.parent, folder, ignore=shutil.ignore_patterns("*.log", "points", "generation", "*.json")
    )
    return site


def _sweep(site: Site, point: str, clean: Result) -> None:
    """Killed at `point`, then let live."""
    try:
        left = _live(site, WISHES, point)
        assert left, "it never came to the point"
        assert _live(site, left) == ()
        assert _read(site) == clean
    except AssertionError as error:
        error.add_note(f"killed at {point}; see {site.folder}")
        raise


def _live(site: Site, wishes: Sequence[Wish], kill_point: str | None = None) -> Sequence[Wish]:
    """One life of the daemon, asked for one after the other; the wishes that are left because it was killed."""
    log = site.folder / ("second.log" if kill_point is None else "first.log")
    with living(site.folder, site.environment, log, kill_point) as daemon:
        eventually(lambda: daemon.poll() is not None or "daemon.started" in _text(log), "the daemon starts")
        for number, wish in enumerate(wishes):
            try:
                _fulfil(site, wish)
            except NoDaemonError:
                assert daemon.wait(PATIENCE) == -signal.SIGKILL, _text(log)[-3000:]
                return wishes[number:]
        assert site.stop(daemon) == 0, _text(log)[-3000:]
    return ()


def _fulfil(site: Site, wish: Wish) -> None:
    """Ask for it, and wait for the end of all runs that there are."""
    with ControlClient(site.folder / "data/control.sock") as client:
        for run in wish(site, client):
            while client.find(run["id"], wait=10)["state"] != "finished":
                pass


def _text(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def _read(site: Site) -> Result:
    runs = site.rows("erpsync.db", "SELECT id, job, claim, outcome FROM run")
    succeeded = {key for key, *_, how in runs if how == "succeeded"}
    lines = [tuple(line.split()) for line in (site.folder / "witness").read_text().splitlines()]
    assert set(Counter(lines).values()) == {1}, "an attempt was entered twice"
    done = {(job, key, what) for job, key, _, what in lines if key in succeeded}
    letters = DeadLetters(site.folder / "data/dead")
    with closing(Store.open(site.folder / "data/erpsync.db", read_only=True)) as store:
        left = store.read_now(open_letters, letters.run_ids())
    return Result(
        runs=Counter((job, claim.partition(":")[0], how) for _, job, claim, how in runs if job != "sort"),
        cursors=site.rows("erpsync.db", "SELECT job, value FROM cursor ORDER BY job"),
        marks=site.rows("erpsync.db", "SELECT job FROM mark ORDER BY job"),
        rows=site.rows("products.db", "SELECT * FROM products ORDER BY Id"),
        done=Counter((job, what) for job, _, what in done),
        letters=left,
    )
