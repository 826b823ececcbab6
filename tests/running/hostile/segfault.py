"""Crashes the interpreter."""

import ctypes

from erpsync import JobContext, JobResult, job


@job("segfault")
def segfault(ctx: JobContext) -> JobResult:
    """Read address 0."""
    ctypes.string_at(0)
    return ctx.result()
