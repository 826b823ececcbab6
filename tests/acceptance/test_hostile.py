"""Whatever a plugin does, commands end, the daemon goes on and every run has a recorded end."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.site import BASE, Site, eventually

ODD = {
    "surrogate in a message": 'raise ValueError("caf\\udce9.csv")',
    "surrogate in a note": 'return ctx.result("caf\\udce9")',
    "more rows than fit": "ctx.count(read=2**70)",
    "fewer rows than none": "ctx.count(read=-5)",
    "stop the loop": "asyncio.get_running_loop().stop()",
    "cancel everybody": "[task.cancel() for task in asyncio.all_tasks()]; await asyncio.sleep(0)",
    "again before now": "raise Retry(timedelta.min)",
}
PLUGIN = """
import asyncio
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
    with open(os.devnull, "wb") as nowhere:
        first = site.spawn(nowhere, "run", "slow")
    eventually(marker.exists, "the plugin is entered")
    first.kill()
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


FORKING = """
import asyncio, multiprocessing, os, time
from pathlib import Path
from erpsync import JobContext, JobResult, Settings, job

class Options(Settings):
    by: str

@job("forks")
async def forks(ctx: JobContext[Options]) -> JobResult:
    if ctx.settings.by == "multiprocessing":
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
        child.start()
        pid = child.pid
    else:
        pid = os.fork()
    await asyncio.sleep(0)
    return ctx.result(str(pid))
"""
FORKING_JOBS = """
[jobs.fork]
plugin = "forks"
schedule = "manual"
with = { by = "fork" }

[jobs.multiprocessing]
plugin = "forks"
schedule = "manual"
with = { by = "multiprocessing" }
"""


def test_a_copy_of_the_daemon_is_no_daemon(site: Site) -> None:
    """What a plugin forks in the daemon answers nobody, runs nothing and holds no lock when the daemon is killed."""
    site.write(FORKING, "plugins/forking.py")
    site.write(BASE + FORKING_JOBS)
    pids = []
    try:
        with site.daemon() as daemon:
            for job in ("fork", "multiprocessing"):
                assert site.erpsync("run", job).returncode == 0
                pids.append(int(site.runs(job)[0]["reason"]))
            copy, child = (Path(f"/proc/{pid}") for pid in pids)
            eventually(lambda: not copy.exists() or "Z (" in (copy / "status").read_text(), "the copy ends")
            assert child.exists()
            assert [site.json("status")["daemon"]["pid"] for _ in range(3)] == [daemon.pid] * 3
            daemon.kill()
            daemon.wait()
        with site.daemon() as daemon:
            assert child.exists()
            assert site.erpsync("run", "fork").returncode == 0
            assert site.stop(daemon) == 0
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


WANDERING = """
import os
from erpsync import JobContext, JobResult, Settings, job

@job("wanders")
async def wanders(ctx: JobContext[Settings]) -> JobResult:
    os.chdir("/")
    return ctx.result()
"""


def test_the_daemon_finds_its_files_from_wherever_a_plugin_goes(site: Site) -> None:
    """Started beside its configuration, it knows it after a plugin has changed the working directory."""
    site.write(WANDERING, "plugins/wandering.py")
    site.write(BASE + '[jobs.wanders]\nplugin = "wanders"\nschedule = "manual"\n')
    with site.daemon() as daemon:
        for arguments in (["run", "wanders"], ["run", "wanders"], ["reload"]):
            done = site.erpsync(*arguments)
            assert done.returncode == 0, done.stdout + done.stderr
        assert site.stop(daemon) == 0


LEAKING = """
import os
from erpsync import JobContext, JobResult, Settings, job

held = []

@job("leaks")
async def leaks(ctx: JobContext[Settings]) -> JobResult:
    while True:
        held.append(os.open("/dev/null", 0))
"""


def test_leaked_files_leave_the_daemon_answering(site: Site) -> None:
    """A plugin that takes every open file of the daemon is told, where it was silence before."""
    site.write(LEAKING, "plugins/leaking.py")
    site.write(BASE + '[jobs.leaks]\nplugin = "leaks"\nschedule = "manual"\nretry = { attempts = 1 }\n')
    with site.daemon() as daemon:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (256, 320))
        site.erpsync("trigger", "leaks")
        eventually(lambda: "ran out of open files" in site.erpsync("status", "--check").stderr, "it is told")
        (run,) = site.runs("leaks")
        assert (run["outcome"], run["error"]["type"]) == ("failed", "OSError")
        assert site.stop(daemon) == 0
    assert '"files.exhausted"' in site.outputs[-1]


STAYING = """
import asyncio, time
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

@job("thread")
async def thread(ctx: JobContext[Options]) -> JobResult:
    Path(ctx.settings.marker).touch()
    await asyncio.to_thread(time.sleep, 3600)
    return ctx.result()

@job("block")
async def block(ctx: JobContext[Options]) -> JobResult:
    Path(ctx.settings.marker).touch()
    time.sleep(3600)
    return ctx.result()
"""
SHORT = 9.0
"""Seconds; an attempt's grace alone is longer."""


@pytest.mark.parametrize("plugin", ["deaf", "block"])
def test_no_plugin_keeps_the_daemon(site: Site, plugin: str) -> None:
    """What swallows cancellation or blocks the loop is left behind at the second signal, and the state is free."""
    marker = _write_staying(site, plugin)
    with site.daemon() as daemon:
        assert site.erpsync("trigger", plugin).returncode == 0
        eventually(marker.exists, "the plugin is entered")
        for _ in range(2):
            daemon.send_signal(signal.SIGTERM)
            time.sleep(0.2)  # two at once would be one
        assert daemon.wait(SHORT) == 128 + signal.SIGTERM
    with site.daemon() as daemon:
        (run,) = site.runs(plugin)
        assert run["outcome"] == "abandoned"
        assert site.stop(daemon) == 0


def test_no_thread_keeps_the_daemon(site: Site) -> None:
    """What a plugin left in a thread does not hold the process, nor the state, when all has stopped."""
    _write_staying(site, "thread", 'timeout = "1s"')
    with site.daemon() as daemon:
        assert site.erpsync("run", "thread").returncode == 1
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(SHORT) == 0
    assert site.erpsync("run", "thread").returncode == 1


@pytest.mark.parametrize(("plugin", "signals"), [("deaf", 2), ("thread", 1), ("block", 2)])
def test_no_plugin_keeps_a_run_without_daemon(site: Site, plugin: str, signals: int) -> None:
    """The same for `erpsync run` and Ctrl-C."""
    marker = _write_staying(site, plugin)
    command = [sys.executable, "-m", "erpsync.cli.main", "run", plugin]
    with subprocess.Popen(command, cwd=site.folder, env=site.environment, stdout=subprocess.PIPE) as process:
        eventually(marker.exists, "the plugin is entered")
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        assert process.wait(SHORT) == 130
        assert process.stdout is not None
        said = process.stdout.read().decode()
    assert (f"{plugin} cancelled" in said) == (plugin != "block")


def _write_staying(site: Site, plugin: str, keys: str = "") -> Path:
    marker = site.folder / "marker"
    site.write(STAYING, "plugins/staying.py")
    site.write(
        BASE.replace('drain = "10s"', 'drain = "1s"')
        + f'[jobs.{plugin}]\nplugin = "{plugin}"\nschedule = "manual"\nwith = {{ marker = "{marker}" }}\n{keys}\n'
    )
    return marker
