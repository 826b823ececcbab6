"""What a plugin says without end is kept up to a limit, and holds up nobody else."""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erpsync.core.clock import SystemClock
from erpsync.core.job import Job
from erpsync.core.redaction import Redactor
from erpsync.running.reporter import RunReporter
from erpsync.store.run_log import RunLog

MakeDesk = Callable[..., Any]
Define = Callable[..., Job]

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATIENCE = 0.4
"""Seconds; a chunk of short lines that is handled in one turn of the loop takes twice as long."""


async def longest_turn(over: asyncio.Event) -> float:
    """Seconds of the longest turn of the loop until then."""
    loop = asyncio.get_running_loop()
    longest, before = 0.0, loop.time()
    while not over.is_set():
        await asyncio.sleep(0)
        longest, before = max(longest, loop.time() - before), loop.time()
    return longest


@pytest.mark.parametrize("by", ["print", "log"])
async def test_a_flood_of_short_lines_leaves_the_loop_to_others(
    desk: MakeDesk, define: Define, by: str
) -> None:
    """The loop turns while a child says 200 000 lines; the first of them are kept in their order."""
    at, over = desk(define("floods", by=by, lines=200_000)), asyncio.Event()
    watch = asyncio.create_task(longest_turn(over))
    run = await at.run("floods")
    over.set()
    assert run.outcome == "succeeded"
    assert await watch < PATIENCE
    *said, last = [record["event"] for record in at.log(run)]
    assert said == [str(number) for number in range(len(said))]
    assert last == "log.truncated"


class Asked:
    """A value that counts how often it is asked for its text."""

    def __init__(self) -> None:
        self.times = itertools.count()

    def __str__(self) -> str:
        return f"asked {next(self.times)}"


async def test_what_is_thrown_away_is_not_read(tmp_path: Path) -> None:
    """Past the limit of its log a plugin's words cost nothing."""
    asked = Asked()
    reporter = RunReporter("run", RunLog(tmp_path, limit=1000), Redactor(), SystemClock())
    for _ in range(100):
        reporter.log("info", "said", {"value": asked})
    assert next(asked.times) < 20
