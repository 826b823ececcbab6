"""Ignores every polite request to end."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from erpsync import JobContext, JobResult, Settings, job


class Place(Settings):
    """Where to say who is there."""

    pids: Path


@job("stubborn")
def stubborn(ctx: JobContext[Place]) -> JobResult:
    """Ignore SIGTERM, have a grandchild that does, and wait for ever."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleeper = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    grandchild = subprocess.Popen([sys.executable, "-c", sleeper])
    ctx.settings.pids.write_text(f"{os.getpid()} {grandchild.pid}\n")
    ctx.log.info("entered")
    while True:
        signal.pause()


@job("stubborn-async")
async def stubborn_async(ctx: JobContext) -> JobResult:
    """Swallow the first cancellation."""
    ctx.log.info("entered")
    for _ in range(2):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ctx.log.info("ignored")
    return ctx.result()


@job("forks")
def forks(ctx: JobContext[Place]) -> JobResult:
    """Fork, both halves return; two grandchildren stay, one in a session of its own."""
    program = [sys.executable, "-c", "import signal; signal.pause()"]
    left = [subprocess.Popen(program, start_new_session=own) for own in (False, True)]
    ctx.settings.pids.write_text(" ".join(str(process.pid) for process in left))
    os.fork()
    ctx.count(written=1)
    return ctx.result("forked")


@job("stops-its-parent")
def stops_its_parent(ctx: JobContext) -> JobResult:
    """Stop the process that starts and reaps all children."""
    os.kill(os.getppid(), signal.SIGSTOP)
    signal.pause()
    return ctx.result()
