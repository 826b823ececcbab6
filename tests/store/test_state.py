"""The store: opening, group commit, durability, failures."""

import asyncio
import os
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from erpsync.core.errors import SchemaMismatchError, StoreCorruptError, StoreUnavailableError
from erpsync.store.owner import OwnerLock, lock_file
from erpsync.store.schema import REVISION, metadata
from erpsync.store.state import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "state.db")
    yield store
    store.close()


def note(connection: Connection, items: list[str]) -> list[int]:
    """An operation that writes a cursor an item and answers how many came together."""
    for item in items:
        if item == "bad":
            raise ValueError("a bad item")
        statement = text("INSERT INTO cursor VALUES (:job, 'v', 'r', 0)")
        connection.execute(statement, {"job": item})
    return [len(items)] * len(items)


def count(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM cursor")).scalar_one())


def test_what_is_queued_together_is_committed_together(store: Store) -> None:
    """Items that wait behind a commit share the next transaction."""
    futures = [store.submit(note, f"job-{number}") for number in range(500)]
    wait(futures)
    assert max(future.result() for future in futures) > 1
    assert store.read_now(count) == 500


def test_a_bad_item_harms_nobody_else(store: Store) -> None:
    """An operation that raises fails its own item only."""
    futures = [store.submit(note, name) for name in ("one", "bad", "two", "three")]
    wait(futures)
    assert [future.exception() is None for future in futures] == [True, False, True, True]
    assert store.read_now(count) == 3


def test_what_was_answered_is_there_after_closing(tmp_path: Path) -> None:
    """A second process finds everything that was committed, in a file only its owner can read."""
    path = tmp_path / "deep" / "state.db"
    first = Store.open(path)
    first.write_now(note, "kept")
    first.close()
    first.close()
    second = Store.open(path, read_only=True)
    assert second.read_now(count) == 1
    second.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_writer_waits_for_the_disk(store: Store) -> None:
    """Its own connection is the one that must be FULL: what it has answered survives a power cut."""

    def pragmas(connection: Connection, names: list[str]) -> list[object]:
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]

    assert [store.write_now(pragmas, name) for name in ("synchronous", "journal_mode")] == [2, "wal"]


def test_a_reader_cannot_write(store: Store) -> None:
    """Queries run on a connection that refuses to change anything."""
    with pytest.raises(StoreUnavailableError):
        store.read_now(note, ["sneaky"])


def test_the_migrations_make_what_the_tables_say(store: Store) -> None:
    """Every table and column of the schema module exists after the migrations."""
    connection = sqlite3.connect(store.path)
    for table in metadata.sorted_tables:
        found = [row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")]
        assert found == [column.name for column in table.columns]
    connection.close()


def test_a_young_state_is_one_without_its_log(tmp_path: Path, store: Store) -> None:
    """Who loses the log of a state that was just made, or upgraded, still has a state."""
    alone = tmp_path / "alone.db"
    shutil.copy(store.path, alone)
    with closing(Store.open(alone, read_only=True)) as copy:
        assert copy.read_now(count) == 0


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database of a later erpsync is left alone."""
    path = tmp_path / "state.db"
    Store.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(SchemaMismatchError, match=f"9999, this erpsync knows {REVISION}"):
        Store.open(path)
    with pytest.raises(SchemaMismatchError):
        Store.open(path, read_only=True)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """Garbage in place of a database is an error that says so."""
    path = tmp_path / "state.db"
    path.write_bytes(b"this is not a database" * 1000)
    with pytest.raises(StoreCorruptError, match="damaged"):
        Store.open(path)


async def test_damage_that_nobody_meets_is_found(store: Store) -> None:
    """Looking at every page finds what no query has read, and the store remembers it; what is sound passes."""
    store.write_now(note, "sound")
    await store.look_through()
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with store.path.open("r+b") as pages:
        pages.seek(-4096, os.SEEK_END)
        pages.write(b"\x17" * 4096)
    assert store.read_now(count) == 1
    assert store.damage is None
    store.write_now(note, "what readers kept of the pages is old now")
    with pytest.raises(StoreCorruptError, match="damaged"):
        await store.look_through()
    assert "store restore" in str(store.damage and store.damage.hint)


@pytest.mark.parametrize("gone", [("-wal",), ("-shm",), ("-wal", "-shm")])
def test_what_is_answered_without_its_log_is_in_the_database(
    tmp_path: Path, store: Store, gone: tuple[str, ...]
) -> None:
    """Where the log is removed under the writer, `kill -9` after an answer loses neither that nor what was before."""
    store.look_again = 0.0
    store.write_now(note, "before")
    assert store.displaced() == []
    for kind in gone:
        os.unlink(f"{store.path}{kind}")
    assert store.displaced() == [Path(f"{store.path}{kind}") for kind in gone]
    for job in ("after", "later"):
        store.write_now(note, job)
    left = tmp_path / "left.db"
    left.write_bytes(store.path.read_bytes())
    assert _cursors(left) == 3
    assert _cursors(store.path) == 3  # who comes meanwhile reads the same
    store.write_now(note, "last")
    store.close()
    assert _cursors(store.path) == 4


def test_a_database_that_is_moved_away_is_whole(tmp_path: Path, store: Store) -> None:
    """It has all that was answered, and its log has nothing that could be read into the one that takes its place."""
    store.look_again = 0.0
    store.write_now(note, "before")
    away = store.path.rename(tmp_path / "away.db")
    assert store.displaced() == [store.path]
    store.write_now(note, "after")
    left = tmp_path / "left.db"
    left.write_bytes(away.read_bytes())
    assert _cursors(left) == 2
    assert Path(f"{store.path}-wal").stat().st_size == 0


def test_what_was_seen_of_the_place_holds_for_a_moment_only(tmp_path: Path, store: Store) -> None:
    """Who writes a thousand times a second does not look so often, and sees it nevertheless."""
    store.require_place()
    store.path.rename(tmp_path / "away.db")
    deadline = time.monotonic() + 10

    def begin_often() -> None:
        while time.monotonic() < deadline:
            store.require_place()

    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        begin_often()


def test_who_is_owner_no_more_begins_nothing(tmp_path: Path) -> None:
    """Without its lock another daemon may take the same state up."""
    path = tmp_path / "state.db"
    lock = OwnerLock(path)
    lock.acquire("daemon")
    with closing(Store.open(path)) as store:
        store.look_again = 0.0
        store.require_place()
        lock_file(path).unlink()
        assert store.displaced() == [lock_file(path)]
        with pytest.raises(StoreUnavailableError, match="its lock was removed"):
            store.require_place()
    lock.release()


def _cursors(path: Path) -> int:
    """How many there are for another process."""
    with closing(sqlite3.connect(path)) as other:
        (found,) = other.execute("SELECT count(*) FROM cursor").fetchone()
    return int(found)


def test_reading_before_any_state_says_what_to_do(tmp_path: Path) -> None:
    """Opening nothing for reading creates nothing and hints at the daemon."""
    with pytest.raises(StoreUnavailableError) as caught:
        Store.open(tmp_path / "none.db", read_only=True)
    assert "daemon" in caught.value.hint
    assert not (tmp_path / "none.db").exists()


async def test_who_gives_up_waiting_harms_nobody(store: Store) -> None:
    """A write whose caller was cancelled is done nevertheless, and its neighbours are answered."""
    given_up = asyncio.create_task(store.write(note, "one"))
    await asyncio.sleep(0)  # it is queued
    given_up.cancel()
    await store.write(note, "two")
    assert store.read_now(count) == 2


def test_an_event_loop_that_has_ended_harms_nobody(store: Store) -> None:
    """The writer goes on where nobody is left to be answered."""
    held = threading.Event()

    def hold(connection: Connection, items: list[str]) -> list[int]:
        held.wait()
        return note(connection, items)

    async def write_and_leave() -> None:
        leaving = asyncio.create_task(store.write(hold, "one"))
        await asyncio.sleep(0)
        leaving.cancel()

    asyncio.run(write_and_leave())
    held.set()
    assert store.write_now(note, "two")
    assert store.read_now(count) == 2


async def test_writes_are_awaited(store: Store) -> None:
    """`write` answers after the commit."""
    assert await store.write(note, "async") == 1
    assert await store.read(count) == 1


@pytest.mark.parametrize("read_only", [False, True])
def test_a_place_that_holds_no_file_is_named(tmp_path: Path, read_only: bool) -> None:
    """A folder where the file should be, and a file where its folder should be, are told with place and remedy."""
    (tmp_path / "data").write_text("a file")
    (tmp_path / "state.db").mkdir()
    for path in (tmp_path / "data" / "state.db", tmp_path / "state.db"):
        with pytest.raises(StoreUnavailableError, match=f"cannot be kept at {path}") as caught:
            Store.open(path, read_only=read_only)
        assert str(path.parent) in caught.value.hint
