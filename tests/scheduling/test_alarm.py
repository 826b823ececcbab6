"""The alarm clock on the real clock of the machine."""

import asyncio
from datetime import timedelta

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
