"""Plugins that block the event loop are named and interrupted; nobody else is."""

import asyncio
import signal
import sys
import threading
import time
from typing import Any

import pytest

from erpsync.core.errors import LoopBlockedError
from erpsync.running.loop_watch import LoopWatch
from erpsync.running.plugin_loop import SOMEBODY, Entered, enter

FAR = 60.0


class Ear:
    """Hears events, in whatever thread."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.told = threading.Event()

    def __call__(self, event: str, /, *, level: str = "info", **fields: object) -> None:
        self.heard.append((event, fields))
        self.told.set()


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
async def watch(ear: Ear) -> Any:
    watch = LoopWatch(ear, notice=0.3, limit=0.8)
    watch.start()
    yield watch
    watch.stop()


async def _as_plugin(work: Any) -> Any:
    return await enter(Entered("run-1", "products"), work)


async def test_a_blocking_call_is_named_and_interrupted(watch: LoopWatch, ear: Ear) -> None:
    """A plugin that sleeps without await fails with its own line, and the loop goes on."""

    async def blocks() -> None:
        time.sleep(FAR)  # noqa: ASYNC251 - that is the behaviour

    with pytest.raises(LoopBlockedError, match=r"test_loop_watch\.py:\d+"):
        await asyncio.create_task(_as_plugin(blocks))
    event, fields = ear.heard[0]
    assert event == "loop.blocked"
    assert (fields["run_id"], fields["job"]) == ("run-1", "products")
    assert "test_loop_watch.py" in fields["place"]
    ear.told.clear()
    assert await asyncio.to_thread(ear.told.wait, FAR)
    assert ear.heard[-1][0] == "loop.freed"


async def test_a_computing_plugin_that_swallows_errors_is_interrupted_again(watch: LoopWatch) -> None:
    """An endless loop with `except Exception` ends too, by its second interruption outside of it."""
    caught = 0

    async def computes() -> None:
        nonlocal caught
        while caught < 1:
            try:
                while True:
                    pass
            except Exception:
                caught += 1
        while True:
            pass

    with pytest.raises(LoopBlockedError):
        await asyncio.create_task(_as_plugin(computes))
    assert caught == 1


async def test_a_task_of_the_plugin_counts_as_the_plugin(watch: LoopWatch, ear: Ear) -> None:
    """What a plugin starts in a task group is named by the plugin's run."""

    async def blocks() -> None:
        time.sleep(FAR)  # noqa: ASYNC251 - that is the behaviour

    async def groups() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(blocks())

    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.create_task(_as_plugin(groups))
    assert isinstance(caught.value.exceptions[0], LoopBlockedError)


async def test_what_is_not_a_plugin_is_told_and_not_interrupted(watch: LoopWatch, ear: Ear) -> None:
    """A fault of our own is named by its place, and goes on to its end."""
    await asyncio.to_thread(lambda: None)
    ear.told.clear()
    assert ear.told.wait(FAR)  # the loop stands still here, well beyond the limit
    assert ear.heard[0][1]["run_id"] is None
    assert "test_loop_watch.py" in ear.heard[0][1]["place"] or "threading.py" in ear.heard[0][1]["place"]


@pytest.mark.parametrize("by_a_plugin", [True, False])
async def test_a_block_of_an_idle_loop_is_told_in_time(ear: Ear, by_a_plugin: bool) -> None:
    """Nobody was at work before: a plugin is noticed when it enters, and whoever else by the next look."""
    SOMEBODY.clear()
    watch = LoopWatch(ear, notice=0.3, limit=FAR)
    watch.start()
    await asyncio.to_thread(SOMEBODY.wait, 0.3)  # the watch rests

    async def blocks() -> float:
        begin = time.monotonic()
        assert ear.told.wait(FAR)
        return time.monotonic() - begin

    try:
        passed = await (_as_plugin(blocks) if by_a_plugin else blocks())
    finally:
        watch.stop()
    event, fields = ear.heard[0]
    assert (event, fields["run_id"]) == ("loop.blocked", "run-1" if by_a_plugin else None)
    assert passed < (2.4 if by_a_plugin else 4.5)
    assert passed - fields["blocked_seconds"] < (1.0 if by_a_plugin else 2.5)


async def test_short_plugins_wake_the_watch_twice_a_second_at_most(watch: LoopWatch) -> None:
    """Each that enters an idle loop is a reason to look, but not to look again at once."""

    async def short() -> None:
        return None

    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        await asyncio.create_task(_as_plugin(short))
        await asyncio.sleep(0.005)
    assert 1 <= watch._asked <= 5


async def test_who_comes_after_a_plugin_that_blocked_has_its_own_time(ear: Ear) -> None:
    """A plugin is not interrupted for the time that another one took in the same round of the loop."""
    watch = LoopWatch(ear, notice=0.3, limit=0.8)

    async def is_looked_at_after(seconds: float) -> None:
        watch._blocked = seconds
        watch._look(signal.SIGURG, sys._getframe())

    await _as_plugin(lambda: is_looked_at_after(0.5))

    async def comes_after() -> None:
        await is_looked_at_after(1.0)
        await is_looked_at_after(0.7)
        with pytest.raises(LoopBlockedError):
            await is_looked_at_after(0.9)

    await _as_plugin(comes_after)
