"""Leaves without a word, by several doors."""

import os
import signal

from erpsync import JobContext, JobResult, Settings, job


class Door(Settings):
    """Which one."""

    by: str


@job("exits")
def exits(ctx: JobContext[Door]) -> JobResult:
    """Leave."""
    match ctx.settings.by:
        case "os._exit(0)":
            os._exit(0)
        case "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
    return ctx.result()
