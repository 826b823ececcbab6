"""The alarm clock on the real clock of the machine."""

import asyncio
from datetime import timedelta
from itertools import pairwise

from erpsync.core.clock import SystemClock
from erpsync.core.job import At, Every, Job
from erpsync.scheduling.alarm import AlarmClock
from erpsync.scheduling.timetable import timetable
from tests.scheduling.conftest import until

HOUR, TICK = timedelta(hours=1), timedelta(milliseconds=20)


async def test_an_alarm_rings_at_each_start() -> None:
    """It rings for its job again and again, a past alarm once, and no start twice."""
    now, rung = SystemClock().now(), []
    table = timetable(Job("quick", "quick", "p", schedules=(Every(TICK),)))
    alarms = AlarmClock(lambda job: rung.append((job, SystemClock().now())))
    alarms.set([(table, now - HOUR)])
    alarms.start()
    await until(lambda: len(rung) >= 4)
    alarms.stop()

    assert {job for job, _ in rung} == {"quick"}
    assert len(rung) <= (rung[-1][1] - rung[0][1]) / TICK + 2


async def test_an_alarm_can_be_moved_and_taken_away() -> None:
    """Setting it anew while running counts at once; None is silence."""
    now, rung = SystemClock().now(), asyncio.Queue[str]()
    tables = [timetable(Job(name, name, "p", schedules=(At(now + HOUR),))) for name in ("moved", "gone")]
    alarms = AlarmClock(rung.put_nowait)
    alarms.set((table, now + HOUR) for table in tables)
    alarms.start()
    alarms.set([(tables[0], now + TICK), (tables[1], now + TICK)])
    alarms.set([(tables[1], None)])

    first = await asyncio.wait_for(rung.get(), 10)
    alarms.check()
    await asyncio.sleep(0)
    alarms.stop()

    assert (first, rung.empty()) == ("moved", True)


async def test_alarms_that_are_close_ring_together() -> None:
    """Looks at the clock are 4 ms apart at least, though an alarm is due each fifth of a millisecond."""
    now, loop, looks = SystemClock().now(), asyncio.get_running_loop(), list[float]()
    tables = [timetable(Job(f"job{n}", f"job{n}", "p", schedules=(At(now + HOUR),))) for n in range(100)]
    rung, is_new_turn = 0, True

    def ring(_job: str) -> None:
        nonlocal rung, is_new_turn
        if is_new_turn:
            looks.append(loop.time())
            loop.call_soon(end_turn)
        rung, is_new_turn = rung + 1, False

    def end_turn() -> None:
        nonlocal is_new_turn
        is_new_turn = True

    alarms = AlarmClock(ring)
    alarms.start()
    alarms.set((table, now + TICK + n * TICK / 100) for n, table in enumerate(tables))
    await until(lambda: rung == len(tables))
    alarms.stop()

    assert 1 < len(looks) < len(tables)
    assert min(later - earlier for earlier, later in pairwise(looks)) > 0.0039
