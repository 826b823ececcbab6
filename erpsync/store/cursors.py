"""Cursors: where the next incremental read of a job begins; written in the transaction that ends its run."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, select

from erpsync.store import schema
from erpsync.store.history import live_counts
from erpsync.store.rename import known_names
from erpsync.store.upsert import upsert

_CURSOR = schema.cursor.c


@dataclass(frozen=True, slots=True)
class StoredCursor:
    """A job's cursor, the run that left it, and when."""

    value: str
    run_id: str
    updated_at: datetime


def read_cursor(connection: Connection, job: str) -> str | None:
    """The cursor that the job's last success left."""
    return connection.scalar(select(_CURSOR.value).where(_CURSOR.job == job))


def read_cursors(connection: Connection) -> dict[str, str]:
    """The cursors of all jobs that have one."""
    return {row.job: row.value for row in connection.execute(select(_CURSOR.job, _CURSOR.value))}


def stored_cursors(connection: Connection) -> dict[str, StoredCursor]:
    """The cursors of all jobs that have one, with where they come from."""
    rows = connection.execute(select(schema.cursor))
    return {row.job: StoredCursor(row.value, row.run_id, row.updated_at) for row in rows}


def store_cursor(connection: Connection, job: str, cursor: StoredCursor) -> None:
    """Let this be the job's cursor from now on."""
    statement = upsert(connection, schema.cursor, ["job"], StoredCursor.__slots__)
    connection.execute(
        statement, {"job": job, **{name: getattr(cursor, name) for name in StoredCursor.__slots__}}
    )


def reset_cursors(connection: Connection, jobs: Sequence[str]) -> list[bool]:
    """Forget the cursors of jobs; False where a run of the job is not finished, whose end would write it again."""
    live = live_counts(connection)
    for job in jobs:
        if job not in live:
            connection.execute(delete(schema.cursor).where(_CURSOR.job == job))
    return [job not in live for job in jobs]


@dataclass(frozen=True, slots=True)
class History:
    """What the state has of a job: how many runs, and the cursor that its last success left."""

    runs: int
    cursor: str | None


def read_history(connection: Connection) -> dict[str, History]:
    """The history of every name that the state knows, those of jobs that were removed too; some have no runs."""
    query = select(schema.run.c.job, func.count().label("runs")).group_by(schema.run.c.job)
    runs = {row.job: row.runs for row in connection.execute(query)}
    cursors = read_cursors(connection)
    return {job: History(runs.get(job, 0), cursors.get(job)) for job in known_names(connection)}
