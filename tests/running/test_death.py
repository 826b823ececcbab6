"""A daemon that is killed: nothing of it lives on, and the next one ends what it began."""

import asyncio
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from erpsync.core.job import Job

MakeDesk = Callable[..., Any]
Define = Callable[..., Job]
DAEMON = Path(__file__).parent / "daemon.py"

pytestmark = pytest.mark.asyncio(loop_scope="module")


def lives(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def killed_daemon(folder: Path, plugin: str, settings: str, entered: Path) -> list[int]:
    """Start a daemon with one run in a child, kill it with SIGKILL; the pids that the child told before."""
    command = [sys.executable, str(DAEMON), str(folder), plugin, settings]
    daemon = await asyncio.create_subprocess_exec(*command)
    async with asyncio.timeout(20):
        while not entered.exists() or not entered.read_text():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    daemon.kill()
    assert await daemon.wait() == -signal.SIGKILL
    return [int(pid) for pid in entered.read_text().split()]


async def test_no_child_outlives_the_daemon(tmp_path: Path) -> None:
    """After kill -9 of the daemon its children are gone, and what these had started, deaf ones too."""
    pids = await killed_daemon(tmp_path, "stubborn", f'{{"pids": "{tmp_path}/pids"}}', tmp_path / "pids")
    assert len(pids) == 2
    async with asyncio.timeout(20):
        while any(lives(pid) for pid in pids):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.01)


async def test_next_start_ends_what_was_begun(desk: MakeDesk, define: Define, tmp_path: Path) -> None:
    """The run of a killed daemon is lost, begins again and succeeds; the ledger tells both attempts."""
    file = tmp_path / "go"
    await killed_daemon(tmp_path, "waits-for-file", f'{{"file": "{file}"}}', tmp_path / "go.pid")
    file.touch()
    at = desk(define("waits-for-file", file=str(file)), max_runs=2)
    await at.runner.start()
    recovered = await at.hear("run.recovered")
    async with asyncio.timeout(20):
        run = await at.runner.wait(str(recovered["run_id"]))
    assert (run.outcome, run.counts.written, run.losses) == ("succeeded", 1, 1)
    assert at.attempts(run) == ["lost", "succeeded"]


async def test_the_job_s_word_on_repeating_counts(desk: MakeDesk, define: Define, tmp_path: Path) -> None:
    """After kill -9 a job that may not be repeated is abandoned, though its plugin may."""
    file = tmp_path / "go"
    await killed_daemon(tmp_path, "waits-for-file", f'{{"file": "{file}"}}', tmp_path / "go.pid")
    file.touch()
    at = desk(define("waits-for-file", file=str(file), options={"repeatable": False}), max_runs=2)
    await at.runner.start()
    recovered = await at.hear("run.recovered")
    assert recovered["outcome"] == "abandoned"
    run = await at.runner.wait(str(recovered["run_id"]))
    assert (run.outcome, at.attempts(run)) == ("abandoned", ["lost"])


async def test_a_stopped_fork_server_is_replaced(
    desk: MakeDesk, define: Define, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that stops the fork server ends all the same; the next child comes from a new one."""
    monkeypatch.setattr("erpsync.running.fork._PATIENCE", 2.0)
    job = define("stops-its-parent", options={"timeout": timedelta(seconds=1)})
    at = desk(job, define("counting"), grace=timedelta(seconds=0.2))
    await at.run("counting")  # the server has started; within a second it may not
    stopped = await at.run("stops-its-parent")
    assert stopped.outcome == "timed_out"
    assert (await at.hear("attempt.abandoned"))["hint"].startswith("look at the process")
    assert (await at.run("counting")).error.type == "ChildDiedError"
    later = [(await at.run("counting")).outcome for _ in range(4)]  # a new one takes a while to import
    assert "succeeded" in later
