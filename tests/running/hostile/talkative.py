"""Prints, logs and raises, secrets included."""

import os
import sys

from erpsync import JobContext, JobResult, Secret, Settings, job


class Words(Settings):
    """A secret to spill."""

    password: Secret
    fail: bool = False
    before: int = 0  # characters


@job("talkative")
def talkative(ctx: JobContext[Words]) -> JobResult:
    """Spill it everywhere."""
    word = ctx.settings.password.get()
    print(f"printed {word}")
    print(f"{'.' * ctx.settings.before}{word}{'.' * ctx.settings.before * 2}")
    print("to stderr", word, file=sys.stderr)
    os.write(1, b"raw bytes \xff without an end of line")
    ctx.log.info(f"event {word}", field=word, nested={"list": [word]}, odd=object(), number=7)
    if ctx.settings.fail:
        raise ValueError(f"{'.' * ctx.settings.before}it was {word}")
    return ctx.result(f"{'.' * ctx.settings.before}note {word}")


@job("talkative-async")
async def talkative_async(ctx: JobContext[Words]) -> JobResult:
    """The same in the daemon."""
    word = ctx.settings.password.get()
    ctx.log.info(f"event {word}", field=word, nested={"list": [word]}, odd=object(), number=7)
    if ctx.settings.fail:
        raise ValueError(f"it was {word}")
    return ctx.result(f"note {word}")


@job("stages")
def stages(ctx: JobContext[Words]) -> JobResult:
    """Keep it for the next run."""
    ctx.cursor.stage(f"next?token={ctx.settings.password.get()}")
    return ctx.result()


@job("stages-async")
async def stages_async(ctx: JobContext[Words]) -> JobResult:
    """The same in the daemon."""
    ctx.cursor.stage(ctx.settings.password.get())
    return ctx.result()
