"""The run ledger: the operations that move runs and attempts.

Scheduling inserts runs, running begins and ends their attempts; both meet only here. Operations run in the
store's writer (see `state.Store`); what the ledger has is asked by `history`, anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    bindparam,
    func,
    insert,
    or_,
    update,
)

from erpsync.core.errors import LostLeaseError
from erpsync.core.run import (
    Attempt,
    AttemptOutcome,
    Counts,
    Outcome,
    Run,
    RunFailure,
    State,
)
from erpsync.store import schema
from erpsync.store.cursors import StoredCursor, store_cursor
from erpsync.store.run_rows import COUNTS, error_values, run_values, to_run
from erpsync.store.statement import Statement
from erpsync.store.upsert import INSERT

_RUN = schema.run.c
_ATTEMPT = schema.attempt.c


# -- what the other rooms ask for -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """Start the next attempt of a run that is pending or waiting, with the plugin, instance and identity that it has
    in `run`: a reload may have given its job others."""

    run: Run
    owner: str
    at: datetime


@dataclass(frozen=True, slots=True)
class End:
    """End attempt `number` of a running run and say where the run goes.

    `state` FINISHED needs `run_outcome`; PENDING or WAITING may have `next_attempt_at`. With `store_cursor` the
    value of `cursor_after` becomes the job's cursor in the same transaction. An attempt that was interrupted or
    lost is not charged. `owner` is whose attempt it is: nobody else's is ended.
    """

    run_id: str
    number: int
    owner: str | None
    at: datetime
    outcome: AttemptOutcome
    state: State
    run_outcome: Outcome | None = None
    reason: str | None = None
    waiting_for: str | None = None
    next_attempt_at: datetime | None = None
    counts: Counts = Counts()
    error: RunFailure | None = None
    cursor_before: str | None = None
    cursor_after: str | None = None
    store_cursor: bool = False
    uncharged: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """A run that has not started waits for something, and why, for people; None: it is pending again."""

    run_id: str
    waiting_for: str | None
    next_attempt_at: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """End a run that is not running: cancelled, abandoned, missed, skipped."""

    run_id: str
    outcome: Outcome
    at: datetime
    reason: str | None = None
    error: RunFailure | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """A finished range of skips or misses takes in more fire times."""

    run_id: str
    fire_until: datetime
    fire_count: int
    at: datetime


# -- operations --------------------------------------------------------------------------------------


def insert_runs(connection: Connection, runs: Sequence[Run]) -> list[bool]:
    """Write runs whose (job, claim) is new; the others are already somebody's and change nothing."""
    insert_new = _INSERT_NEW[connection.dialect.name]
    return [insert_new.run(connection, run_values(run)) == 1 for run in runs]


def grow_runs(connection: Connection, growths: Sequence[Growth]) -> list[None]:
    """Let ranges of skips and misses grow."""
    for growth in growths:
        values = {
            "key": growth.run_id,
            "until": growth.fire_until,
            "count": growth.fire_count,
            "at": growth.at,
        }
        _GROW.run(connection, values)
    return [None] * len(growths)


def begin_attempts(connection: Connection, begins: Sequence[Begin]) -> list[Attempt | None]:
    """Move runs to running and open their attempts; None for a run that may not start any more."""
    return [_begin(connection, begin) for begin in begins]


def _begin(connection: Connection, begin: Begin) -> Attempt | None:
    run = begin.run
    values = {"key": run.id, "at": begin.at, "by": begin.owner}
    begun = _BEGIN_RUN.rows(
        connection, {**values, "with": run.plugin, "where": run.instance, "as": run.identity}
    )
    if not begun:
        return None
    attempt = Attempt(run.id, begun[0]["attempts"], begin.owner, begin.at)
    _BEGIN_ATTEMPT.run(connection, {**values, "number": attempt.number})
    return attempt


def end_attempts(connection: Connection, ends: Sequence[End]) -> list[Run]:
    """Close attempts and move their runs on; the runs as they now are, in the order asked.

    Raises:
        LostLeaseError: an attempt is not the open one of its run, or has another owner.
    """
    return [_end(connection, end) for end in ends]


def _end(connection: Connection, end: End) -> Run:
    values = _end_values(end)
    ended = _END_RUN.rows(connection, values)
    if not ended:
        raise LostLeaseError(
            "the run is not ours any more", hint="was the state restored or moved meanwhile?"
        )
    _END_ATTEMPT.run(connection, values)
    run = to_run(ended[0])
    if end.store_cursor and end.cursor_after is not None:
        store_cursor(connection, run.job, StoredCursor(end.cursor_after, run.id, end.at))
    return run


def set_waiting(connection: Connection, waits: Sequence[Wait]) -> list[None]:
    """Say what runs that have not started wait for."""
    for wait in waits:
        values = {
            "key": wait.run_id,
            "to": State.WAITING.value if wait.waiting_for else State.PENDING.value,
            "what": wait.waiting_for,
            "next": wait.next_attempt_at,
            "why": wait.reason,
        }
        _WAIT.run(connection, values)
    return [None] * len(waits)


def finish_runs(connection: Connection, finishes: Sequence[Finish]) -> list[Run | None]:
    """End runs that are pending or waiting; None for one that has started or ended meanwhile."""
    return [_finish(connection, finish) for finish in finishes]


def _finish(connection: Connection, finish: Finish) -> Run | None:
    values = {
        "key": finish.run_id,
        "how": finish.outcome.value,
        "why": finish.reason,
        "at": finish.at,
        **error_values(finish.error, "e_"),
    }
    finished = _FINISH.rows(connection, values)
    return to_run(finished[0]) if finished else None


_STARTABLE = or_(_RUN.state == State.PENDING.value, _RUN.state == State.WAITING.value)
_NEW: dict[str, Any] = {
    column.name: bindparam(column.name) for column in schema.run.columns if column.name != "seq"
}
_INSERT_NEW = {
    dialect: Statement(
        insert_or(schema.run).values(_NEW).on_conflict_do_nothing(index_elements=["job", "claim"])
    )
    for dialect, insert_or in INSERT.items()
}
_GROW = Statement(
    update(schema.run)
    .where(_RUN.id == bindparam("key"))
    .values(fire_until=bindparam("until"), fire_count=bindparam("count"), finished_at=bindparam("at"))
)
_BEGIN_RUN = Statement(
    update(schema.run)
    .where(_RUN.id == bindparam("key"), _STARTABLE)
    .values(
        state=State.RUNNING.value,
        attempts=_RUN.attempts + 1,
        started_at=func.coalesce(_RUN.started_at, bindparam("at", type_=schema.Instant())),
        owner=bindparam("by"),
        plugin=bindparam("with"),
        instance=bindparam("where"),
        identity=bindparam("as"),
        reason=None,
        waiting_for=None,
        next_attempt_at=None,
    )
    .returning(_RUN.attempts)
)
_BEGIN_ATTEMPT = Statement(
    insert(schema.attempt).values(
        run_id=bindparam("key"), number=bindparam("number"), owner=bindparam("by"), started_at=bindparam("at")
    )
)
_END_RUN = Statement(
    update(schema.run)
    .where(
        _RUN.id == bindparam("key"),
        _RUN.attempts == bindparam("number_"),
        _RUN.owner == bindparam("by"),
        _RUN.state == State.RUNNING.value,
    )
    .values(
        state=bindparam("to"),
        outcome=bindparam("how"),
        reason=bindparam("why"),
        waiting_for=bindparam("what"),
        next_attempt_at=bindparam("next"),
        finished_at=bindparam("finished"),
        uncharged=_RUN.uncharged + bindparam("free"),
        losses=_RUN.losses + bindparam("lost"),
        owner=None,
        cursor_before=func.coalesce(_RUN.cursor_before, bindparam("c_before")),
        cursor_after=bindparam("c_after"),
        error_type=bindparam("e_type"),
        error_message=bindparam("e_message"),
        error_hint=bindparam("e_hint"),
        **{name: bindparam(f"n_{name}") for name in COUNTS},
    )
    .returning(schema.run)
)
_END_ATTEMPT = Statement(
    update(schema.attempt)
    .where(_ATTEMPT.run_id == bindparam("key"), _ATTEMPT.number == bindparam("number_"))
    .values(
        finished_at=bindparam("at"),
        outcome=bindparam("ended"),
        error_type=bindparam("e_type"),
        error_message=bindparam("e_message"),
        error_hint=bindparam("e_hint"),
    )
)
_WAIT = Statement(
    update(schema.run)
    .where(_RUN.id == bindparam("key"), _STARTABLE)
    .values(
        state=bindparam("to"),
        waiting_for=bindparam("what"),
        next_attempt_at=bindparam("next"),
        reason=bindparam("why"),
    )
)
_FINISH = Statement(
    update(schema.run)
    .where(_RUN.id == bindparam("key"), _STARTABLE)
    .values(
        state=State.FINISHED.value,
        outcome=bindparam("how"),
        reason=bindparam("why"),
        finished_at=bindparam("at"),
        waiting_for=None,
        next_attempt_at=None,
        error_type=bindparam("e_type"),
        error_message=bindparam("e_message"),
        error_hint=bindparam("e_hint"),
    )
    .returning(schema.run)
)


def _end_values(end: End) -> dict[str, Any]:
    return {
        "key": end.run_id,
        "number_": end.number,
        "by": end.owner,
        "at": end.at,
        "ended": end.outcome.value,
        "to": end.state.value,
        "finished": end.at if end.state is State.FINISHED else None,
        "how": end.run_outcome.value if end.run_outcome else None,
        "why": end.reason,
        "what": end.waiting_for,
        "next": end.next_attempt_at,
        "free": int(end.uncharged or end.outcome in (AttemptOutcome.INTERRUPTED, AttemptOutcome.LOST)),
        "lost": int(end.outcome is AttemptOutcome.LOST),
        "c_before": end.cursor_before,
        "c_after": end.cursor_after,
        **error_values(end.error, "e_"),
        **{f"n_{name}": getattr(end.counts, name) for name in COUNTS},
    }
