"""Marks: per job, the schedule that was in force and the instant up to which its fire times are claimed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Insert, select
from sqlalchemy.dialects import postgresql, sqlite

from erpsync.store import schema


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
    if marks:
        connection.execute(
            _SET[connection.dialect.name],
            [{"job": mark.job, "schedule": mark.schedule, "until": mark.until} for mark in marks],
        )
    return [None] * len(marks)


def _set(dialect: Any) -> Insert:
    statement = dialect.insert(schema.mark)
    changed = {"schedule": statement.excluded.schedule, "until": statement.excluded.until}
    upsert: Insert = statement.on_conflict_do_update(index_elements=["job"], set_=changed)
    return upsert


_SET = {"postgresql": _set(postgresql), "sqlite": _set(sqlite)}
