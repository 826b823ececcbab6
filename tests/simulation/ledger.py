"""The ledger as seen from outside: after each commit the rows that it has changed, from the tables themselves."""

from datetime import datetime
from typing import Any, NamedTuple

from tests.simulation.oracle import EPOCH, MICROSECOND

_COLUMNS = (
    "id, job, claim, trigger, state, outcome, reason, waiting_for, instance, parents, priority, attempts, "
    "fire_count, created_at, fire_at, fire_until, finished_at, next_attempt_at"
)
_WATCH = """
CREATE TEMP TABLE changed (seq INTEGER PRIMARY KEY);
CREATE TEMP TABLE deleted (id TEXT PRIMARY KEY);
CREATE TEMP TRIGGER written AFTER INSERT ON main.run BEGIN INSERT OR IGNORE INTO changed VALUES (new.seq); END;
CREATE TEMP TRIGGER moved AFTER UPDATE ON main.run BEGIN INSERT OR IGNORE INTO changed VALUES (new.seq); END;
CREATE TEMP TRIGGER gone AFTER DELETE ON main.run BEGIN INSERT INTO deleted VALUES (old.id); END;
"""
_CHANGED = f"SELECT {_COLUMNS} FROM changed JOIN run USING (seq) ORDER BY seq"
_LIVE = f"SELECT {_COLUMNS} FROM run WHERE state <> 'finished' ORDER BY seq"


class Entry(NamedTuple):
    """A row of the ledger."""

    id: str
    job: str
    claim: str
    trigger: str
    state: str
    outcome: str | None
    reason: str | None
    waiting_for: str | None
    instance: str | None
    parents: str | None
    priority: int
    attempts: int
    fire_count: int
    created_at: datetime
    fire_at: datetime | None
    fire_until: datetime | None
    finished_at: datetime | None
    next_attempt_at: datetime | None


class Ledger:
    """Reads on the connection of the one writer (a sqlite3 connection), between its transactions."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        connection.executescript(_WATCH)

    def changed(self) -> list[Entry]:
        """The rows that were written or changed since this was asked last, the oldest first."""
        rows = self._connection.execute(_CHANGED).fetchall()
        if rows:
            self._connection.execute("DELETE FROM changed")
        return [_entry(row) for row in rows]

    def deleted(self) -> list[str]:
        """The ids of the rows that were deleted since this was asked last."""
        ids = [name for (name,) in self._connection.execute("SELECT id FROM deleted")]
        if ids:
            self._connection.execute("DELETE FROM deleted")
        return ids

    def live(self) -> list[Entry]:
        """The rows that are not finished, the oldest first."""
        return [_entry(row) for row in self._connection.execute(_LIVE)]

    def marks(self) -> dict[str, datetime]:
        return {
            job: instant(until)
            for job, until in self._connection.execute("SELECT job, until FROM mark ORDER BY job")
        }

    def pauses(self) -> dict[str, datetime | None]:
        """Until when each job is paused."""
        rows = self._connection.execute("SELECT job, until FROM pause").fetchall()
        return {job: None if until is None else instant(until) for job, until in rows}

    def knows(self, job: str) -> bool:
        """Whether there are runs or a mark of a job."""
        query = "SELECT 1 FROM run WHERE job = ?1 UNION SELECT 1 FROM mark WHERE job = ?1"
        return self._connection.execute(query, (job,)).fetchone() is not None

    def left(self) -> dict[tuple[str, str], str]:
        """The runs that parents have left for children who have not taken them, by (child, parent)."""
        rows = self._connection.execute("SELECT child, parent, run_id FROM handover")
        return {(child, parent): run_id for child, parent, run_id in rows}


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(*row[:-5], instant(row[-5]), *(None if at is None else instant(at) for at in row[-4:]))


def instant(microseconds: int) -> datetime:
    """As the state holds it."""
    return EPOCH + microseconds * MICROSECOND
