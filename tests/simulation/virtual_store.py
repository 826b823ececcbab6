"""The real store, its writer in the event loop: it takes its time there, and may die before or after a commit."""

import asyncio
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol
from unittest.mock import patch

from sqlalchemy import Engine, event

from erpsync.store.state import Store
from erpsync.store.state import _engine as store_engine
from erpsync.store.task import Task

Batch = Sequence[tuple[Callable[..., Any], Any]]
"""What transactions were asked to do: operations, each with an item."""


class PowerCutError(BaseException):
    """Nobody may catch it."""


class Watcher(Protocol):
    """Decides over the store's fate, and looks at what it has written."""

    def latency(self) -> float:
        """Seconds until the writer turns to what is queued."""
        ...

    def fails(self) -> bool:
        """Whether the power goes off now: before a commit, or right after one."""
        ...

    def committed(self, batch: Batch) -> None:
        """This was tried, and written unless the state was locked."""
        ...

    def cut(self) -> None:
        """The power went off."""
        ...


class VirtualStore(Store):
    """A state that is there already, opened within a running virtual loop."""

    def __init__(self, path: Path, watcher: Watcher) -> None:
        with patch("erpsync.store.state._engine", _engine):
            super().__init__(path, read_only=False)
        assert self._writers is not None
        self._watcher = watcher
        self._queue = _Queue(self._queued)
        self._batch: list[tuple[Callable[..., Any], Any]] = []
        self._is_dead = False
        self.writer = self._writers.connect()
        event.listen(self.writer, "commit", self._before_commit)

    @property
    def raw(self) -> Any:
        """The writer's own connection, for whoever wants to see what it sees."""
        return self.writer.connection.driver_connection

    def close(self) -> None:
        self._is_dead = True
        self.writer.close()
        super().close()

    def _queued(self, task: Task) -> bool:
        """Have it written soon; False: nobody answers any more."""
        if not self._batch and not self._is_dead:
            asyncio.get_running_loop().call_later(self._watcher.latency(), self._write)
        self._batch.append((task.operation, task.item))
        return not self._is_dead

    def _write(self) -> None:
        """What the writer's thread does, until nothing is queued."""
        if self._is_dead:
            return
        batch, self._batch = self._batch, []
        self._queue.put(None)
        try:
            self._write_queued(self.writer)
            self._watcher.committed(batch)
            if self._watcher.fails():
                raise PowerCutError
        except PowerCutError:
            self._is_dead = True
            self._watcher.cut()

    def _before_commit(self, _connection: object) -> None:
        if self._watcher.fails():
            raise PowerCutError


class _Queue(SimpleQueue[Task | None]):
    """Tells of each task that is put into it."""

    def __init__(self, tell: Callable[[Task], bool]) -> None:
        super().__init__()
        self._tell = tell

    def put(self, item: Task | None, block: bool = True, timeout: float | None = None) -> None:
        if item is None or self._tell(item):
            super().put(item)


@cache
def _engine(path: Path, *, begin: str, read_only: bool) -> Engine:
    """One for all stores at a path, for what SQLAlchemy has compiled; connections do not outlive their store."""
    engine = store_engine(path, begin=begin, read_only=read_only)
    event.listen(engine, "connect", _hurry)
    return engine


def _hurry(connection: Any, _record: object) -> None:
    """What a power cut does to a disk is played, so nobody waits for one; nor for whoever locks the state."""
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA busy_timeout = 0")


def empty_state(folder: Path) -> Path:
    """A state file as the store makes it, to be copied."""
    Store.open(folder / "empty.db").close()
    return folder / "empty.db"
