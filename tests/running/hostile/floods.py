"""Says more than anybody reads."""

from erpsync import JobContext, JobResult, Settings, job


class Flood(Settings):
    """How it says it, and how often."""

    by: str
    lines: int


@job("floods")
def floods(ctx: JobContext[Flood]) -> JobResult:
    """Number its lines."""
    for number in range(ctx.settings.lines):
        if ctx.settings.by == "print":
            print(number)
        else:
            ctx.log.info(str(number))
    return ctx.result()
