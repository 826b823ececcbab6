"""Whatever a plugin does, commands end, the daemon goes on and every run has a recorded end."""

import signal
import subprocess
import sys

import pytest

from tests.acceptance.site import BASE, Site, eventually

ODD = {
    "surrogate in a message": 'raise ValueError("caf\\udce9.csv")',
    "surrogate in a note": 'return ctx.result("caf\\udce9")',
    "more rows than fit": "ctx.count(read=2**70)",
    "fewer rows than none": "ctx.count(read=-5)",
    "again before now": "raise Retry(timedelta.min)",
    "SystemExit": "raise SystemExit(0)",
    "no result": "return None",
}
PLUGIN = """
from datetime import timedelta
from erpsync import JobContext, JobResult, Retry, Settings, job

@job("odd")
async def odd(ctx: JobContext[Settings]) -> JobResult:
    {what}
    return ctx.result()
"""
ODD_JOB = '[jobs.odd]\nplugin = "odd"\nschedule = "manual"\nretry = { attempts = 1 }\n'


@pytest.mark.parametrize("what", ODD.values(), ids=ODD.keys())
def test_odd_ends_are_recorded_ends(site: Site, what: str) -> None:
    """What cannot be written down as it is ends the run all the same, and soon."""
    site.write(PLUGIN.format(what=what), "plugins/odd.py")
    site.write(BASE + ODD_JOB)
    done = site.erpsync("run", "odd", patience=30)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (run,) = site.runs("odd")
    assert run["state"] == "finished"
    assert (run["outcome"] == "succeeded") == (done.returncode == 0)


SLOW = """
import asyncio
from erpsync import JobContext, JobResult, Settings, job

class Options(Settings):
    marker: str

@job("slow", repeatable=True)
async def slow(ctx: JobContext[Options]) -> JobResult:
    from pathlib import Path
    if Path(ctx.settings.marker).exists():
        return ctx.result("second time")
    Path(ctx.settings.marker).touch()
    await asyncio.sleep(3600)
    return ctx.result()
"""


def test_a_run_killed_without_a_daemon_is_ended_by_the_next(site: Site) -> None:
    """After kill -9 of `erpsync run` the next one closes what was lost, finishes it and runs again."""
    marker = site.folder / "marker"
    site.write(SLOW, "plugins/slow.py")
    site.write(
        BASE + f'[jobs.slow]\nplugin = "slow"\nschedule = "manual"\nwith = {{ marker = "{marker}" }}\n'
    )
    first = subprocess.Popen(
        [sys.executable, "-m", "erpsync.cli.main", "run", "slow"],
        cwd=site.folder,
        env=site.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(marker.exists, "the plugin is entered")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert site.erpsync("run", "slow").returncode == 0
    newest, oldest = site.runs("slow")
    assert (newest["outcome"], newest["attempts"]) == ("succeeded", 1)
    assert (oldest["outcome"], oldest["attempts"]) == ("succeeded", 2)


def test_an_unfinished_run_follows_its_job_to_a_new_name(site: Site) -> None:
    """A job renamed while its run was cut off goes on with that run, under the new name."""
    marker = site.folder / "marker"
    table = f'plugin = "slow"\nschedule = "manual"\nwith = {{ marker = "{marker}" }}\n'
    site.write(SLOW, "plugins/slow.py")
    site.write(BASE + f"[jobs.old]\n{table}")
    with site.daemon() as daemon:
        assert site.erpsync("trigger", "old").returncode == 0
        eventually(marker.exists, "the plugin is entered")
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    site.write(BASE + f'[jobs.new]\nformerly = ["old"]\n{table}')
    with site.daemon() as daemon:
        eventually(lambda: site.runs("new") and site.runs("new")[0]["state"] == "finished", "the run ends")
        assert site.stop(daemon) == 0
    (run,) = site.runs("new")
    assert (run["outcome"], run["attempts"]) == ("succeeded", 2)


DEAF = """
import asyncio
from pathlib import Path
from erpsync import JobContext, JobResult, Settings, job

class Options(Settings):
    marker: str

@job("deaf")
async def deaf(ctx: JobContext[Options]) -> JobResult:
    Path(ctx.settings.marker).touch()
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
"""


def test_a_deaf_plugin_does_not_keep_the_daemon(site: Site) -> None:
    """An `async def` that swallows cancellation is left behind: the daemon ends, its run is recorded."""
    marker = site.folder / "marker"
    site.write(DEAF, "plugins/deaf.py")
    site.write(
        BASE.replace('drain = "10s"', 'drain = "1s"')
        + f'[jobs.deaf]\nplugin = "deaf"\nschedule = "manual"\nwith = {{ marker = "{marker}" }}\n'
    )
    with site.daemon() as daemon:
        assert site.erpsync("trigger", "deaf").returncode == 0
        eventually(marker.exists, "the plugin is entered")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
    (run,) = site.runs("deaf")
    assert run["state"] == "finished"
