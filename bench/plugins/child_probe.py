"""A `def` plugin, which has a process of its own, that notes how late it was entered."""

import os
import struct
import time

from erpsync import JobContext, JobResult, Settings, job


class Where(Settings):
    """`entered` gets one float a run: seconds since the fire time. Fire times are the multiples of `period`."""

    entered: str
    period: float


@job("child-probe", repeatable=True)
def child_probe(ctx: JobContext[Where]) -> JobResult:
    """Records when it was entered."""
    late = time.time() % ctx.settings.period
    file = os.open(ctx.settings.entered, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, struct.pack("d", late))
    os.close(file)
    return JobResult()
