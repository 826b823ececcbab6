"""Things to do later."""

import asyncio
from datetime import timedelta

from erpsync.core.clock import ManualClock
from erpsync.running.alarm import Alarm


async def turn() -> None:
    """Let what is ready in the loop happen."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_calls_come_in_order_of_time() -> None:
    """What is due is called, the earlier first, also when it was set later."""
    clock, rung = ManualClock(), list[str]()
    alarm = Alarm(clock)
    alarm.set("b", 50, lambda: rung.append("b"))
    alarm.set("a", 10, lambda: rung.append("a"))
    await turn()
    clock.advance(timedelta(seconds=10))
    await turn()
    assert rung == ["a"]
    clock.advance(timedelta(seconds=100))
    await turn()
    assert rung == ["a", "b"]
    alarm.close()


async def test_cleared_and_replaced_calls_do_not_come() -> None:
    """A key has one call: a new one replaces it, clear forgets it."""
    clock, rung = ManualClock(), list[str]()
    alarm = Alarm(clock)
    alarm.set("a", 5, lambda: rung.append("old"))
    alarm.set("a", 8, lambda: rung.append("new"))
    alarm.set("b", 5, lambda: rung.append("b"))
    alarm.clear("b")
    await turn()
    for _ in range(2):
        clock.advance(timedelta(seconds=5))
        await turn()
    assert rung == ["new"]
    alarm.close()


async def test_forgotten_calls_take_no_memory() -> None:
    """A hundred thousand time-outs that never come leave nothing behind."""
    alarm = Alarm(ManualClock())
    for number in range(100_000):
        alarm.set(number, 3600, lambda: None)
        alarm.clear(number)
    assert len(alarm._heap) < 200
    alarm.close()


async def test_a_call_that_fails_is_told_and_takes_no_other_with_it() -> None:
    """A fault goes to the loop's handler; what is due with it and after it is called all the same."""
    clock, rung, faults = ManualClock(), list[str](), list[str]()
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: faults.append(str(context["exception"]))
    )
    alarm = Alarm(clock)
    alarm.set("a", 5, lambda: [].pop())
    alarm.set("b", 5, lambda: rung.append("b"))
    alarm.set("c", 9, lambda: rung.append("c"))
    await turn()
    for _ in range(2):
        clock.advance(timedelta(seconds=5))
        await turn()
    assert (rung, faults) == (["b", "c"], ["pop from empty list"])
    alarm.close()
