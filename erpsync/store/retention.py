"""How long the ledger remembers: old runs are forgotten, never those that somebody may still ask about."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, exists, select

from erpsync.core.run import State, run_id_floor
from erpsync.store import schema
from erpsync.store.history import find_runs

BATCH = 500
"""Runs that one transaction forgets at most, so that no claim waits long behind it."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Finished runs from before an instant (aware UTC) are to be forgotten; those of `spare` are not."""

    before: datetime
    spare: Collection[str] = ()


def forget_runs(connection: Connection, wishes: Sequence[Forget]) -> list[int]:
    """Forget runs, the oldest first, `BATCH` at most; how many they were.

    Of each job the newest run of every outcome stays, so the last success and an open problem are never lost, and
    no special run (a slice of a backfill, a dry one) stands for them; so do runs that a child has not consumed and
    those that a cursor names. Marks and cursors are not touched: what is forgotten does not fire again.
    """
    return [_forget(connection, wish.before, wish.spare) for wish in wishes]


def forgotten(connection: Connection, run_ids: Sequence[str], bound: datetime) -> list[str]:
    """Which of these runs from before an instant the ledger does not have any more."""
    old = [run_id for run_id in run_ids if run_id < run_id_floor(bound)]
    known = find_runs(connection, old)
    return [run_id for run_id in old if run_id not in known]


def _forget(connection: Connection, bound: datetime, spare: Collection[str]) -> int:
    run, newer = schema.run, schema.run.alias("newer")
    stands_for = newer.c.params.is_(None) | run.c.params.is_not(None)
    same = (newer.c.job == run.c.job) & (newer.c.outcome == run.c.outcome) & (newer.c.seq > run.c.seq)
    old = (
        select(run.c.id)
        .where(run.c.id < run_id_floor(bound), run.c.state == State.FINISHED, run.c.finished_at < bound)
        .where(exists().where(same & stands_for), run.c.id.not_in(spare))
        .where(~exists().where(schema.handover.c.run_id == run.c.id))
        .where(~exists().where(schema.cursor.c.run_id == run.c.id))
        .order_by(run.c.id)
        .limit(BATCH)
    )
    return connection.execute(delete(run).where(run.c.id.in_(old))).rowcount
