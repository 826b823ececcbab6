"""The child that is kept ready, and what it does before its attempt."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erpsync.core.job import Job
from erpsync.core.run import Counts
from erpsync.running.channel import Done
from erpsync.running.rehearsal import rehearse

MakeDesk = Callable[..., Any]
Define = Callable[..., Job]


async def ready_child(at: Any) -> int:
    """The one child that the fork server has while nothing runs."""
    server = at.runner._fork_server._current.pid
    list_of_children = Path(f"/proc/{server}/task/{server}/children")
    await at.until(lambda: len(list_of_children.read_text().split()) == 1)
    return int(list_of_children.read_text())


@pytest.mark.asyncio(loop_scope="module")
async def test_an_attempt_gets_the_child_that_is_ready(
    desk: MakeDesk, define: Define, tmp_path: Path
) -> None:
    """An attempt runs in the child that was forked before anybody asked, and the next one in another."""
    file = tmp_path / "go"
    file.touch()
    at = desk(define("waits-for-file", file=str(file)))
    await at.run("waits-for-file")
    for _ in range(2):
        ready = await ready_child(at)
        await at.run("waits-for-file")
        assert int((tmp_path / "go.pid").read_text()) == ready


@pytest.mark.asyncio(loop_scope="module")
async def test_a_ready_child_that_dies_is_replaced(desk: MakeDesk, define: Define) -> None:
    """Whoever kills the child that is ready harms no run."""
    at = desk(define("counting"))
    await at.run("counting")
    for _ in range(3):
        os.kill(await ready_child(at), signal.SIGKILL)
        assert (await at.run("counting")).outcome == "succeeded"


@pytest.mark.asyncio(loop_scope="module")
async def test_every_child_has_the_same_descriptors(desk: MakeDesk, define: Define) -> None:
    """One that was ready, and those that are forked because it is taken: what a plugin closes is closed for good."""
    names = [f"job-{number}" for number in range(4)]
    at = desk(*(define("descriptors", name=name) for name in names))
    await at.run(names[0])
    await ready_child(at)
    runs = [await at.claim(name) for name in names]
    at.runner.offer(runs)
    told = {(await at.finished(run)).reason for run in runs}
    assert len({len(descriptors.split(",")) for descriptors in told}) == 1, told


def test_a_rehearsal_is_a_whole_attempt_and_leaves_nothing_behind() -> None:
    """It goes from an order to its answer, and leaves no thread and no descriptor."""
    rehearse()  # imports what it needs
    before = (os.listdir("/proc/self/fd"), threading.active_count())
    assert rehearse() == Done(Counts().document(), "rehearsal")
    assert (os.listdir("/proc/self/fd"), threading.active_count()) == before
