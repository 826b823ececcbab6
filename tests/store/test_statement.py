"""Statements that go straight to the driver."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, bindparam, insert, select

from erpsync.core.errors import StoreError
from erpsync.store import schema
from erpsync.store.state import Store
from erpsync.store.statement import Statement

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
_SET = Statement(insert(schema.pause).values(job=bindparam("name"), since=bindparam("at"), reason="holidays"))
_GET = Statement(select(schema.pause).where(schema.pause.c.job == bindparam("name")))


def pause(connection: Connection, names: list[str]) -> list[int]:
    """A store operation."""
    return [_SET.run(connection, {"name": name, "at": NOON}) for name in names]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "state.db")
    yield store
    store.close()


def test_values_go_in_and_come_out_as_the_columns_say(store: Store) -> None:
    """Instants are converted both ways, constants are filled in, rows are named."""
    assert store.write_now(pause, "products") == 1
    assert store.read_now(_GET.rows, {"name": "products"}) == [
        {"job": "products", "until": None, "reason": "holidays", "requested_by": None, "since": NOON}
    ]
    assert store.read_now(_GET.rows, {"name": "orders"}) == []


def test_an_error_of_the_driver_is_told_in_our_words(store: Store) -> None:
    """What the database refuses is a StoreError, and takes nothing of its neighbours along."""
    first, again, other = (store.submit(pause, name) for name in ("products", "products", "orders"))
    assert isinstance(again.exception(), StoreError)
    assert first.result() == other.result() == 1
