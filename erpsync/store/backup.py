"""Backing the state up and restoring it."""

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from erpsync.core.errors import StoreUnavailableError, UsageError
from erpsync.store.copy import cleared, copy_database, faults, no_state, opened, settle_folder
from erpsync.store.installation import Hold, hold
from erpsync.store.place_fault import place_faults
from erpsync.store.state import Store

_MAGIC = b"SQLite format 3\0"


def back_up(state: Path, target: Path) -> None:
    """A copy of the state in one file (mode 0600) that is whole or not there; whoever writes the state goes on.

    The copy is of no generation: however it comes into the place of the state, it is held.

    Raises:
        UsageError: something is at `target` already.
        StoreUnavailableError: nothing to copy, no room; retryable.
        StoreCorruptError: what was copied is damaged; `target` is not made.
    """
    if not state.exists():
        raise StoreUnavailableError(
            f"there is no state at {state} yet", hint="start the daemon: erpsync daemon"
        )
    if target.exists():
        hint = f"name a file that is not there yet, like {_free(target)}, or remove it"
        raise UsageError(f"{target} exists already", hint=hint)
    if target.parent.resolve() == state.parent.resolve() and target.name in _companions(state.name):
        raise UsageError(f"{target} is a name that SQLite uses for the state", hint="choose another name")
    copy = target.with_name(target.name + ".partial")
    with place_faults(target), cleared(copy):
        copy_database(state, copy)
        faults(copy, raise_them=True, named=state)
        _disown(copy)
        os.link(copy, target)  # fails where somebody was quicker
        settle_folder(target.parent)


def _companions(name: str) -> list[str]:
    """The files beside a database that SQLite takes for its own, and removes."""
    return [f"{name}-{kind}" for kind in ("wal", "shm", "journal")]


def _free(target: Path) -> Path:
    """A name like this that nothing has yet: the first with a number."""
    names = (target.with_name(f"{target.stem}-{number}{target.suffix}") for number in count(2))
    return next(name for name in names if not name.exists())


def _disown(copy: Path) -> None:
    with opened(copy) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(installation)")}
        if "generation" in columns:  # else of an older schema, and so of none
            connection.execute("UPDATE installation SET generation = NULL, generation_before = NULL")
            connection.commit()


def put_back(copy: Path, state: Path, now: datetime) -> Path | None:
    """Make `copy` the state, held until somebody says `resume --all`; where the state of before is kept.

    The caller owns the state. A crash leaves the old state or the new one, never a mixture.

    Raises:
        UsageError: there is no such copy, or it is the state itself.
        StoreUnavailableError: no room, or another program uses the state.
        StoreCorruptError, SchemaMismatchError, NotAStateError: the copy is damaged, of a newer erpsync, or no copy of
            a state; nothing was changed.
    """
    fresh = state.with_name(state.name + ".restoring")
    with place_faults(state), cleared(fresh):
        if not copy.exists():
            raise UsageError(f"there is no file {copy}", hint="name a copy that erpsync store backup made")
        if not (copy.is_file() and _is_database(copy)):
            raise no_state(copy)
        if state.exists() and copy.samefile(state):
            raise UsageError(f"{copy} is the state itself", hint="name a copy that erpsync store backup made")
        state.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        copy_database(copy, fresh)
        faults(fresh, raise_them=True, named=copy)
        _hold(fresh, now)
        kept = _set_aside(state, now)
        os.replace(fresh, state)
        settle_folder(state.parent)
    return kept


def _is_database(file: Path) -> bool:
    """Whether a file begins as all of SQLite's do."""
    with file.open("rb") as opened_file:
        return opened_file.read(len(_MAGIC)) == _MAGIC


def _hold(fresh: Path, now: datetime) -> None:
    """Bring the copy to our schema and hold it, before it is anybody's state."""
    store = Store.open(fresh)
    try:
        store.write_now(hold, Hold(now, "it was restored from a copy"))
    finally:
        store.close()
    with opened(fresh) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


def _set_aside(state: Path, now: datetime) -> Path | None:
    """The state of before under another name. Its log of changes goes first: left behind, it would be read into the
    new state."""
    if not state.exists():
        return None
    aside = state.with_name(f"{state.name}.replaced-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}")
    try:
        with closing(sqlite3.connect(state, timeout=1)) as connection:
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error:
        busy = 0  # damaged: kept as it is
    if busy:
        raise StoreUnavailableError(f"another program uses {state}", hint="end it, then restore again")
    for suffix in ("-wal", "-shm"):
        left = state.with_name(state.name + suffix)
        if left.exists():
            os.replace(left, aside.with_name(aside.name + suffix))
    os.link(state, aside)
    settle_folder(state.parent)
    return aside
