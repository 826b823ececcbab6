"""Inserting rows or changing those that are there, in either dialect."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

INSERT: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
"""The insert that knows conflicts, by the dialect's name."""


def upsert(connection: Connection, table: Table, key: Sequence[str], changed: Sequence[str]) -> Any:
    """An insert of rows that, where the key is there already, sets the columns that may change."""
    insert = INSERT[connection.dialect.name](table)
    values = {name: insert.excluded[name] for name in changed}
    return insert.on_conflict_do_update(index_elements=list(key), set_=values)
