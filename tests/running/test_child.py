"""A plugin in a child process: what it gets, what it may say, how it is ended."""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from erpsync.core.clock import ManualClock
from erpsync.core.job import Job

MakeDesk = Callable[..., Any]
Define = Callable[..., Job]

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECRET = "correct-horse-battery"


def lives(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_counts_progress_and_cursor_arrive(desk: MakeDesk, define: Define) -> None:
    """Rows, progress, note and cursor of a child are those of a task; the next run begins at the cursor."""
    at = desk(define("counting"))
    run = await at.run("counting")
    assert (run.outcome, run.counts.read, run.reason) == ("succeeded", 20_000, "attempt 1 of counting")
    assert (run.cursor_before, run.cursor_after) == (None, "after None")
    assert (await at.run("counting")).cursor_after == "after after None"


async def test_progress_is_seen_while_it_runs(desk: MakeDesk, define: Define) -> None:
    """What a child tells is seen before it ends."""
    at = desk(define("counting"))
    run = await at.offer("counting")
    await at.until(lambda: at.runner.progress(run.id))
    done, total = at.runner.progress(run.id)
    assert (done > 0, total) == (True, 20_000)
    await at.finished(run)
    assert at.runner.progress(run.id) is None


async def test_child_inherits_nothing(
    desk: MakeDesk, define: Define, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child has no secrets in its environment, and no descriptor of the state database."""
    monkeypatch.setenv("ERPSYNC_SECRET_NIGHT", SECRET)
    run = await desk(define("surroundings", file=str(tmp_path / "told"))).run("surroundings")
    told = (tmp_path / "told").read_text()
    assert run.reason == "stdin /dev/null"
    assert SECRET not in told
    assert "erpsync.db" not in told


async def test_what_becomes_a_secret_leaves_the_environment(
    desk: MakeDesk, define: Define, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that a changed configuration makes a secret is in no later child, not even for who looks into its
    process; children of before go on, and are ended where asked."""
    monkeypatch.setenv("LATER_KNOWN", "a-secret-from-now-on")
    monkeypatch.setenv("OF_THE_PLUGIN", "a setting of its own")
    jobs = (define("blocking-gate", checkpoints=False), define("surroundings", file=str(tmp_path / "told")))
    at = desk(*jobs, grace=timedelta(milliseconds=50))  # with a fork server of its own
    before = await at.offer("blocking-gate")
    await at.logged(before, "entered")
    at.redactor.learn("a-secret-from-now-on")
    await at.run("surroundings")
    told = (tmp_path / "told").read_text()
    assert ("a-secret-from-now-on" in told, "OF_THE_PLUGIN=a setting of its own" in told) == (False, True)
    (former,) = at.runner._fork_server._former
    children = Path(f"/proc/{former.pid}/task/{former.pid}/children")
    await at.until(lambda: len(children.read_text().split()) == 1)  # its run's; none is ready any more
    program = at.runner._fork_server._current
    assert b"a-secret" not in Path(f"/proc/{program.pid}/environ").read_bytes()
    await at.runner.cancel(before.id, "alice")
    assert (await at.finished(before)).outcome == "cancelled"
    await at.until(lambda: not at.runner._fork_server._former[0].is_open)


@pytest.mark.parametrize("plugin", ["talkative", "talkative-async"])
@pytest.mark.parametrize("fail", [False, True])
async def test_no_secret_is_kept(
    desk: MakeDesk, define: Define, plugin: str, fail: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """A secret that a plugin prints, logs, raises or returns is in no log, event, ledger or output."""
    at = desk(define(plugin, password={"secret": "db"}, fail=fail))
    run = await at.run(plugin)
    assert run.outcome == ("failed" if fail else "succeeded")
    assert at.log(run, "event [redacted]")[0]["nested"] == {"list": ["[redacted]"]}
    texts = [str(at.events), str(run), "".join(capfd.readouterr())]
    files = [path.read_bytes() for path in at.folder.rglob("*") if path.is_file()]
    assert not any(SECRET in text for text in texts)
    assert not any(SECRET.encode() in data for data in files)
    assert len(files) >= 2
    if fail:
        assert "ValueError" in at.log(run, "attempt.failed")[0]["trace"]


@pytest.mark.parametrize("fail", [False, True])
async def test_no_half_of_a_secret_is_kept(desk: MakeDesk, define: Define, fail: bool) -> None:
    """What is too long is cut after the secrets are out of it, wherever they stood."""
    at = desk(define("talkative", password={"secret": "db"}, fail=fail, before=1985))
    run = await at.run("talkative")
    told = run.error.message if fail else run.reason
    assert (len(told), SECRET[:4] in told) == (2000, False)


async def test_a_line_that_is_too_long_is_parted_beside_the_secret(desk: MakeDesk, define: Define) -> None:
    """Where output of a child is cut into several lines, no secret is cut in two."""
    at = desk(define("talkative", password={"secret": "db"}, before=64 * 1024 - 10))
    run = await at.run("talkative")
    said = "".join(str(record["event"]) for record in at.log(run))
    assert not any(SECRET[start : start + 8] in said for start in range(len(SECRET) - 7))


@pytest.mark.parametrize("plugin", ["stages", "stages-async"])
async def test_no_cursor_is_a_secret(desk: MakeDesk, define: Define, plugin: str) -> None:
    """The state keeps cursors as they are, so a run that stages a secret fails and says why."""
    at = desk(define(plugin, password={"secret": "db"}))
    run = await at.run(plugin)
    assert (run.outcome, run.cursor_after) == ("failed", None)
    assert run.error.message == "the cursor is a secret, and cursors are kept in the state"
    assert not any(SECRET.encode() in path.read_bytes() for path in at.folder.rglob("*") if path.is_file())


async def test_output_becomes_log_lines(desk: MakeDesk, define: Define) -> None:
    """What a child prints on either stream is in the run's log, line by line, whatever bytes it is."""
    at = desk(define("talkative", password={"secret": "db"}))
    run = await at.run("talkative")
    printed = {(record.get("stream"), record["event"]) for record in at.log(run)}
    assert ("stdout", "printed [redacted]") in printed
    assert ("stderr", "to stderr [redacted]") in printed
    assert ("stdout", "raw bytes \ufffd without an end of line") in printed


async def test_time_out_kills_the_whole_group(desk: MakeDesk, define: Define, tmp_path: Path) -> None:
    """A child that ignores everything gets SIGTERM after the grace, then SIGKILL, its own children too."""
    clock = ManualClock()
    pids = tmp_path / "pids"
    at = desk(define("stubborn", pids=str(pids), options={"timeout": timedelta(minutes=5)}), clock=clock)
    run = await at.offer("stubborn")
    await at.logged(run, "entered")
    child, grandchild = map(int, pids.read_text().split())
    clock.advance(timedelta(minutes=5))
    await at.until(lambda: at.runner._live[run.id].is_told_to_end)
    assert lives(child)
    clock.advance(timedelta(seconds=10))
    assert (await at.hear("child.killed"))["signal"] == "SIGTERM"
    clock.advance(timedelta(seconds=5))
    assert (await at.hear("child.killed", 2))["signal"] == "SIGKILL"
    ended = await at.finished(run)
    assert (ended.outcome, ended.error.message) == (
        "timed_out",
        "the attempt took longer than its time-out of 5m; the plugin ignored its cancellation and SIGTERM",
    )
    await at.until(lambda: not lives(child) and not lives(grandchild))


async def test_cancel_stops_at_a_checkpoint(desk: MakeDesk, define: Define) -> None:
    """A cancelled child that has checkpoints needs no signal."""
    at = desk(define("blocking-gate"))
    run = await at.offer("blocking-gate")
    await at.logged(run, "entered")
    assert await at.runner.cancel(run.id, "alice")
    ended = await at.finished(run)
    assert (ended.outcome, ended.reason, ended.error.message) == (
        "cancelled",
        "requested",
        "cancelled by alice",
    )
    assert at.log(run, "unwound")
    assert not at.told("child.killed")


async def test_sigterm_unwinds_the_plugin(desk: MakeDesk, define: Define) -> None:
    """A child without checkpoints is unwound by SIGTERM: its `finally` blocks run."""
    at = desk(define("blocking-gate", checkpoints=False), grace=timedelta(milliseconds=50))
    run = await at.offer("blocking-gate")
    await at.logged(run, "entered")
    await at.runner.cancel(run.id, "alice")
    assert (await at.finished(run)).outcome == "cancelled"
    assert at.log(run, "unwound")
    assert at.told("child.killed")[0]["signal"] == "SIGTERM"


async def test_async_plugin_in_a_child(desk: MakeDesk, define: Define) -> None:
    """An `async def` plugin runs in a child on request, and is cancelled there like a task."""
    at = desk(define("gate", checkpoints=False, options={"isolation": "process"}))
    run = await at.offer("gate")
    await at.logged(run, "entered")
    await at.runner.cancel(run.id, "alice")
    assert (await at.finished(run)).outcome == "cancelled"
    assert not at.told("child.killed")


async def test_death_of_the_fork_server_is_a_loss(desk: MakeDesk, define: Define, tmp_path: Path) -> None:
    """It costs nobody an attempt: what may be repeated begins again, with a new server; the rest is abandoned."""
    pids = tmp_path / "pids"
    at = desk(define("blocking-gate"), define("stubborn", pids=str(pids)))
    again, once = await at.offer("blocking-gate"), await at.offer("stubborn")
    await at.logged(again, "entered")
    await at.logged(once, "entered")
    os.kill(at.runner._fork_server._current.pid, signal.SIGKILL)
    abandoned = await at.finished(once)
    assert abandoned.outcome == "abandoned"
    assert abandoned.error.message == "the fork server died and took the child process with it"
    left = [int(pid) for pid in pids.read_text().split()]
    await at.until(lambda: not any(lives(pid) for pid in left))
    await at.until(lambda: len(at.log(again, "entered")) == 2)
    assert (at.attempts(again), at.ledger(again).losses) == (["lost", None], 1)
    await at.runner.cancel(again.id, "alice")
    assert (await at.finished(again)).attempts == 2


async def test_wrong_settings_never_reach_the_plugin(desk: MakeDesk, define: Define) -> None:
    """Settings that do not fit fail the run with the key and the remedy, and are not tried again."""
    run = await desk(define("shaped", number="many")).run("shaped")
    assert (run.outcome, run.error.type, run.error.hint) == (
        "failed",
        "InvalidSettingsError",
        "erpsync check",
    )
    assert "number must be a whole number" in run.error.message


@pytest.mark.parametrize("isolation", ["task", "process"])
async def test_renamed_job_goes_on_with_its_table(
    desk: MakeDesk, define: Define, tmp_path: Path, isolation: str
) -> None:
    """The sink of a job takes over the table of its former name, in a task as in a child."""
    options = {"isolation": isolation}
    file = str(tmp_path / "rows.db")
    heir = define("writes-row", name="new", options=options | {"formerly": ("old",)}, file=file)
    other = define("writes-row", name="other", options=options, file=file)
    at = desk(define("writes-row", name="old", options=options, file=file), heir, other)
    outcomes = [(await at.run(name)).outcome for name in ("old", "new", "other", "old")]
    assert outcomes == ["succeeded", "succeeded", "failed", "failed"]
