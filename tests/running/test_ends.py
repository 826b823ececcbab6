"""Plugins that behave badly: each run ends, and its message says which of these it was.

What is told apart by its message alone stands in tests/acceptance/test_hostile_folder.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erpsync.core.job import Job

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
