"""What is queued for the writer, and how its answer comes to who waits: in a thread, or in an event loop."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

Operation = Callable[[Connection, Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Task:
    """One item for an operation, and the future of its answer."""

    operation: Operation
    item: Any
    future: "Future[Any] | asyncio.Future[Any]"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a task; `error` where there is no result."""

    task: Task
    result: Any = None
    error: Exception | None = None


def tell(answers: Iterable[Answer]) -> None:
    """Resolve the futures; those of an event loop together, for waking it costs more than a small write."""
    loops: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
    for answer in answers:
        if isinstance(answer.task.future, Future):
            _settle([answer])
        else:
            loops.setdefault(answer.task.future.get_loop(), []).append(answer)
    for loop, mine in loops.items():
        with suppress(RuntimeError):  # it is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, mine)


def _settle(answers: Iterable[Answer]) -> None:
    for answer in answers:
        future = answer.task.future
        if future.cancelled():  # who waited has given up; what was written stays written
            continue
        if answer.error is not None:
            future.set_exception(answer.error)
        else:
            future.set_result(answer.result)
