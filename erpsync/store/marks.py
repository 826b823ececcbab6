"""Marks: per job, the schedule that was in force and the instant up to which its fire times are claimed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select

from erpsync.store import schema
from erpsync.store.statement import Statement
from erpsync.store.upsert import INSERT

_FORMER = 4  # former schedules that are kept


@dataclass(frozen=True, slots=True)
class Mark:
    """All fire times of `job` up to and including `until` are in the ledger; `schedule` is a fingerprint.

    `former` are the schedules before it and until when each was in force, the newest first: should the clock turn
    out to have been wrong, ranges are counted again by the schedule that made them.
    """

    job: str
    schedule: str
    until: datetime
    former: tuple[tuple[datetime, str], ...] = ()

    def with_schedule(self, schedule: str, now: datetime) -> tuple[tuple[datetime, str], ...]:
        """What is `former` under this schedule, from now on; a corrected clock may show less than it did."""
        known = ((now, self.schedule), *self.former) if schedule != self.schedule else self.former
        return tuple((min(until, now), former) for until, former in known[:_FORMER])

    def schedule_at(self, instant: datetime) -> str:
        """The schedule by which a range was found that ends at an instant."""
        return next((former for until, former in reversed(self.former) if instant <= until), self.schedule)


def read_marks(connection: Connection) -> dict[str, Mark]:
    """The mark of each job that has been seen."""
    return {row.job: _mark(row) for row in connection.execute(select(schema.mark))}


def _mark(row: Any) -> Mark:
    """The column has a line for the schedule, and one for each that was before it."""
    schedule, *lines = row.schedule.split("\n")
    pairs = (line.partition(" ")[::2] for line in lines)
    return Mark(
        row.job, schedule, row.until, tuple((datetime.fromisoformat(at), former) for at, former in pairs)
    )


def write_marks(connection: Connection, marks: Sequence[Mark]) -> list[None]:
    """Set marks, in the transaction that writes the runs they stand for."""
    statement = _SET[connection.dialect.name]
    for mark in marks:
        former = (f"{until.isoformat()} {schedule}" for until, schedule in mark.former)
        lines = "\n".join((mark.schedule, *former))
        statement.run(connection, {"job": mark.job, "schedule": lines, "until": mark.until})
    return [None] * len(marks)


def _set(insert_or: Any) -> Statement:
    parameters: dict[str, Any] = {column.name: bindparam(column.name) for column in schema.mark.columns}
    insert = insert_or(schema.mark).values(parameters)
    changed = {"schedule": insert.excluded.schedule, "until": insert.excluded.until}
    return Statement(insert.on_conflict_do_update(index_elements=["job"], set_=changed))


_SET = {dialect: _set(insert_or) for dialect, insert_or in INSERT.items()}
