"""Marks: per job, the schedule that was in force and the instant up to which its fire times are claimed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from erpsync.store import schema
from erpsync.store.statement import Statement


@dataclass(frozen=True, slots=True)
class Mark:
    """All fire times of `job` up to and including `until` are in the ledger; `schedule` is a fingerprint."""

    job: str
    schedule: str
    until: datetime


def read_marks(connection: Connection) -> dict[str, Mark]:
    """The mark of each job that has been seen."""
    return {
        row.job: Mark(row.job, row.schedule, row.until) for row in connection.execute(select(schema.mark))
    }


def write_marks(connection: Connection, marks: Sequence[Mark]) -> list[None]:
    """Set marks, in the transaction that writes the runs they stand for."""
    statement = _SET[connection.dialect.name]
    for mark in marks:
        statement.run(connection, {"job": mark.job, "schedule": mark.schedule, "until": mark.until})
    return [None] * len(marks)


def _set(dialect: Any) -> Statement:
    parameters: dict[str, Any] = {column.name: bindparam(column.name) for column in schema.mark.columns}
    insert = dialect.insert(schema.mark).values(parameters)
    changed = {"schedule": insert.excluded.schedule, "until": insert.excluded.until}
    return Statement(insert.on_conflict_do_update(index_elements=["job"], set_=changed))


_SET = {"postgresql": _set(postgresql), "sqlite": _set(sqlite)}
