"""Leaves without a word, by several doors."""

import os
import signal
import sys

from erpsync import JobContext, JobResult, Settings, job


class Door(Settings):
    """Which one."""

    by: str


@job("exits")
def exits(ctx: JobContext[Door]) -> JobResult:
    """Leave."""
    match ctx.settings.by:
        case "os._exit":
            os._exit(3)
        case "os._exit(0)":
            os._exit(0)
        case "SystemExit":
            sys.exit(4)
        case "KeyboardInterrupt":
            raise KeyboardInterrupt
        case "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
    return ctx.result()


@job("exits-async")
async def exits_async(ctx: JobContext[Door]) -> JobResult:
    """The same, inside the daemon."""
    raise SystemExit(4) if ctx.settings.by == "SystemExit" else KeyboardInterrupt
