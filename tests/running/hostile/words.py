"""Says what can hardly be said."""

from erpsync import JobContext, JobResult, Settings, job


class Words(Settings):
    """Which."""

    what: str


class Nameless(type):
    """A kind of class that does not tell its name."""

    @property
    def __name__(cls) -> str:
        """No."""
        raise ValueError("no name")


class NamelessError(Exception, metaclass=Nameless):
    """An error of it."""


def _say(ctx: JobContext[Words]) -> JobResult:
    match ctx.settings.what:
        case "long message":
            raise ValueError("x" * 54 * 2**20)
        case "no name":
            raise NamelessError("whose name nobody knows")
        case "deep value":
            value: list[object] = []
            for _ in range(900):
                value = [value]
            ctx.log.info("deep", value=value)
        case "many values":
            ctx.log.info(
                "many",
                value={"ids": list(range(1_000_000)), "names": {str(number): 0 for number in range(9)}},
            )
        case "long cursor":
            ctx.cursor.stage("x" * 65 * 2**20)
    return ctx.result()


@job("words")
def words(ctx: JobContext[Words]) -> JobResult:
    """In a child."""
    return _say(ctx)


@job("words-async")
async def words_async(ctx: JobContext[Words]) -> JobResult:
    """In the daemon."""
    return _say(ctx)
