"""A plugin that does nothing but note how late it was entered, and the recorder that it shares with bare_timer.py."""

import atexit
import os
import time
from array import array
from pathlib import Path

from erpsync import JobContext, JobResult, Settings, job

entered = array("d")
"""Pairs: the time when it was entered (seconds since 1970) and how long after the fire time."""


def record(offset: float, period: float) -> None:
    """Note this moment; fire times are the multiples of `period` moved by `offset`, in seconds since 1970."""
    now = time.time()
    entered.extend((now, (now - offset) % period))


@atexit.register
def write() -> None:
    """Leave the samples where the bench looks for them."""
    if entered:
        Path(os.environ["BENCH_SAMPLES"]).write_bytes(entered.tobytes())


class Options(Settings):
    """Where the job's fire times lie, in seconds."""

    offset: float
    period: float


@job("fire-probe", repeatable=True)
async def fire_probe(ctx: JobContext[Options]) -> JobResult:
    """Records when it was entered."""
    record(ctx.settings.offset, ctx.settings.period)
    return JobResult()
