"""A plugin that sits in the daemon's event loop and notes how late it wakes."""

import asyncio
import time
from pathlib import Path

from erpsync import JobContext, JobResult, Settings, job


class Where(Settings):
    """`pauses` gets the longest pause in seconds, written each time it grows."""

    pauses: str


@job("loop-probe", repeatable=True)
async def loop_probe(ctx: JobContext[Where]) -> JobResult:
    """Wakes every two milliseconds, for ever."""
    longest = 0.0
    while True:
        due = time.perf_counter() + 0.002
        await asyncio.sleep(0.002)
        late = time.perf_counter() - due
        if late > longest or not Path(ctx.settings.pauses).exists():
            longest = max(longest, late)
            Path(ctx.settings.pauses).write_text(str(longest))
