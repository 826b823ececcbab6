"""Pauses: jobs that fire nothing until somebody resumes them or their time is over."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select

from erpsync.store import schema
from erpsync.store.upsert import upsert


@dataclass(frozen=True, slots=True)
class Pause:
    """`job` starts nothing from `since` on, until `until` (None: until it is resumed)."""

    job: str
    since: datetime
    until: datetime | None = None
    reason: str | None = None
    requested_by: str | None = None

    def holds(self, now: datetime) -> bool:
        """Whether it is in force at `now`."""
        return self.until is None or now < self.until


def read_pauses(connection: Connection) -> dict[str, Pause]:
    """The pause of each paused job, those that are over included."""
    rows = connection.execute(select(schema.pause))
    return {row.job: Pause(row.job, row.since, row.until, row.reason, row.requested_by) for row in rows}


def write_pauses(connection: Connection, pauses: Sequence[Pause]) -> list[None]:
    """Pause jobs; a second pause of a job replaces the first but keeps its beginning."""
    rows = [{name: getattr(pause, name) for name in Pause.__slots__} for pause in pauses]
    if rows:
        statement = upsert(connection, schema.pause, ["job"], ["until", "reason", "requested_by"])
        connection.execute(statement, rows)
    return [None] * len(pauses)


def remove_pauses(connection: Connection, jobs: Sequence[str]) -> list[bool]:
    """Resume jobs; whether each was paused."""
    found = set(connection.scalars(select(schema.pause.c.job).where(schema.pause.c.job.in_(jobs))))
    connection.execute(delete(schema.pause).where(schema.pause.c.job.in_(jobs)))
    return [job in found for job in jobs]
