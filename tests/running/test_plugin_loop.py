"""What a plugin does to the loop that it shares ends its own run, and nobody else's."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from erpsync.core.errors import LoopMisusedError
from erpsync.running.plugin_loop import Entered, PluginLoop, enter, keep_process


async def stops() -> None:
    asyncio.get_running_loop().stop()


async def stops_by_a_callback() -> None:
    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
    await asyncio.sleep(0.01)


async def stops_from_a_thread() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(loop.call_soon_threadsafe, loop.stop)
    await asyncio.sleep(0.01)


async def swallows_the_refusal() -> None:
    try:
        asyncio.get_running_loop().stop()
    except Exception:
        await asyncio.sleep(0)


async def cancels_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(3600)


async def cancels_the_others() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)


async def shuts_the_executor() -> None:
    await asyncio.get_running_loop().shutdown_default_executor()


async def replaces_the_executor() -> None:
    with ThreadPoolExecutor() as own:
        asyncio.get_running_loop().set_default_executor(own)


async def leaves() -> None:
    os._exit(3)


async def leaves_from_a_thread() -> None:
    await asyncio.to_thread(os._exit, 3)


async def forks_and_both_leave() -> None:
    if (child := os.fork()) == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7  # noqa: ASYNC222
    os._exit(3)


EXECUTOR = "default_executor"
STOP = r"called stop\(\) of the event loop, which is not its own"
LEAVE = r"called os._exit\(\), which would have ended all others too"
CANCEL = "cancelled a task that is not its own"


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        (stops, STOP),
        (stops_by_a_callback, STOP),
        (stops_from_a_thread, STOP),
        (swallows_the_refusal, STOP),
        (cancels_all, CANCEL),
        (cancels_the_others, CANCEL),
        (leaves, LEAVE),
        (leaves_from_a_thread, LEAVE),
        (forks_and_both_leave, LEAVE),
        (shuts_the_executor, EXECUTOR),
        (replaces_the_executor, EXECUTOR),
    ],
)
def test_no_plugin_ends_the_loop_or_what_others_do_in_it(
    plugin: Callable[[], Awaitable[object]], says: str
) -> None:
    """Its run fails with words for what it did; another run goes on to its end."""

    async def daemon() -> str:
        go_on = asyncio.Event()

        async def other() -> str:
            await go_on.wait()
            return await asyncio.to_thread(str, "done")

        beside = asyncio.create_task(enter(Entered("run-2", "orders"), other))
        await asyncio.sleep(0)
        with pytest.raises(LoopMisusedError, match=says):
            await asyncio.create_task(enter(Entered("run-1", "products"), plugin))
        go_on.set()
        return str(await beside)

    keep_process()
    with asyncio.Runner(loop_factory=PluginLoop) as runner:
        assert runner.run(daemon()) == "done"


def test_a_plugin_may_cancel_what_it_started() -> None:
    """Its own tasks, its time-outs and its task groups are its own affair."""

    async def plugin() -> str:
        task = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(3600))
        with pytest.raises(asyncio.CancelledError):
            await task
        return "done"

    with asyncio.Runner(loop_factory=PluginLoop) as runner:
        assert runner.run(enter(Entered("run-1", "products"), plugin)) == "done"
