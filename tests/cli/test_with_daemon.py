"""Commands that ask a daemon, and commands on a terminal: as processes, as users have them."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest

from tests.daemon.conftest import eventually
from tests.servers.program import COMMAND, Program, started, typed

SLOW = '''
import asyncio
from erpsync import JobContext, JobResult, Settings, job

@job("slow", repeatable=True)
async def slow(ctx: JobContext[Settings]) -> JobResult:
    """Goes on until a file appears."""
    from pathlib import Path
    ctx.log.info("began")
    while not Path("go").exists():
        ctx.progress(4, 10)
        ctx.checkpoint()
        await asyncio.sleep(0.02)
    ctx.log.info("ended")
    return ctx.result()
'''


@pytest.fixture
def slow(folder: Path) -> Path:
    """The folder with one more job, that waits for a file."""
    (folder / "plugins" / "slow.py").write_text(SLOW)
    with (folder / "erpsync.toml").open("a") as file:
        file.write('[jobs.slow]\nplugin = "slow"\nschedule = "manual"\n')
    return folder


@contextmanager
def begun(*arguments: str) -> Iterator[tuple[Program, TextIO]]:
    """A command at work, and what it says on standard output; killed with the block if it still runs."""
    ours, theirs = os.pipe()
    with open(ours) as said, open(theirs, "wb") as out, tempfile.TemporaryFile() as err:
        process = started(*arguments, folder=Path.cwd(), environment=os.environ, out=out, err=err)
        out.close()
        try:
            yield process, said
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def daemon(slow: Path) -> Iterator[Program]:
    with begun("daemon") as (process, _):
        eventually(lambda: type_("status", "--check").returncode == 0, "the daemon is ready")
        yield process


def type_(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return typed(*arguments, folder=Path.cwd(), environment=os.environ)


def test_run_and_trigger_through_the_daemon(daemon: Program) -> None:
    """`run` follows to the end with the exit code of the outcome; `trigger` returns at once; both name who asked."""
    done = type_("run", "fail", "--format", "json")
    assert (done.returncode, json.loads(done.stdout)["outcome"]) == (1, "failed")
    asked = type_("trigger", "say", "--format", "json")
    assert (asked.returncode, json.loads(asked.stdout)["job"]) == (0, "say")
    waited = type_("trigger", "say", "--wait")
    assert waited.returncode == 0, waited
    assert "say succeeded" in waited.stdout
    runs = json.loads(type_("runs", "--format", "json").stdout)
    assert {run["requested_by"] for run in runs} == {json.loads(asked.stdout)["requested_by"]}


def test_logs_are_followed_to_the_end(daemon: Program, slow: Path) -> None:
    """`logs --follow` shows lines as they come and ends with the run, last words included."""
    run = json.loads(type_("trigger", "slow", "--format", "json").stdout)
    with begun("logs", run["id"], "--follow", "--format", "json") as (logs, said):
        assert json.loads(said.readline())["event"] == "began"
        (slow / "go").touch()
        assert [json.loads(line)["event"] for line in said] == ["ended"]
        assert logs.wait(30) == 0


def test_the_logs_of_a_job_are_followed_run_after_run(daemon: Program, slow: Path) -> None:
    """Of a job `logs --follow` begins with what runs, goes on with the next run, and ends with Ctrl-C."""
    type_("trigger", "slow")
    with (
        begun("logs", "--tag", "words", "--follow") as (none, _),
        begun("logs", "sl*", "-f", "--format", "json") as (logs, said),
    ):
        assert json.loads(said.readline())["event"] == "began"
        (slow / "go").touch()
        assert json.loads(said.readline())["event"] == "ended"
        type_("trigger", "slow", "--wait")
        assert [json.loads(said.readline())["event"] for _ in range(2)] == ["began", "ended"]
        for process in (logs, none):
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130


def test_status_names_what_runs(daemon: Program, slow: Path) -> None:
    """The text has the running run with its progress, what comes next, and the pid."""
    run = json.loads(type_("trigger", "slow", "--format", "json").stdout)
    said = eventually(lambda: "4 of 10" in (out := type_("status").stdout) and out, "the progress is shown")
    assert run["id"] in said
    assert f"pid {daemon.pid}" in said
    assert "\nnext\n" in said
    document = json.loads(type_("status", "--format", "json").stdout)
    assert document["daemon"]["running"][0]["progress"] == {"done": 4, "total": 10}
    (slow / "plugins" / "slow.py").write_text("no plugin any more")
    assert {job["parked"] for job in json.loads(type_("jobs", "--format", "json").stdout)} == {None}, (
        "what the daemon can run counts, not what could be run here"
    )


def test_ctrl_c_ends_the_following_not_the_run(daemon: Program, slow: Path) -> None:
    """Ctrl-C at a run that the daemon has exits 130; the run goes on."""
    with begun("run", "slow") as (run, _):
        eventually(lambda: json.loads(type_("runs", "slow", "--format", "json").stdout), "the run is claimed")
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 130
    (slow / "go").touch()
    found = eventually(
        lambda: [
            each for each in json.loads(type_("runs", "slow", "--format", "json").stdout) if each["outcome"]
        ],
        "the run ends",
    )
    assert found[0]["outcome"] == "succeeded"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_a_run_of_our_own(slow: Path, number: signal.Signals) -> None:
    """Without a daemon the run is cancelled, recorded, and the exit code names the signal."""
    with begun("run", "slow") as (run, _):
        eventually(lambda: list((slow / "data" / "logs").rglob("*.jsonl")), "the run has begun")
        run.send_signal(number)
        assert run.wait(30) == 128 + number
    assert json.loads(type_("runs", "--format", "json").stdout)[0]["outcome"] == "cancelled"


def test_a_terminal_sees_live_progress(slow: Path) -> None:
    """On a terminal a run of more than a second shows how far it is, in place."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen([*COMMAND, "run", "slow"], stdout=follower, stderr=follower, stdin=follower)
    os.close(follower)
    seen = _read_until(leader, b"running 4 of 10")
    (slow / "go").touch()
    seen += _read_until(leader, b"slow succeeded")
    assert process.wait(30) == 0
    os.close(leader)
    assert b"\r\x1b[2K" in seen


def _read_until(terminal: int, words: bytes) -> bytes:
    """What comes from a terminal up to these words; fails where they do not come."""
    seen = b""
    while words not in seen:
        assert select.select([terminal], [], [], 30)[0], seen
        seen += os.read(terminal, 4096)
    return seen


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without rights")
def test_no_right_to_the_socket_is_77(daemon: Program, slow: Path) -> None:
    """A user whom the socket does not let in gets 77 and the remedy."""
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from erpsync.cli.exit_code import code_of_error\n"
        "from erpsync.control.client import ControlClient, ControlRefusedError\n"
        "client = ControlClient(Path('control.sock'))\n"
        "os.setuid(65534)\n"
        "try: client.status()\n"
        "except ControlRefusedError as error: print(error.hint); sys.exit(code_of_error(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=slow / "data", capture_output=True, text=True, check=False
    )
    assert done.returncode == 77, done.stderr
    assert "group" in done.stdout


def test_pause_and_resume_of_jobs(daemon: Program) -> None:
    """A paused job is shown with its reason, refuses to be triggered, and goes on when it is resumed."""
    paused = type_("pause", "sa*", "--until", "2h", "--reason", "audit", "--format", "json")
    (pause,) = json.loads(paused.stdout)
    assert (pause["job"], pause["reason"], paused.returncode) == ("say", "audit", 0)
    jobs = {job["name"]: job for job in json.loads(type_("jobs", "--format", "json").stdout)}
    assert jobs["say"]["paused"]["until"] == pause["until"]
    assert jobs["slow"]["paused"] is None
    assert "audit" in type_("status").stdout
    refused = type_("trigger", "say", "--wait", "--format", "json")
    assert (refused.returncode, json.loads(refused.stdout)["reason"]) == (4, "paused")
    assert "nothing was paused" in type_("resume", "slow").stderr
    assert "say goes on" in type_("resume", "--all").stdout
    assert type_("trigger", "say", "--wait").returncode == 0
    assert json.loads(type_("status", "--format", "json").stdout)["daemon"]["paused"] == []


def test_all_jobs_are_chosen_like_others(daemon: Program) -> None:
    """`pause --all` means every job, and no name beside it."""
    everything = json.loads(type_("pause", "--all", "--format", "json").stdout)
    jobs = json.loads(type_("jobs", "--format", "json").stdout)
    assert [pause["job"] for pause in everything] == [job["name"] for job in jobs]
    assert type_("pause", "--all", "say").returncode == 2
    assert type_("resume", "--all").returncode == 0


def test_a_pause_is_for_all_or_none(daemon: Program) -> None:
    """An unknown job pauses nobody: the daemon is asked for all or none."""
    unknown = type_("pause", "say", "nobody")
    assert unknown.returncode == 2
    assert json.loads(type_("status", "--format", "json").stdout)["daemon"]["paused"] == []


def test_runs_are_cancelled_by_id_and_by_job(daemon: Program) -> None:
    """`cancel` ends what runs, of a job or by id, with who asked and why; what has ended stays as it is."""
    first = json.loads(type_("trigger", "slow", "--format", "json").stdout)
    eventually(lambda: "4 of 10" in type_("status").stdout, "the run has begun")
    done = type_("cancel", "sl*", "--reason", "stock-taking", "--format", "json")
    assert done.returncode == 0, done
    (ended,) = json.loads(done.stdout)
    assert (done.returncode, ended["cancelled"], ended["run"]["outcome"]) == (0, True, "cancelled")
    assert ended["run"]["error"]["message"] == f"cancelled by {first['requested_by']}: stock-taking"
    again = type_("cancel", first["id"][:19])
    assert (again.returncode, "had ended already: cancelled" in again.stdout) == (0, True), again
    assert "nothing is unfinished" in type_("cancel", "--tag", "words").stderr
    assert type_("cancel", "nobody").returncode == 2
    assert type_("cancel").returncode == 2


def test_cancel_needs_a_daemon(folder: Path) -> None:
    """Where no daemon runs there is nobody who could end a run: 69."""
    assert type_("cancel", "say").returncode == 69
