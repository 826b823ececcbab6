"""Wants more and more."""

import resource

from erpsync import JobContext, JobResult, job


@job("hungry-async")
async def hungry_async(ctx: JobContext) -> JobResult:
    """Raise the limit as far as it goes, then take 128 MiB at once."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    return ctx.result(f"{len(bytearray(128 * 2**20))} bytes")


@job("hungry")
def hungry(ctx: JobContext) -> JobResult:
    """Take 16 MiB at a time."""
    held = []
    while True:
        held.append(bytearray(16 * 2**20))


@job("frugal")
def frugal(ctx: JobContext) -> JobResult:
    """Tell rows with most of the limit in use."""
    held = bytearray(24 * 2**20)
    ctx.count(read=len(held))
    ctx.progress(1, 1)
    return ctx.result()
