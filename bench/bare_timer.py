"""What fire_time.py compares with: APScheduler alone calling the same recorder, nothing durable. Ends on SIGTERM.

Usage: bare_timer.py JOBS PERIOD
"""

import asyncio
import signal
import sys
import time
from datetime import UTC, datetime

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger
from plugins.fire_probe import record


async def probe(offset: float, period: float) -> None:
    record(offset, period)


async def main(jobs: int, period: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    scheduler = AsyncIOScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None, "max_instances": 10})
    anchor = int(time.time()) // period * period
    for number in range(jobs):
        offset = number * period / jobs
        start = datetime.fromtimestamp(anchor + offset, UTC)
        scheduler.add_job(probe, IntervalTrigger(seconds=period, start_date=start), args=[offset, period])
    scheduler.start()
    await stop.wait()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
