"""Copies of the state database: made while it is in use, whole or not there, and looked through."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from erpsync.core.errors import (
    NotAStateError,
    SchemaMismatchError,
    StoreCorruptError,
    StoreUnavailableError,
)
from erpsync.store.database_fault import meaning_of
from erpsync.store.place_fault import place_faults
from erpsync.store.schema import REVISION

_TABLES = ("run", "mark", "cursor")


def keep_before_upgrade(state: Path, revision: str) -> Path:
    """A copy beside the state, named by the schema it has; an older copy of that name is replaced."""
    target = state.with_name(f"{state.name}.schema-{revision}")
    copy = target.with_name(target.name + ".partial")
    with place_faults(target), cleared(copy):
        copy_database(state, copy)
        os.replace(copy, target)
        settle_folder(target.parent)
    return target


def faults(state: Path, *, raise_them: bool = False, named: Path | None = None) -> list[str]:
    """What is wrong inside a database file, in SQLite's words; empty where nothing is.

    Errors call it what a person has `named` it.

    Raises:
        StoreCorruptError: it cannot be read at all, or there are faults and `raise_them`.
        SchemaMismatchError: it is of a newer erpsync.
        NotAStateError: it is a database, but no state of ours.
    """
    named = named or state
    with opened(state, named) as connection:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
        found = [] if found == ["ok"] else found
        for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
            found.append(f"row {row} of {table} belongs to no {parent}")
        tables = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master")}
        if not {"alembic_version", *_TABLES} <= tables:
            raise no_state(named)
        (revision,) = connection.execute("SELECT max(version_num) FROM alembic_version").fetchone()
    if revision is None:
        raise no_state(named)
    if str(revision) > REVISION:
        message = f"{named} has schema {revision}, this erpsync knows {REVISION} at most"
        raise SchemaMismatchError(message, hint="run the newer erpsync that wrote it")
    if found and raise_them:
        raise StoreCorruptError(f"{named} is damaged: {found[0]}", hint="take another copy")
    return found


def no_state(path: Path) -> NotAStateError:
    """That a file has another purpose, and what to do."""
    hint = "move it away, or name another one: erpsync store backup makes copies of a state"
    return NotAStateError(f"{path} is no state of erpsync", hint=hint)


def copy_database(source: Path, target: Path) -> None:
    """SQLite's own online copy, written through to the disk."""
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with opened(source) as reading, closing(sqlite3.connect(target)) as writing:
        try:
            reading.backup(writing, pages=1000)
            writing.execute("PRAGMA journal_mode = DELETE")  # one file, without -wal and -shm beside it
        except sqlite3.Error as error:
            if meaning_of(error) != "full":
                raise
            hint = f"free space for {target.parent}"
            raise StoreUnavailableError(f"no room for the copy {target}", hint=hint) from error
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def opened(path: Path, named: Path | None = None) -> Iterator[sqlite3.Connection]:
    """A connection whose errors are ours, about what a person has `named` this file."""
    named = named or path
    try:
        with closing(sqlite3.connect(path, timeout=10)) as connection:
            yield connection
    except sqlite3.Error as error:
        if meaning_of(error) == "damaged":
            raise StoreCorruptError(
                f"{named} is damaged: {error}", hint="erpsync store restore COPY"
            ) from error
        hint = "may this user read it, and is it a database of SQLite?"
        raise StoreUnavailableError(f"{named} cannot be read: {error}", hint=hint) from error


@contextmanager
def cleared(path: Path) -> Iterator[None]:
    """Leave nothing half-made behind."""
    try:
        yield
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def settle_folder(folder: Path) -> None:
    """A new name survives a power cut once its folder is written."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
