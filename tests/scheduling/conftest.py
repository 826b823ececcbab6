"""A store in a temporary folder, and a recorder of what the engine tells and hands over."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from erpsync.core.event import Level
from erpsync.core.run import Run
from erpsync.store.history import RunFilter, list_runs
from erpsync.store.state import Store


class Witness:
    """Sees the events and the claimed runs of an engine."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.events: list[tuple[str, dict[str, object]]] = []
        self.claimed: list[Run] = []
        self.calls: list[list[Run]] = []

    def emit(self, event: str, /, *, level: Level = "info", **fields: object) -> None:
        self.events.append((event, {"level": level, **fields}))

    def on_claimed(self, runs: Sequence[Run]) -> None:
        self.calls.append([*runs])
        self.claimed += runs

    def told(self, event: str) -> list[dict[str, object]]:
        """The fields of each event of this name."""
        return [fields for name, fields in self.events if name == event]

    def ledger(self) -> list[Run]:
        """All runs, the oldest first."""
        return self.store.read_now(list_runs, RunFilter(limit=100_000))[::-1]


async def until(condition: Callable[[], object], *, seconds: float = 10) -> None:
    """Wait until a condition holds; fail when it does not within `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the ledger has no event to wait for
            await asyncio.sleep(0.002)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "state.db")
    yield store
    store.close()


@pytest.fixture
def witness(store: Store) -> Witness:
    return Witness(store)
