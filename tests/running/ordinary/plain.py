"""Plugins that behave."""

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from erpsync import Column, JobContext, JobResult, Settings, Target, job
from erpsync.core import errors


@job("quick")
async def quick(ctx: JobContext) -> JobResult:
    """Nothing at all."""
    return ctx.result()


@job("writes", scope=("update",))
async def writes(ctx: JobContext) -> JobResult:
    """What cannot be done with a token for reading."""
    return ctx.result()


@job("writes-apart", scope=("update",))
def writes_apart(ctx: JobContext) -> JobResult:
    """The same in a child process."""
    return ctx.result()


class Errors(Settings):
    """The error of each attempt by its class's name, empty for none."""

    attempts: list[str]


@job("failing", repeatable=True)
async def failing(ctx: JobContext[Errors]) -> JobResult:
    """Raise what this attempt is to raise."""
    ctx.count(read=ctx.attempt)
    kind = ctx.settings.attempts[min(ctx.attempt, len(ctx.settings.attempts)) - 1]
    if kind:
        raise getattr(errors, kind)("as asked", hint="look there")
    return ctx.result()


class Gate(Settings):
    """How it waits: at checkpoints, or deaf to them."""

    checkpoints: bool = True


@job("gate", repeatable=True)
async def gate(ctx: JobContext[Gate]) -> JobResult:
    """Wait until somebody ends it."""
    ctx.log.info("entered")
    while ctx.settings.checkpoints:
        ctx.checkpoint()
        await asyncio.sleep(0.005)
    await asyncio.Event().wait()
    return ctx.result()


@job("once-gate")
async def once_gate(ctx: JobContext[Gate]) -> JobResult:
    """The same, not repeatable."""
    return await gate.function(ctx)


@job("blocking-gate", repeatable=True)
def blocking_gate(ctx: JobContext[Gate]) -> JobResult:
    """The same, in a child; says how it was ended."""
    ctx.log.info("entered")
    try:
        while True:
            if ctx.settings.checkpoints:
                ctx.checkpoint()
            time.sleep(0.005)
    finally:
        ctx.log.info("unwound")


@job("counting")
def counting(ctx: JobContext) -> JobResult:
    """Count row by row, tell progress, stage a cursor."""
    for number in range(1, 20_001):
        ctx.count(read=1)
        ctx.progress(number, 20_000)
    ctx.cursor.stage(f"after {ctx.cursor.value}")
    return ctx.result(f"attempt {ctx.attempt} of {ctx.job}")


class Tell(Settings):
    """Where to write what is asked for."""

    file: Path


@job("surroundings")
def surroundings(ctx: JobContext[Tell]) -> JobResult:
    """Tell the environment and the open descriptors."""
    lines = [f"{name}={value}" for name, value in os.environ.items()]
    for number in range(64):
        with suppress(OSError):
            lines.append(os.readlink(f"/proc/self/fd/{number}"))
    ctx.settings.file.write_text("\n".join(lines))
    return ctx.result(f"stdin {os.readlink('/proc/self/fd/0')}")


@job("waits-for-file", repeatable=True)
def waits_for_file(ctx: JobContext[Tell]) -> JobResult:
    """Say who is there, then wait for a file to exist."""
    ctx.settings.file.with_suffix(".pid").write_text(str(os.getpid()))
    while not ctx.settings.file.exists():
        time.sleep(0.005)
    ctx.count(written=1)
    return ctx.result()


class Shape(Settings):
    """For settings that do not fit."""

    number: int
    table: Mapping[str, int] = {}


@job("shaped")
def shaped(ctx: JobContext[Shape]) -> JobResult:
    """Never entered with a wrong shape."""
    return ctx.result(str(ctx.settings.number))


@job("writes-row", repeatable=True)
async def writes_row(ctx: JobContext[Tell]) -> JobResult:
    """Write a row into a table."""
    async with ctx.sink(Target(url=f"sqlite:///{ctx.settings.file}", table="rows"), [Column("Id")]) as sink:
        await sink.upsert([{"Id": ctx.run_id}])
    ctx.count(written=1)
    return ctx.result()


@job("descriptors")
def descriptors(ctx: JobContext) -> JobResult:
    """What the process has open."""
    return ctx.result(", ".join(sorted(os.listdir("/proc/self/fd"), key=int)))
