"""Kill -9 at random moments: the real daemon, jobs of every second and faster, and the ledger afterwards.

KILLS=200 kills more often; SEED=… repeats the moments (what the daemon does meanwhile is its own affair).
"""

import os
import random
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from erpsync.core.run import Outcome, Run, State
from erpsync.store.history import RunFilter, list_attempts, list_runs
from erpsync.store.state import Store
from tests.acceptance.site import BASE, Site, eventually

KILLS = int(os.environ.get("KILLS", "20"))
SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
LIFE = 0.7
"""Seconds from a life's first claim, or from its very beginning, to its end: at random up to this."""

PLUGIN = '''
import os
from erpsync import JobContext, JobResult, Settings, job

class Options(Settings):
    witness: str

@job("tick", repeatable=True)
async def tick(ctx: JobContext[Options]) -> JobResult:
    """Leaves a line that nobody can take back."""
    file = os.open(ctx.settings.witness, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, f"{ctx.job} {ctx.run_id} {ctx.attempt}\\n".encode())
    os.close(file)
    return ctx.result()
'''

JOBS = {
    "fast": ('{ every = "200ms" }', timedelta(milliseconds=200)),
    "second": ('"* * * * * *"', timedelta(seconds=1)),
}


@pytest.mark.slow
def test_every_fire_time_has_one_run_whenever_the_daemon_is_killed(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    """Killed at any moment, at its start too: each fire time is in the ledger once, and nothing ran unclaimed."""
    record_property("kills of the daemon", f"{KILLS}, SEED={SEED}")
    witness = site.folder / "witness"
    site.write(PLUGIN, "plugins/tick.py")
    site.write(BASE + "".join(_job(name, schedule, witness) for name, (schedule, _) in JOBS.items()))
    moments = random.Random(SEED)
    with site.daemon() as daemon:  # the first sight of the jobs
        eventually(lambda: _written(site) > 0, "runs are claimed")
        daemon.kill()
    for _ in range(KILLS - 1):
        _live_and_die(site, moments)
    with site.daemon() as daemon:
        before = _written(site)
        eventually(lambda: _written(site) > before + 5, "runs are claimed after all")
        assert site.stop(daemon) == 0

    store = Store.open(site.folder / "data" / "erpsync.db", read_only=True)
    try:
        runs = store.read_now(list_runs, RunFilter(limit=10**6))
        for name, (_, interval) in JOBS.items():
            _require_each_once([run for run in runs if run.job == name], interval)
        _require_witnessed(store, runs, witness)
    finally:
        store.close()


def _job(name: str, schedule: str, witness: Path) -> str:
    return (
        f'[jobs.{name}]\nplugin = "tick"\nschedule = {schedule}\ncatch_up = "all"\n'
        f'with = {{ witness = "{witness}" }}\n'
    )


def _live_and_die(site: Site, moments: random.Random) -> None:
    """One life of the daemon; one in four ends before it is sure to have started."""
    life, at_birth = moments.uniform(0, LIFE), moments.random() < 0.25
    log = site.folder / "lives.log"
    before = _written(site)
    with log.open("ab") as file:
        daemon = site.spawn(file)
        try:
            if not at_birth:
                eventually(lambda: daemon.poll() is not None or _written(site) > before, "runs are claimed")
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(life)
            assert daemon.poll() is None, log.read_text()[-3000:]
        finally:
            daemon.kill()
            daemon.wait()


def _written(site: Site) -> int:
    """How many runs were written so far; a look that meets a file being made sees none."""
    with suppress(sqlite3.OperationalError):
        return int(site.rows("erpsync.db", "SELECT coalesce(max(seq), 0) FROM run")[0][0])
    return 0


def _require_each_once(runs: list[Run], interval: timedelta) -> None:
    """From the first fire time to the last, every one is covered by exactly one run."""
    covered: Counter[Any] = Counter()
    for run in runs:
        assert run.fire_at is not None
        last = run.fire_until or run.fire_at
        fires = [run.fire_at + number * interval for number in range((last - run.fire_at) // interval + 1)]
        assert (fires[-1], len(fires)) == (last, run.fire_count)
        covered.update(fires)
    expected = min(covered) + (max(covered) - min(covered)) // interval * interval
    assert max(covered) == expected
    assert len(covered) == (max(covered) - min(covered)) // interval + 1, "a fire time is lost"
    assert set(covered.values()) == {1}, "a fire time has two runs"


def _require_witnessed(store: Store, runs: list[Run], witness: Path) -> None:
    """What ran is what the ledger says: at most once an attempt, never a run that was skipped or missed."""
    entered = Counter(tuple(line.split()) for line in witness.read_text().splitlines())
    assert set(entered.values()) == {1}, "an attempt ran twice"
    by_id = {run.id: run for run in runs}
    last_attempt: dict[str, int] = {}
    for job, run_id, attempt in entered:
        run = by_id[run_id]  # nothing ran that is not in the ledger
        assert run.job == job
        assert int(attempt) <= run.attempts
        last_attempt[run_id] = max(last_attempt.get(run_id, 0), int(attempt))
    for run in runs:
        assert run.state is not State.RUNNING  # the last daemon was asked to end; what was pending waits
        if run.outcome is Outcome.SUCCEEDED:
            assert last_attempt[run.id] == run.attempts
            ends = [attempt.outcome for attempt in store.read_now(list_attempts, run.id)]
            assert ends == ["lost"] * (len(ends) - 1) + ["succeeded"]
        else:
            assert run.id not in last_attempt or run.attempts > 0


HOLD = '''
import asyncio
from pathlib import Path
from erpsync import JobContext, JobResult, Settings, job

class Options(Settings):
    witness: str

@job("hold", repeatable=True)
async def hold(ctx: JobContext[Options]) -> JobResult:
    """Says that it is here, and does not let itself be cancelled until it is let go."""
    with open(ctx.settings.witness, "a") as file:
        file.write(f"{ctx.run_id} {ctx.attempt}\\n")
    while not Path(ctx.settings.witness + ".done").exists():
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            pass
    return ctx.result()
'''


@pytest.mark.slow
def test_what_a_newer_run_replaces_stays_replaced_after_a_crash(site: Site) -> None:
    """Killed between the claim of a run and the end of the one it replaces: the old one ends as replaced and is
    never entered again, the new one runs."""
    witness = site.folder / "witness"
    site.write(HOLD, "plugins/hold.py")
    keys = f'plugin = "hold"\nschedule = "manual"\noverlap = "replace"\nwith = {{ witness = "{witness}" }}'
    site.write(f"{BASE}\n[jobs.hold]\n{keys}\n")
    with site.daemon() as daemon:
        assert site.erpsync("trigger", "hold").returncode == 0
        eventually(witness.exists, "the first run is entered")
        assert site.erpsync("trigger", "hold").returncode == 0
        newer, older = site.runs("hold")
        assert (older["state"], newer["attempts"]) == ("running", 0)
        daemon.kill()
        daemon.wait()
    with site.daemon() as daemon:
        eventually(lambda: len(witness.read_text().splitlines()) == 2, "the newer run is entered")
        (site.folder / "witness.done").touch()
        eventually(lambda: site.runs("hold")[0]["state"] == "finished", "it ends")
        assert site.stop(daemon) == 0

    fates = [(run["outcome"], run["reason"]) for run in site.runs("hold")]
    assert fates == [("succeeded", None), ("cancelled", "replaced")]
    assert witness.read_text().splitlines() == [f"{older['id']} 1", f"{newer['id']} 1"]
