"""A SQL table as the end of a job: rows and position in one transaction of the target, behind a fence.

`_erpsync_cursor`, a table of the target itself, remembers for each table whose it is, how far it is, and the fence:
a number that grows with each opening. A unit is written only where the fence is still ours, so an attempt that was
given up but still lives can do no harm.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from erpsync.core.clock import Clock
from erpsync.core.errors import LostLeaseError, TargetError
from erpsync.core.run import utc_text
from erpsync.plugins.table import build, evolve, require_keys, upsert_statement, values
from erpsync.plugins.target import Column, Target
from erpsync.store.copy import settle_folder
from erpsync.store.database_fault import RETRYABLE, Meaning, meaning_of

R = TypeVar("R")

BUSY_SECONDS = 30.0
_REMEDIES: Mapping[Meaning, str] = {
    "locked": "does another program write to it?",
    "full": "free space where it lies",
    "away": "the file and its folder must be there, and this user must be allowed to write both",
}

CURSOR = sa.Table(
    "_erpsync_cursor",
    sa.MetaData(),
    sa.Column("table_name", sa.Text, primary_key=True),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("watermark", sa.Text),
    sa.Column("position", sa.Text),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("updated_at", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Written:
    """What a unit did to the table."""

    written: int
    unchanged: int


class SqlSink:
    """The blocking sink. One thread at a time; nothing is kept open between units but the connection.

    `position_lost`: there is a position, and it cannot be read; a plugin tells so and begins anew. `passing` is
    called before a position is written, and must have made durable what its rows leave elsewhere.
    """

    def __init__(
        self,
        target: Target,
        columns: Sequence[Column],
        *,
        key: tuple[str, ...],
        scope: str,
        job: str,
        formerly: tuple[str, ...] = (),
        run_id: str,
        data: Path,
        clock: Clock,
        dry_run: bool = False,
        moves: bool = True,
        passing: Callable[[], object] = lambda: None,
    ) -> None:
        self.watermark: str | None = None
        self.position: dict[str, Any] | None = None
        self.position_lost = False
        self._target = target
        self._columns = tuple(columns)
        self._table = build(target.table, columns, key)
        self._statement = upsert_statement(self._table)
        self._scope = scope
        self._job = job
        self._formerly = formerly
        self._run_id = run_id
        self._data = data
        self._clock = clock
        self._dry_run = dry_run
        self._moves = moves
        self._passing = passing
        self._fence = 0
        self._engine: sa.Engine | None = None
        self._connection: sa.Connection | None = None

    def open(self) -> None:
        """Connect, make the table fit, take the fence, read watermark and position; a former name's table is ours.

        Raises:
            TargetError: the table is another job's or has other columns; retryable where the database is away.
        """
        with target_faults(self._target):
            self._engine = target_engine(self._target, self._data, self._dry_run)
            self._connection = self._engine.connect()
        with self._transaction() as connection:
            self._prepare(connection)

    def upsert(
        self, rows: Sequence[Mapping[str, Any]], *, position: Mapping[str, object] | None = None
    ) -> Written:
        """One unit: the rows, by key, and the position, both or neither.

        Raises:
            LostLeaseError: a younger attempt has the table; nothing was written.
            TargetError: a value does not fit, a row has no key; retryable where the database is locked, full or away.
        """
        parameters = values(self._columns, rows)
        require_keys(self._table, parameters)
        if position is not None and self._moves:
            self._passing()
        with self._transaction() as connection:
            if self._dry_run:
                self._prepare(connection)  # what opening made was rolled back
            self._move(connection, position=None if position is None else _encode(position))
            changed = self._execute(connection, parameters) if parameters else 0
        return Written(changed, len(parameters) - changed)

    def finish(self, watermark: str | None = None) -> None:
        """The end of a whole run: the position is gone and the watermark moves; None leaves the watermark.

        Raises:
            LostLeaseError, TargetError: as `upsert`.
        """
        if not self._dry_run:
            with self._transaction() as connection:
                self._move(connection, position=None, **({"watermark": watermark} if watermark else {}))

    def close(self) -> None:
        """Let go of the database; may be called again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """A transaction of the target, committed at the end of the block; in a dry run rolled back."""
        assert self._connection is not None, "the sink is not open"
        with target_faults(self._target), self._connection.begin() as transaction:
            yield self._connection
            if self._dry_run:
                transaction.rollback()

    def _execute(self, connection: sa.Connection, parameters: list[tuple[object, ...]]) -> int:
        """How many rows the statement changed."""
        try:
            return connection.exec_driver_sql(self._statement, parameters).rowcount
        except OverflowError as error:
            raise TargetError(
                f'column "{self._oversized(parameters)}" of table "{self._table.name}" got an integer that needs'
                " more than 64 bits",
                hint="leave this attribute out of the selection, or have its wrong value corrected",
            ) from error

    def _oversized(self, parameters: list[tuple[object, ...]]) -> str:
        return next(
            column.name
            for row in parameters
            for column, value in zip(self._columns, row, strict=True)
            if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63
        )

    def _prepare(self, connection: sa.Connection) -> None:
        """Make the tables fit and take the fence."""
        CURSOR.create(connection, checkfirst=True)
        mine = CURSOR.c.table_name == self._table.name
        row = connection.execute(sa.select(CURSOR).where(mine)).mappings().one_or_none()
        if row is not None and row["job"] not in (self._job, *self._formerly):
            raise TargetError(
                f'table "{self._table.name}" belongs to job "{row["job"]}"',
                hint="let each job have a table of its own; after a rename, tell the old name with `formerly`",
            )
        incomplete = evolve(connection, self._table)
        keeps = row is not None and not incomplete and row["scope"] == self._scope
        self.watermark = row["watermark"] if row and keeps else None
        kept = row["position"] if row and keeps else None
        self.position = _decode(kept) if kept else None
        self.position_lost = bool(kept) and self.position is None
        self._fence = row["fence"] + 1 if row else 1
        state: dict[str, Any] = {"job": self._job, "fence": self._fence, **self._stamp()}
        if row is None or incomplete or (self._moves and not keeps):
            state |= {"scope": self._scope, "watermark": None, "position": None}
        if row is None:
            connection.execute(CURSOR.insert().values(table_name=self._table.name, **state))
        else:
            connection.execute(CURSOR.update().where(mine).values(**state))

    def _move(self, connection: sa.Connection, **state: str | None) -> None:
        """Change the cursor where the fence is still ours; also the proof that it is."""
        mine = (CURSOR.c.table_name == self._table.name) & (CURSOR.c.fence == self._fence)
        changes = {**(state if self._moves else {}), **self._stamp()}
        if connection.execute(CURSOR.update().where(mine).values(**changes)).rowcount != 1:
            raise LostLeaseError(
                f'table "{self._table.name}" was taken over by a younger attempt; this one writes nothing more',
                hint="do two daemons, or two jobs, write into it?",
            )

    def _stamp(self) -> dict[str, str | None]:
        return {"run_id": self._run_id, "updated_at": utc_text(self._clock.now())}


class AsyncSink:
    """The sink of `async def` plugins: it works in a thread of its own, so pages can be read meanwhile."""

    def __init__(self, sink: SqlSink) -> None:
        self._sink = sink
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sink")

    @property
    def watermark(self) -> str | None:
        """All before it is in the table; None where nothing is known."""
        return self._sink.watermark

    @property
    def position(self) -> dict[str, Any] | None:
        """Where an unfinished run of the same scope stopped."""
        return self._sink.position

    @property
    def position_lost(self) -> bool:
        """Whether there is a position that cannot be read."""
        return self._sink.position_lost

    async def open(self) -> None:
        """As `SqlSink.open`."""
        await self._do(self._sink.open)

    async def upsert(
        self, rows: Sequence[Mapping[str, Any]], *, position: Mapping[str, object] | None = None
    ) -> Written:
        """As `SqlSink.upsert`. A cancelled caller leaves a whole unit or none."""
        return await self._do(partial(self._sink.upsert, rows, position=position))

    async def finish(self, watermark: str | None = None) -> None:
        """As `SqlSink.finish`."""
        await self._do(partial(self._sink.finish, watermark))

    async def close(self) -> None:
        """Wait for a unit under way, then let go."""
        await self._do(self._sink.close)
        self._thread.shutdown()  # idle by now

    async def _do(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class SinkOpening:
    """What `ctx.sink(…)` gives: `async with` opens an AsyncSink, `with` the blocking SqlSink."""

    def __init__(self, sink: SqlSink) -> None:
        self._sink = sink
        self._async: AsyncSink | None = None

    def __enter__(self) -> SqlSink:
        try:
            self._sink.open()
        except BaseException:
            self._sink.close()
            raise
        return self._sink

    def __exit__(self, *_: object) -> None:
        self._sink.close()

    async def __aenter__(self) -> AsyncSink:
        self._async = AsyncSink(self._sink)
        try:
            await self._async.open()
        except BaseException:  # a cancelled opening too leaves no connection behind
            await self._async.close()
            raise
        return self._async

    async def __aexit__(self, *_: object) -> None:
        assert self._async is not None
        await self._async.close()


def target_engine(target: Target, data: Path, dry_run: bool) -> sa.Engine:
    """An engine for one connection whose transactions hold the write lock from their beginning."""
    file = target_file(target, data)
    exists = file.exists()
    if exists and not file.is_file():
        raise TargetError(
            f"{file} is no regular file", hint="move it away, or let the target name another file"
        )
    if not dry_run and not exists:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        settle_folder(file.parent)
    engine = sa.create_engine(
        URL.create("sqlite", database=":memory:" if dry_run and not exists else str(file)),
        poolclass=sa.NullPool,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions begin and end where we say, DDL included
        if not dry_run:
            connection.execute("PRAGMA journal_mode = WAL")
        # A cursor that a plugin stages is durable with the end of its run: the rows behind it must be so before.
        connection.execute("PRAGMA synchronous = FULL")
        # Keys come in no order of ours, so each unit touches a page of the index for almost every row: keep those
        # pages in memory (10 MB), and copy them back from the log (up to 64 MB) once for many units.
        connection.execute("PRAGMA cache_size = -10000")
        connection.execute("PRAGMA wal_autocheckpoint = 16000")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def target_file(target: Target, data: Path) -> Path:
    """The SQLite file of a target; relative ones lie in the data folder."""
    try:
        url = make_url(target.url)
    except sa.exc.ArgumentError as error:
        raise TargetError(f'"{target.url}" is no database URL', hint='like "sqlite:///name.db"') from error
    if not url.database or url.database == ":memory:":
        raise TargetError("the target names no file", hint='like "sqlite:///name.db"')
    file = data / url.database
    if file.resolve() == (data / "erpsync.db").resolve():
        raise TargetError("the target is the state database of erpsync itself", hint="choose another file")
    return file


@contextmanager
def target_faults(target: Target) -> Iterator[None]:
    """The database's errors in our words."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        message = f'table "{target.table}" in {target.url}: {error.orig}'
        meaning = meaning_of(error)
        hint = _REMEDIES.get(meaning, "look at the database with its own tools")
        raise TargetError(message, hint=hint, retryable=meaning in RETRYABLE) from error
    except OSError as error:
        message = f'table "{target.table}" in {target.url}: no file can be made there: {error.strerror}'
        raise TargetError(message, hint="give the target a folder that this user may write") from error


def _encode(position: Mapping[str, object]) -> str:
    return msgspec.json.encode(position).decode()


def _decode(position: str) -> dict[str, Any] | None:
    """None for what we never wrote: somebody's hand did."""
    try:
        return msgspec.json.decode(position, type=dict[str, Any])
    except (ValueError, RecursionError):
        return None
