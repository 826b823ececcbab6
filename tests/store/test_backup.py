"""Copies of the state: whole or not there, looked through, and never mixed with what was before."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from erpsync.cli.exit_code import code_of_error
from erpsync.core.errors import (
    NotAStateError,
    SchemaMismatchError,
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from erpsync.store.backup import back_up, put_back
from erpsync.store.copy import faults
from erpsync.store.history import RunFilter, list_runs
from erpsync.store.installation import Settle, place_of, read_hold, release, settle
from erpsync.store.ledger import insert_runs
from erpsync.store.marks import read_marks
from erpsync.store.schema import REVISION
from erpsync.store.state import Store
from erpsync.store.summary import summarize
from tests.store.test_ledger import new_run

NOW = datetime(2026, 11, 22, 3, 30, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "state.db")
    yield store
    store.close()


def test_a_copy_made_while_runs_are_written_is_a_whole_state(store: Store, tmp_path: Path) -> None:
    """The copy is one sound file of mode 0600 and holds at least what was written before it began."""
    for number in range(50):
        store.write_now(insert_runs, new_run(f"before-{number}"))
    over = threading.Event()

    def go_on() -> None:
        number = 0
        while not over.is_set():
            store.write_now(insert_runs, new_run(f"meanwhile-{number}"))
            number += 1

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        back_up(store.path, tmp_path / "copy.db")
    finally:
        over.set()
        writer.join()
    assert faults(tmp_path / "copy.db") == []
    assert summarize(tmp_path / "copy.db").runs >= 50
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("copy.db")] == ["copy.db"]


def test_a_backup_never_replaces_a_file(store: Store, tmp_path: Path) -> None:
    """What is at the place of the copy stays."""
    (tmp_path / "copy.db").write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        back_up(store.path, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "precious"


@pytest.mark.parametrize("kind", ["wal", "shm", "journal"])
def test_a_backup_is_no_file_that_sqlite_removes(tmp_path: Path, kind: str) -> None:
    """A name that SQLite uses for the state is refused while nobody uses it, too."""
    with closing(Store.open(tmp_path / "erpsync.db")):
        pass
    target = tmp_path / "." / f"erpsync.db-{kind}"
    with pytest.raises(UsageError, match="SQLite uses"):
        back_up(tmp_path / "erpsync.db", target)
    assert not target.exists()


def test_there_must_be_something_to_copy(tmp_path: Path) -> None:
    """Neither a missing state nor a missing copy makes a file."""
    with pytest.raises(StoreUnavailableError, match="no state"):
        back_up(tmp_path / "none.db", tmp_path / "copy.db")
    with pytest.raises(UsageError, match="no file"):
        put_back(tmp_path / "none.db", tmp_path / "state.db", NOW)
    assert list(tmp_path.iterdir()) == []


def _text(path: Path) -> None:
    path.write_text("words, and no database")


def _other(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE theirs (x)")


def _hollow(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        for table in ("alembic_version (version_num)", "run (x)", "mark (x)", "cursor (x)"):
            database.execute(f"CREATE TABLE {table}")


@pytest.mark.parametrize("make", [_text, Path.touch, Path.mkdir, os.mkfifo, _other, _hollow])
def test_what_is_no_state_is_told_by_its_name(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Nobody restores it: 78, the name that was typed, a remedy, and the state stays as it was."""
    Store.open(tmp_path / "state.db").close()
    before = (tmp_path / "state.db").read_bytes()
    make(tmp_path / "theirs")
    with pytest.raises(StoreError) as caught:
        put_back(tmp_path / "theirs", tmp_path / "state.db", NOW)
    assert code_of_error(caught.value) == 78
    assert str(tmp_path / "theirs") in caught.value.message
    assert caught.value.hint
    assert (tmp_path / "state.db").read_bytes() == before


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    """In the place of the state it is refused, not filled with our tables."""
    _other(tmp_path / "state.db")
    for attempt in (Store.open, lambda path: back_up(path, tmp_path / "copy.db")):
        with pytest.raises(NotAStateError, match="is no state of erpsync"):
            attempt(tmp_path / "state.db")
    with closing(sqlite3.connect(tmp_path / "state.db")) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


def test_a_restored_state_is_the_copy_and_held(store: Store, tmp_path: Path) -> None:
    """What came after the copy is in the file that was set aside, its unwritten log of changes included."""
    store.write_now(settle, Settle(place_of(store.path), NOW))
    kept, lost = new_run("kept"), new_run("lost")
    store.write_now(insert_runs, kept)
    back_up(store.path, tmp_path / "copy.db")
    store.write_now(insert_runs, lost)
    store.close()
    aside = put_back(tmp_path / "copy.db", store.path, NOW)
    assert aside is not None
    assert summarize(aside).runs == 2
    restored = Store.open(store.path)
    try:
        assert [run.id for run in restored.read_now(list_runs, RunFilter())] == [kept.id]
        hold = restored.write_now(settle, Settle(place_of(store.path), NOW))
        assert hold is not None
        assert "restored" in hold.reason
        assert restored.write_now(release, None)
        assert restored.write_now(settle, Settle(place_of(store.path), NOW)) is None
    finally:
        restored.close()


def test_a_damaged_state_can_be_replaced(tmp_path: Path) -> None:
    """Restoring is the remedy for damage, and keeps the damaged file for those who want to look at it."""
    good = tmp_path / "good.db"
    Store.open(good).close()
    back_up(good, tmp_path / "copy.db")
    state = tmp_path / "state.db"
    state.write_bytes(b"no database" * 1000)
    state.with_name("state.db-wal").write_bytes(b"stale")
    aside = put_back(tmp_path / "copy.db", state, NOW)
    assert aside is not None
    assert aside.read_bytes().startswith(b"no database")
    assert faults(state) == []
    assert not state.with_name("state.db-wal").exists()


def test_a_full_disk_names_the_copy(store: Store, tmp_path: Path) -> None:
    """What has no room is the copy, not the state; nothing of it stays."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "erpsync-test", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(StoreUnavailableError, match=f"no room for the copy {disk}") as caught:
            back_up(store.path, disk / "copy.db")
        assert caught.value.hint == f"free space for {disk}"
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_another_program_reads_is_not_restored_over(store: Store, tmp_path: Path) -> None:
    """Its log of changes cannot be written back while somebody reads: the state stays, and who restores is told."""
    back_up(store.path, tmp_path / "copy.db")
    store.write_now(insert_runs, new_run())
    store.close()
    with closing(sqlite3.connect(store.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM run").fetchone()
        with closing(sqlite3.connect(store.path)) as writer:
            writer.execute("UPDATE run SET priority = 1")
            writer.commit()
        with pytest.raises(StoreUnavailableError, match="another program uses"):
            put_back(tmp_path / "copy.db", store.path, NOW)
        assert reader.execute("SELECT count(*) FROM run").fetchone() == (1,)
    assert summarize(store.path).runs == 1
    assert not [path for path in tmp_path.iterdir() if "restoring" in path.name or "replaced" in path.name]


@pytest.mark.parametrize("what", ["garbage", "foreign", "newer", "torn"])
def test_what_is_no_good_copy_changes_nothing(store: Store, tmp_path: Path, what: str) -> None:
    """Garbage, another program's database, a newer schema and a torn file are refused; the state stays."""
    store.write_now(insert_runs, new_run())
    store.close()
    copy = tmp_path / "copy.db"
    if what == "garbage":
        copy.write_bytes(os.urandom(20_000))
    elif what == "foreign":
        connection = sqlite3.connect(copy)
        connection.execute("CREATE TABLE notes (text)")
        connection.close()
    else:
        back_up(store.path, copy)
        if what == "newer":
            connection = sqlite3.connect(copy)
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
            connection.commit()
            connection.close()
        else:
            copy.write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])
    before = store.path.read_bytes()
    with pytest.raises(StoreError) as caught:
        put_back(copy, store.path, NOW)
    kinds = {"newer": SchemaMismatchError, "garbage": NotAStateError, "torn": StoreCorruptError}
    assert isinstance(caught.value, kinds.get(what, StoreError))
    assert store.path.read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if "restoring" in path.name or "replaced" in path.name]


def test_an_older_schema_is_copied_before_it_is_upgraded(tmp_path: Path) -> None:
    """Opening an old state leaves a copy with its schema in the name, and the copy still has that schema."""
    state = tmp_path / "state.db"
    make_old(state, "0001")
    Store.open(state).close()
    assert summarize(state).schema == REVISION
    assert summarize(tmp_path / "state.db.schema-0001").schema == "0001"


def test_every_step_of_a_restore_can_be_the_last(tmp_path: Path) -> None:
    """Killed at each system call that names or removes a file, a restore leaves the old state or the new one."""
    old, new = new_run("old"), new_run("new")
    names = set()
    for step in range(1, 40):
        folder = tmp_path / str(step)
        folder.mkdir()
        for name, run in (("state.db", old), ("other.db", new)):
            store = Store.open(folder / name)
            store.write_now(insert_runs, run)
            store.close()
        back_up(folder / "other.db", folder / "copy.db")
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_RESTORE, str(folder), str(step)], capture_output=True, check=False
        )
        store = Store.open(folder / "state.db")
        jobs = [run.job for run in store.read_now(list_runs, RunFilter())]
        held = store.read_now(read_hold)
        store.close()
        assert faults(folder / "state.db") == []
        assert jobs in (["old"], ["new"])
        assert (held is not None) == (jobs == ["new"])
        names.add(jobs[0])
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    else:
        pytest.fail("the restore never came to its end")
    assert names == {"old", "new"}


KILLED_RESTORE = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from erpsync.store import backup

folder, step = Path(sys.argv[1]), int(sys.argv[2])
count = 0

def counted(call):
    def wrapper(*args, **kwargs):
        global count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return wrapper

for name in ("replace", "link", "unlink", "fsync", "open"):
    setattr(os, name, counted(getattr(os, name)))
backup.put_back(folder / "copy.db", folder / "state.db", datetime(2026, 11, 22, tzinfo=UTC))
"""


@pytest.mark.parametrize("step", range(2, 12, 3))
def test_an_upgrade_can_be_killed_at_any_statement(tmp_path: Path, step: int) -> None:
    """The state has the old schema or the new one, whole; the next start goes on, and the copy of before is there."""
    state = tmp_path / "state.db"
    make_old(state, "0002")
    with closing(sqlite3.connect(state)) as connection:
        connection.execute("INSERT INTO mark VALUES ('kept', 'schedule', 1)")
        connection.commit()
    command = [sys.executable, "-c", KILLED_UPGRADE, str(state), str(step)]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert summarize(state).schema == "0002"
    store = Store.open(state)
    assert store.read_now(read_marks).keys() == {"kept"}
    store.close()
    assert summarize(state).schema == REVISION
    assert summarize(tmp_path / "state.db.schema-0002").schema == "0002"


KILLED_UPGRADE = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from erpsync.store.state import Store

left = int(sys.argv[2])

@event.listens_for(Engine, "after_cursor_execute")
def count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

Store.open(Path(sys.argv[1])).close()
"""


def make_old(path: Path, revision: str) -> None:
    """A state as an older erpsync left it."""
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine

    import erpsync.store

    config = Config()
    config.set_main_option("script_location", str(Path(erpsync.store.__file__).parent / "migrations"))
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


@pytest.mark.parametrize("other", [Path.symlink_to, Path.hardlink_to, None])
def test_a_state_is_no_copy_of_itself(
    store: Store, tmp_path: Path, other: Callable[[Path, Path], None] | None
) -> None:
    """Under whatever path: it is refused with words, nothing is held and nothing set aside."""
    store.close()
    path = tmp_path / "link.db" if other else store.path
    if other:
        other(path, store.path)
    with pytest.raises(UsageError, match="is the state itself"):
        put_back(path, store.path, NOW)
    assert summarize(store.path).held_since is None
    assert not list(tmp_path.glob("*.replaced-*"))
