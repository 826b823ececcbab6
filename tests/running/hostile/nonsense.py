"""Returns what is no result."""

from erpsync import JobContext, JobResult, Settings, job
from erpsync.core.run import Counts


class What(Settings):
    """What to return."""

    value: str = ""


def _value(ctx: JobContext[What]) -> object:
    values = {
        "nothing": None,
        "text": "done",
        "odd": JobResult(Counts(read=object()), "x"),
        "huge": JobResult(Counts(read=2**70)),
        "negative": JobResult(Counts(read=-1)),
        "bad note": JobResult(note=5),
    }
    return values[ctx.settings.value]


@job("nonsense")
def nonsense(ctx: JobContext[What]) -> JobResult:
    """In a child."""
    return _value(ctx)


@job("nonsense-async")
async def nonsense_async(ctx: JobContext[What]) -> JobResult:
    """In the daemon."""
    return _value(ctx)


def _complain(ctx: JobContext) -> None:
    name = b"\xe4\xf6\xfc.csv".decode(errors="surrogateescape")
    ctx.log.info(f"reading {name}")
    raise ValueError(f"cannot read {name}")


@job("half-character")
def half_character(ctx: JobContext) -> JobResult:
    """In a child."""
    _complain(ctx)
    return ctx.result()


@job("half-character-async")
async def half_character_async(ctx: JobContext) -> JobResult:
    """In the daemon."""
    _complain(ctx)
    return ctx.result()
