"""The state database as an operator handles it: looked through, copied, restored, moved, damaged."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.acceptance.site import BASE, PATIENCE, Site, eventually

PLUGIN = '''
from erpsync import JobContext, JobResult, Settings, job

class Options(Settings):
    pass

@job("tick", repeatable=True)
async def tick(ctx: JobContext[Options]) -> JobResult:
    """Does nothing, well."""
    return ctx.result()
'''
JOB = '\n[jobs.tick]\nplugin = "tick"\nschedule = { every = "1s" }\n'


@pytest.fixture
def ticking(site: Site) -> Site:
    """A site with one job of every second that has run."""
    site.write(PLUGIN, "plugins/tick.py")
    site.write(BASE + JOB)
    with site.daemon() as daemon:
        eventually(lambda: len(site.runs("tick", outcome="succeeded")) >= 2, "the job runs")
        assert site.stop(daemon) == 0
    return site


@pytest.mark.slow
def test_a_restored_state_fires_nothing_until_it_is_released(ticking: Site) -> None:
    """Back up, restore, start: held and saying so everywhere; `resume --all` lets it go on and catches up."""
    site = ticking
    assert site.erpsync("store", "backup", "copy.db").returncode == 0
    before = len(site.runs("tick"))
    done = site.erpsync("store", "restore", "copy.db", "--yes")
    assert done.returncode == 0, done.stderr
    assert "resume --all" in done.stderr
    assert site.json("store", "check")["held_since"] is not None
    assert site.erpsync("run", "tick").returncode == 75
    with site.daemon() as daemon:
        status = site.json("status")
        assert status["daemon"]["held"]["reason"] == "it was restored from a copy"
        assert "held" in status["problems"][0]
        assert site.erpsync("status", "--check").returncode == 1
        refused = site.erpsync("trigger", "tick")
        assert refused.returncode != 0
        assert "resume --all" in refused.stderr
        assert site.json("next", "tick", "-n", "1")
        assert len(site.runs("tick")) == before
        released = site.erpsync("resume", "--all")
        assert "goes on" in released.stdout
        eventually(lambda: len(site.runs("tick", outcome="succeeded")) > before, "it fires again")
        assert site.json("status")["daemon"]["held"] is None
        assert site.stop(daemon) == 0
    with site.daemon() as daemon:
        assert site.json("status")["daemon"]["held"] is None


@pytest.mark.slow
def test_a_copied_folder_is_held(ticking: Site) -> None:
    """Two daemons never go on from one state: the one in the copied folder waits for a person."""
    site = ticking
    shutil.move(site.folder / "data", site.folder / "original")
    shutil.copytree(site.folder / "original", site.folder / "data")
    with site.daemon():
        assert site.json("status")["daemon"]["held"]["reason"] == "its file is a copy"


@pytest.mark.slow
def test_damage_is_told_with_its_remedy(site: Site) -> None:
    """A state that is damaged under a running daemon ends it, after what runs, with 78 and the command that restores
    a copy; so it ends `store check` and the next `daemon`. With a copy all goes on."""
    site.write(PLUGIN, "plugins/tick.py")
    site.write(BASE + JOB)
    state = site.folder / "data" / "erpsync.db"
    with site.daemon() as daemon:
        eventually(lambda: site.runs("tick", outcome="succeeded"), "the job runs")
        assert site.erpsync("store", "backup", "copy.db").returncode == 0
        _overwrite(state)
        site.erpsync("status")  # so that the daemon reads
        assert daemon.wait(PATIENCE) == 78
    told = [json.loads(line) for line in site.outputs[-1].splitlines() if line.startswith("{")]
    (damage,) = [line for line in told if line["event"] == "state.damaged"]
    assert f"{state} is damaged" in damage["error_message"]
    assert "erpsync store restore" in damage["hint"]
    assert (told[-1]["event"], told[-1]["code"]) == ("daemon.stopped", 78)
    for command in (("store", "check"), ("daemon",)):
        done = site.erpsync(*command)
        assert done.returncode == 78, (command, done.stdout, done.stderr)
        assert "erpsync store restore" in done.stdout + done.stderr
    assert site.erpsync("store", "restore", "copy.db", "--yes").returncode == 0
    assert site.json("store", "check")["sound"] is True
    assert site.runs("tick", outcome="succeeded")


@pytest.mark.slow
def test_nobody_restores_under_a_running_daemon(ticking: Site) -> None:
    """Restoring and upgrading need the state for themselves, copying and looking do not."""
    site = ticking
    with site.daemon() as daemon:
        assert site.erpsync("store", "backup", "copy.db").returncode == 0
        assert site.json("store", "check")["sound"] is True
        for command in (("restore", "copy.db", "--yes"), ("upgrade",)):
            done = site.erpsync("store", *command)
            assert done.returncode == 75
            assert f"pid {daemon.pid}" in done.stderr
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
    assert "already" in site.erpsync("store", "upgrade").stdout


def _overwrite(state: Path) -> None:
    """Noise in place of the pages, in the file and in its log, of which an open database takes the newer."""
    for file in (state, state.with_name(f"{state.name}-wal")):
        size = file.stat().st_size
        with file.open("r+b") as pages:
            pages.write(b"\x17" * size)


@pytest.mark.slow
def test_a_no_is_no_fault(ticking: Site) -> None:
    """Without a yes nothing is restored, and the command says so."""
    site = ticking
    assert site.erpsync("store", "backup", "copy.db").returncode == 0
    refused = site.erpsync("store", "restore", "copy.db")
    assert (refused.returncode, "nothing was done" in refused.stderr) == (2, True)
    assert "--yes" in refused.stderr
    assert not list((site.folder / "data").glob("*.replaced-*"))
