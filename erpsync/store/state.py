"""The state database: opening it, one writer thread with group commit, readers beside it.

Whatever is queued while a transaction commits goes into the next one, so durability is paid once for many.
SQLite runs in WAL mode with synchronous=FULL: what `write` returned survives a power cut.
"""

import asyncio
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError

from erpsync.core.errors import (
    ErpsyncError,
    SchemaMismatchError,
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
)
from erpsync.store.copy import keep_before_upgrade, no_state
from erpsync.store.database_fault import DATABASE_FAULTS, RETRYABLE, meaning_of
from erpsync.store.owner import lock_file
from erpsync.store.place_fault import place_faults
from erpsync.store.schema import REVISION
from erpsync.store.task import Answer, Operation, Task, tell

Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
_Identity = tuple[int, int]
_GROUP = 1000  # items in one transaction at most, so that none waits long


class Store:
    """The state of one daemon.

    An *operation* is a module-level function `(connection, items) -> results`, one result an item. All that is
    queued runs in one transaction, grouped by operation, and may run twice (alone, after a neighbour failed), so
    it has no effect outside the database. A *query* is `(connection, *args) -> result`.
    """

    look_again = 0.1
    """Seconds between two looks of a writer at whether the files are in their place: each makes threads wait."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self._lock = lock_file(path)
        self._readers = _engine(path, begin="BEGIN", read_only=True)
        self._writers = None if read_only else _engine(path, begin="BEGIN IMMEDIATE", read_only=False)
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._files: dict[Path, _Identity] = {}
        self._looked_at, self._gone = 0.0, list[Path]()
        self.damage: StoreCorruptError | None = None
        """What was met first that says that the file is damaged: nothing of it can be relied on any more."""

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """Open the database, create it (mode 0600) and bring its schema up to date unless `read_only`.

        Before an upgrade it is copied; see `keep_before_upgrade`.

        Raises:
            StoreUnavailableError: missing (read_only), no place for a file, locked, no room; retryable.
            StoreCorruptError, SchemaMismatchError, NotAStateError: not retryable.
        """
        with place_faults(path):
            _make_place(path, read_only)
        store = cls(path, read_only=read_only)
        try:
            store._prepare()
        except ErpsyncError:
            store.close()
            raise
        except DATABASE_FAULTS as error:
            store.close()
            raise _translated(error, path) from error
        if not read_only:  # whoever only reads lets the log come and go
            files = (path, store._lock, *_logs(path))
            store._files = {file: known for file in files if any(known := _identity(file))}
        return store

    def displaced(self) -> list[Path]:
        """The files that are written to and are not those of that name any more: removed, or replaced by others.

        That of the database itself comes first. What others lack is saved in it before a write is answered, a tenth
        of a second later at most, so that a crash loses nothing.
        """
        return [file for file, known in self._files.items() if _identity(file) != known]

    def _lately_displaced(self) -> list[Path]:
        now = time.monotonic()
        if now - self._looked_at >= self.look_again:
            self._looked_at, self._gone = now, self.displaced()
        return self._gone

    def require_place(self) -> None:
        """To be asked before anything begins: another daemon may begin the same from what is there now.

        Raises:
            StoreUnavailableError: the database, or its owner's lock, was removed or replaced; retryable.
        """
        gone = self._lately_displaced()
        if self.path in gone or self._lock in gone:
            message = f"the state {self.path} or its lock was removed or replaced"
            raise StoreUnavailableError(message, hint="put it back, then start the daemon again")

    def submit(self, operation: Operation, item: Any) -> "Future[Any]":
        """Queue one item; the future is resolved after the commit, or with a StoreError."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # a queued write cannot be taken back
        self._queue.put(Task(operation, item, future))
        return future

    async def write(
        self, operation: Callable[[Connection, Sequence[Item]], Sequence[Result]], item: Item
    ) -> Result:
        """Do one item durably. A cancelled caller may find it done nevertheless."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.put(Task(operation, item, future))
        return await future

    def write_now(
        self, operation: Callable[[Connection, Sequence[Item]], Sequence[Result]], item: Item
    ) -> Result:
        """`write` for callers without an event loop."""
        result: Result = self.submit(operation, item).result()
        return result

    async def read(
        self,
        query: Callable[Concatenate[Connection, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Run a query in a thread."""
        return await asyncio.to_thread(lambda: self.read_now(query, *args, **kwargs))

    def read_now(
        self,
        query: Callable[Concatenate[Connection, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Run a query here and now, on a consistent snapshot."""
        try:
            with self._readers.begin() as connection:
                return query(connection, *args, **kwargs)
        except DATABASE_FAULTS as error:
            raise self._known(error) from error

    async def look_through(self) -> None:
        """Read every page in a thread, for there may be damage that no query meets.

        Raises:
            StoreCorruptError: there is some.
        """
        if fault := await self.read(_first_fault):
            self.damage = self.damage or _damaged(self.path, fault)
            raise self.damage

    def close(self) -> None:
        """Commit what is queued, then close. Closing twice is fine."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        for engine in (self._readers, self._writers):
            if engine is not None:
                engine.dispose()

    def _prepare(self) -> None:
        if self._writers is None:
            with self._readers.begin() as connection:
                _require_revision(connection, _revision(connection))
            return
        with self._writers.begin() as connection:
            found = _revision(connection)
            if found is None and inspect(connection).get_table_names():
                raise no_state(self.path)
        if found is not None and found < REVISION:
            keep_before_upgrade(self.path, found)
        if found != REVISION:
            with self._writers.begin() as connection:
                _upgrade(connection, found)
            with self._writers.connect() as connection:
                _save(connection)  # a young state is known for one of ours without its log, too
        self._thread = threading.Thread(target=self._write_loop, name="erpsync-store", daemon=True)
        self._thread.start()

    def _write_loop(self) -> None:
        assert self._writers is not None
        with self._writers.connect() as connection:  # one for life: a check-out costs more than a small write
            self._write_queued(connection)

    def _write_queued(self, connection: Connection) -> None:
        open_end = True
        while open_end:
            tasks: list[Task] = []
            task = self._queue.get()
            while task is not None:
                tasks.append(task)
                if self._queue.empty() or len(tasks) >= _GROUP:
                    break
                task = self._queue.get()
            open_end = task is not None
            if tasks:
                answers = self._commit(connection, tasks)
                if self._lately_displaced():
                    _save(connection)
                tell(answers)

    def _commit(self, connection: Connection, tasks: list[Task]) -> list[Answer]:
        """One transaction for all; where it fails, one for each, so that a bad item harms nobody else."""
        groups: dict[Operation, list[Task]] = {}
        for task in tasks:
            groups.setdefault(task.operation, []).append(task)
        answers: list[Answer] = []
        try:
            with connection.begin():
                for operation, group in groups.items():
                    results = operation(connection, [task.item for task in group])
                    answers += [Answer(task, result) for task, result in zip(group, results, strict=True)]
        except Exception as error:  # noqa: BLE001 - whatever an operation raises belongs to its caller
            if len(tasks) > 1 and meaning_of(error) not in RETRYABLE:
                return [answer for task in tasks for answer in self._commit(connection, [task])]
            # one alone, or the database itself: locked, full
            return [Answer(task, error=self._known(error)) for task in tasks]
        return answers

    def _known(self, error: Exception) -> Exception:
        """An error in our words where it is one of the database."""
        known = _translated(error, self.path) if isinstance(error, DATABASE_FAULTS) else error
        if isinstance(known, StoreCorruptError) and self.damage is None:
            self.damage = known
        return known


def nothing(_connection: Connection, items: Sequence[None]) -> list[None]:
    """An operation that changes nothing: all before it is safe when it is answered."""
    return [None] * len(items)


def _save(connection: Connection) -> None:
    """Bring what is in the log into the database's own file: nobody finds the log any more after a crash.

    Where something is in the way, the next write tries again.
    """
    with suppress(*DATABASE_FAULTS):
        connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _logs(path: Path) -> list[Path]:
    """The log of changes beside a database, and its index, as SQLite names them."""
    return [path.with_name(f"{path.name}-{kind}") for kind in ("wal", "shm")]


def _identity(path: Path) -> _Identity:
    """The device and the number of a file; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _make_place(path: Path, read_only: bool) -> None:
    """The file and its folder, or, where nothing may be made, the proof that they are there."""
    if not read_only:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        os.close(os.open(path, os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT, 0o600))
    except FileNotFoundError as error:
        hint = "start the daemon: erpsync daemon"
        raise StoreUnavailableError(f"there is no state at {path} yet", hint=hint) from error
    if path.is_dir():  # which can be opened for reading
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _engine(path: Path, *, begin: str, read_only: bool) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": 10, "check_same_thread": False},
        paramstyle="named",  # as all our drivers, see Statement
    )

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            if read_only and pragma.startswith("journal"):
                continue
            connection.execute(f"PRAGMA {pragma}")
        if read_only:
            connection.execute("PRAGMA query_only = ON")

    event.listen(engine, "connect", connected)
    # by the driver, for SQLAlchemy takes a tenth of the writer's time to send these two words
    event.listen(engine, "begin", lambda connection: connection.connection.cursor().execute(begin))
    return engine


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    value = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if value is None else str(value)


def _require_revision(connection: Connection, found: str | None) -> None:
    if found is None:
        raise StoreUnavailableError("the state database is empty", hint="start the daemon: erpsync daemon")
    if found != REVISION:
        raise (
            _newer(found)
            if found > REVISION
            else StoreUnavailableError(
                f"the state database has the older schema {found}",
                hint="the daemon upgrades it when it starts",
            )
        )


def _upgrade(connection: Connection, found: str | None) -> None:
    if found is not None and found > REVISION:
        raise _newer(found)
    from alembic import command  # a quarter of a second, needed once a version
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _newer(found: str) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"the state database has schema {found}, this erpsync knows {REVISION} at most",
        hint="run the newer erpsync that wrote it",
    )


def _first_fault(connection: Connection) -> str:
    found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
    return "" if found == "ok" else found


def _damaged(path: Path, words: str) -> StoreCorruptError:
    message = f"the state database {path} is damaged: {words}"
    return StoreCorruptError(message, hint="erpsync store restore COPY")


def _translated(error: Exception, path: Path) -> StoreError:
    """A database library's error in our words; parameters, which may hold data, stay out."""
    words = str(error.orig if isinstance(error, DBAPIError) else error)
    match meaning_of(error):
        case "damaged":
            return _damaged(path, words)
        case "locked":
            return StoreUnavailableError(
                "the state database is locked", hint="is another program writing to it?"
            )
        case "full":
            return StoreUnavailableError(
                "no room for the state database", hint=f"free space for {path.parent}"
            )
        case "away":
            return StoreUnavailableError(
                f"the state database cannot be used: {words}", hint=f"look at {path}"
            )
        case "other":
            return StoreError(f"the state database refused: {words}")
