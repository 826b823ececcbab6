"""How long the ledger remembers: old runs are forgotten, never those that somebody may still ask about."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, exists, select

from erpsync.core.run import State, run_id_floor
from erpsync.store import schema

BATCH = 500
"""Runs that one transaction forgets at most, so that no claim waits long behind it."""


def forget_runs(connection: Connection, bounds: Sequence[datetime]) -> list[int]:
    """Forget finished runs from before each bound (aware UTC), the oldest first, `BATCH` at most; how many they were.

    Of each job the newest run of every outcome stays, so the last success and an open problem are never lost; so do
    runs that a child has not consumed and those that a cursor names. Marks and cursors are not touched: what is
    forgotten does not fire again.
    """
    return [_forget(connection, bound) for bound in bounds]


def _forget(connection: Connection, bound: datetime) -> int:
    run, newer = schema.run, schema.run.alias("newer")
    same = (newer.c.job == run.c.job) & (newer.c.outcome == run.c.outcome) & (newer.c.seq > run.c.seq)
    old = (
        select(run.c.id)
        .where(run.c.id < run_id_floor(bound), run.c.state == State.FINISHED, run.c.finished_at < bound)
        .where(exists().where(same))
        .where(~exists().where(schema.handover.c.run_id == run.c.id))
        .where(~exists().where(schema.cursor.c.run_id == run.c.id))
        .order_by(run.c.id)
        .limit(BATCH)
    )
    return connection.execute(delete(run).where(run.c.id.in_(old))).rowcount
