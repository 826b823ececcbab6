"""The rows of the sandbox in SQLite: tables made from the model, one writer, and API transactions as overlays.

An API transaction keeps the last image of every row it wrote. While one of its requests is answered these
images are laid over the tables within a savepoint that is rolled back afterwards, so it sees its own writes and
nobody else does.
"""
# ruff: noqa: S608 - names in statements come from the model, values are bound

import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from erpsync.sandbox.guid import sort_key
from erpsync.sandbox.model import SETS, EntitySet

Row = dict[str, Any]
Images = dict[tuple[str, str], Row | None]
"""(set, id) -> all columns of the row, or None where it was deleted."""

_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {name: item.columns for name, item in SETS.items()}
_EXACT: Final = ("decimal", "amount", "quantity")
"""Kinds kept as text, so that `12.50` stays `12.50`."""


class Database:
    """All rows. Not safe for several threads at once: whoever uses it holds the instance's lock."""

    def __init__(self, path: str | None = None) -> None:
        """Opens `path`, or a database of its own that goes away with it."""
        self._connection = sqlite3.connect(path or "", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._connection.close)
        self._connection.create_function("fold", 1, _fold, deterministic=True)
        for pragma in ("journal_mode=MEMORY", "synchronous=OFF", "cache_size=-65536", "temp_store=MEMORY"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._images: Images | None = None
        self.is_new = not self.query("SELECT 1 FROM sqlite_master LIMIT 1")
        if self.is_new:
            for entity_set in SETS.values():
                self._create(entity_set)
            for entity_set in SETS.values():
                self._index(entity_set)

    def close(self) -> None:
        """Gives the file back."""
        self._connection.close()

    def copy_to(self, other: "Database") -> None:
        """Makes `other` hold exactly these rows."""
        self._connection.backup(other._connection)

    def _create(self, entity_set: EntitySet) -> None:
        name = entity_set.name
        if entity_set.view:
            self._connection.execute(f'CREATE VIEW "{name}" AS {entity_set.view}')
            return
        columns = [
            f'"{column}" {"TEXT" if item.kind in _EXACT else "BLOB"}'
            for item in entity_set.stored
            for column in item.columns
        ]
        self._connection.execute(
            f'CREATE TABLE "{name}" (sort TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, {", ".join(columns)})'
            " WITHOUT ROWID"
        )

    def _index(self, entity_set: EntitySet) -> None:
        indexed = {(child, reference) for child, reference in entity_set.children.values()}
        if entity_set.code and not entity_set.view:
            indexed.add((entity_set.name, entity_set.code))
        for table, column in indexed:
            self._connection.execute(f'CREATE INDEX "{table}_{column}" ON "{table}" ("{column}")')

    def query(self, sql: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a statement."""
        return self._connection.execute(sql, tuple(parameters)).fetchall()

    def insert_all(self, set_name: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Inserts rows given as tuples in the order of the set's columns; the quick way, for seeds only."""
        marks = ", ".join("?" * len(_COLUMNS[set_name]))
        self._connection.executemany(f'INSERT INTO "{set_name}" VALUES ({marks})', rows)

    def find(self, set_name: str, row_id: str) -> Row | None:
        """All columns of one row."""
        columns = _COLUMNS[set_name]
        names = ", ".join(f'"{column}"' for column in columns)
        found = self.query(f'SELECT {names} FROM "{set_name}" WHERE id = ?', (row_id,))
        return dict(zip(columns, found[0], strict=True)) if found else None

    def find_ids(self, set_name: str, column: str, value: Any, limit: int = -1) -> list[str]:
        """Ids of the rows with `value` in `column`, in page order."""
        sql = f'SELECT id FROM "{set_name}" WHERE "{column}" = ? ORDER BY sort LIMIT ?'
        return [row[0] for row in self.query(sql, (value, limit))]

    def put(self, set_name: str, row: Row) -> None:
        """Writes a whole row, new or not; columns that are not given become NULL."""
        row = {**row, "sort": sort_key(row["id"])}
        values = tuple(row.get(column) for column in _COLUMNS[set_name])
        marks = ", ".join("?" * len(values))
        self._connection.execute(f'INSERT OR REPLACE INTO "{set_name}" VALUES ({marks})', values)
        if self._images is not None:
            self._images[set_name, row["id"]] = row

    def remove(self, set_name: str, row_id: str) -> None:
        """Deletes a row."""
        self._connection.execute(f'DELETE FROM "{set_name}" WHERE id = ?', (row_id,))
        if self._images is not None:
            self._images[set_name, row_id] = None

    @contextmanager
    def unit(self) -> Iterator[None]:
        """All writes inside become visible together, or none of them when an exception leaves it."""
        kept = None if self._images is None else dict(self._images)
        with self._savepoint() as finish:
            try:
                yield
            except BaseException:
                finish("ROLLBACK TO")
                if self._images is not None and kept is not None:
                    self._images.clear()
                    self._images.update(kept)
                raise

    @contextmanager
    def overlay(self, images: Images) -> Iterator[None]:
        """Inside, the rows are seen with `images` over them, and writes go into `images` alone."""
        with self._savepoint() as finish:
            try:
                self.apply(images)
                self._images = images
                yield
            finally:
                self._images = None
                finish("ROLLBACK TO")

    def apply(self, images: Images) -> None:
        """Writes the images of a committed transaction."""
        for (set_name, row_id), row in images.items():
            if row is None:
                self.remove(set_name, row_id)
            else:
                self.put(set_name, row)

    @contextmanager
    def _savepoint(self) -> Iterator[Any]:
        self._connection.execute("SAVEPOINT unit")
        try:
            yield lambda verb: self._connection.execute(f"{verb} unit")
        finally:
            self._connection.execute("RELEASE unit")


def _fold(text: str | None) -> str | None:
    """Case folding of any script; SQLite's own `lower` knows ASCII only."""
    return None if text is None else text.casefold()
