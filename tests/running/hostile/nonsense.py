"""Returns what is no result."""

from erpsync import JobContext, JobResult, Settings, job
from erpsync.core.run import Counts


class What(Settings):
    """What to return."""

    value: str = ""


def _value(ctx: JobContext[What]) -> object:
    return {"nothing": None, "text": "done", "odd": JobResult(Counts(read=object()), "x")}[ctx.settings.value]


@job("nonsense")
def nonsense(ctx: JobContext[What]) -> JobResult:
    """In a child."""
    return _value(ctx)


@job("nonsense-async")
async def nonsense_async(ctx: JobContext[What]) -> JobResult:
    """In the daemon."""
    return _value(ctx)
