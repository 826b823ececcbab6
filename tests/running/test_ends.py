"""Plugins that behave badly: each run ends, and its message says which of these it was.

What is told apart by its message alone stands in tests/acceptance/test_hostile_folder.py.
"""

import asyncio
import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erpsync.core.job import Job
from erpsync.running.channel import BrokenChannelError, ChildEnd, messages_of_child
from erpsync.running.child import ChildReporter, Orders

Desk = Any
MakeDesk = Callable[..., Desk]
Define = Callable[..., Job]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("by", "kind", "message"),
    [
        ("os._exit(0)", "ChildDiedError", "exited with status 0 and without a result"),
        ("SIGKILL", "ChildDiedError", "was killed by SIGKILL"),
    ],
)
async def test_leaving_is_named(desk: MakeDesk, define: Define, by: str, kind: str, message: str) -> None:
    """A plugin that leaves its process without a result fails with the door it took."""
    run = await desk(define("exits", by=by)).run("exits")
    assert (run.outcome, run.error.type) == ("failed", kind)
    assert message in run.error.message


async def test_segfault_is_named_and_traced(desk: MakeDesk, define: Define) -> None:
    """A crash of the interpreter names its signal, and the run's log holds where it was."""
    at = desk(define("segfault"))
    run = await at.run("segfault")
    assert "killed by SIGSEGV" in run.error.message
    assert any("segfault.py" in str(record["event"]) for record in at.log(run))


@pytest.mark.parametrize("plugin", ["nonsense", "nonsense-async"])
@pytest.mark.parametrize("value", ["odd", "huge", "negative", "bad note"])
async def test_odd_results_are_refused(desk: MakeDesk, define: Define, plugin: str, value: str) -> None:
    """A result with counts or a note that are none fails the run instead of breaking channel or ledger."""
    run = await desk(define(plugin, value=value)).run(plugin)
    assert run.outcome == "failed"
    assert "the plugin's result cannot be used" in run.error.message


@pytest.mark.parametrize("plugin", ["half-character", "half-character-async"])
async def test_half_characters_do_no_harm(desk: MakeDesk, define: Define, plugin: str) -> None:
    """An error and a log line with the name of a file that is no text are kept as well as can be."""
    at = desk(define(plugin))
    run = await at.run(plugin)
    assert run.error.message == "cannot read ???.csv"
    assert at.log(run, "reading ???.csv")


@pytest.mark.parametrize(
    ("close", "message"), [(False, "the channel to the child process broke"), (True, "closed it")]
)
async def test_broken_channel(desk: MakeDesk, define: Define, close: bool, message: str) -> None:
    """A plugin that writes to or closes our descriptors is killed and told so."""
    run = await desk(define("channel", close=close)).run("channel")
    assert run.error.type == "ChildDiedError"
    assert message in run.error.message


@pytest.mark.parametrize("gone", [False, True])
async def test_only_the_daemon_s_end_ends_a_child(gone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that the plugin closed before the child listens kills nobody: the daemon tells why it has ended."""
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda _group, number: killed.append(number))
    daemon, child = socket.socketpair()
    end = ChildEnd(child)
    if gone:
        daemon.close()
    else:  # as after a close, but no other thread gets the number
        with Path("/dev/null").open() as file:  # noqa: ASYNC230 - nobody waits
            os.dup2(file.fileno(), child.fileno())
    Orders(end, ChildReporter(end))._listen()
    assert killed == ([signal.SIGKILL] if gone else [])
    daemon.close()
    child.close()


async def test_telling_takes_nothing_of_the_memory_limit(desk: MakeDesk, define: Define) -> None:
    """A plugin that stays within `memory` can count its rows there."""
    run = await desk(define("frugal", options={"memory": 32 * 2**20})).run("frugal")
    assert (run.outcome, run.counts.read) == ("succeeded", 24 * 2**20), run.error


@pytest.mark.parametrize("plugin", ["hungry", "hungry-async"])
async def test_memory_limit(desk: MakeDesk, define: Define, plugin: str) -> None:
    """A plugin that maps more than `memory` fails with the limit it reached, which it cannot raise."""
    run = await desk(define(plugin, options={"memory": 32 * 2**20})).run(plugin)
    assert run.error.message == "the plugin reached the job's memory limit of 32 MiB"


async def test_forking_plugin_counts_once(desk: MakeDesk, define: Define, tmp_path: Path) -> None:
    """A plugin that forks returns once, and what it left behind ends with it."""
    at = desk(define("forks", pids=str(tmp_path / "pids")))
    run = await at.run("forks")
    assert (run.outcome, run.counts.written, run.reason) == ("succeeded", 1, "forked")
    left = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    await at.until(lambda: not any(map(_lives, left)))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("plugin", ["words", "words-async"])
@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("long message", "ValueError", "xxxx"),
        ("no name", "NamelessError", "whose name nobody knows"),
    ],
)
async def test_errors_that_can_hardly_be_said_are_told_all_the_same(
    desk: MakeDesk, define: Define, plugin: str, what: str, kind: str, message: str
) -> None:
    """An error that is too long, or does not tell its name, is the run's error, whatever process it was in."""
    run = await desk(define(plugin, what=what)).run(plugin)
    assert (run.outcome, run.error.type) == ("failed", kind)
    assert run.error.message.startswith(message)


@pytest.mark.parametrize("plugin", ["words", "words-async"])
async def test_a_value_of_a_thousand_levels_is_logged_as_far_as_people_read(
    desk: MakeDesk, define: Define, plugin: str
) -> None:
    """What lies deeper is named by its type, and the run goes on."""
    at = desk(define(plugin, what="deep value"))
    run = await at.run(plugin)
    assert run.outcome == "succeeded"
    (record,) = at.log(run, "deep")
    value, depth = record["value"], 0
    while isinstance(value, list):
        (value,), depth = value, depth + 1
    assert (value, depth) == ("<list>", 20)


@pytest.mark.parametrize("plugin", ["words", "words-async"])
async def test_of_a_million_values_a_thousand_are_logged(desk: MakeDesk, define: Define, plugin: str) -> None:
    """The rest is counted: each is searched for secrets in the daemon's loop, which others share."""
    at = desk(define(plugin, what="many values"))
    run = await at.run(plugin)
    assert run.outcome == "succeeded"
    (record,) = at.log(run, "many")
    assert record["value"] == {"ids": [*range(997), "… (999003 more)"], "names": "<dict>"}


async def test_a_result_that_is_too_long_for_the_channel_says_so(desk: MakeDesk, define: Define) -> None:
    """It is not said to have left by os._exit."""
    run = await desk(define("words", what="long cursor")).run("words")
    assert run.outcome == "failed"
    assert "the plugin's result cannot be used: a message of" in run.error.message


async def test_a_message_of_a_thousand_levels_breaks_the_channel() -> None:
    """What a child sends past our own words is no message, however it fails to be one."""
    reader = asyncio.StreamReader()
    body = b'{"type": "Log", "level": "info", "event": "x", "fields": {"v": %b%b}}' % (
        b"[" * 5000,
        b"]" * 5000,
    )
    reader.feed_data(struct.pack("!I", len(body)) + body)
    with pytest.raises(BrokenChannelError, match="what is no message"):
        await anext(messages_of_child(reader))
