"""Wants more and more."""

from erpsync import JobContext, JobResult, job


@job("hungry")
def hungry(ctx: JobContext) -> JobResult:
    """Take 16 MiB at a time."""
    held = []
    while True:
        held.append(bytearray(16 * 2**20))
