"""The run ledger: the operations that move runs and attempts, and the queries that show them.

Scheduling inserts runs, running begins and ends their attempts; both meet only here. Operations run in the
store's writer (see `state.Store`), queries anywhere.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from erpsync.core.errors import AmbiguousRunError, LostLeaseError
from erpsync.core.run import (
    Attempt,
    AttemptOutcome,
    Counts,
    Outcome,
    Run,
    RunFailure,
    RunTrigger,
    State,
)
from erpsync.store import schema
from erpsync.store.statement import Statement

_RUN = schema.run.c
_ATTEMPT = schema.attempt.c
_COUNTS = Counts.__slots__


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


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list; what is None or empty does not restrict. `since`: written or ended then or later."""

    jobs: tuple[str, ...] | None = None
    outcomes: tuple[Outcome, ...] = ()
    states: tuple[State, ...] = ()
    since: datetime | None = None
    limit: int = 50


# -- operations --------------------------------------------------------------------------------------


def insert_runs(connection: Connection, runs: Sequence[Run]) -> list[bool]:
    """Write runs whose (job, claim) is new; the others are already somebody's and change nothing."""
    insert_new = _INSERT_NEW[connection.dialect.name]
    return [insert_new.run(connection, _run_values(run)) == 1 for run in runs]


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
    startable = _STARTABLE_RUN.rows(connection, {"key": run.id})
    if not startable:
        return None
    attempt = Attempt(run.id, startable[0]["attempts"] + 1, begin.owner, begin.at)
    values = {"key": run.id, "number": attempt.number, "at": begin.at, "by": begin.owner}
    _BEGIN_RUN.run(connection, {**values, "with": run.plugin, "where": run.instance, "as": run.identity})
    _BEGIN_ATTEMPT.run(connection, values)
    return attempt


def end_attempts(connection: Connection, ends: Sequence[End]) -> list[Run]:
    """Close attempts and move their runs on; the runs as they now are, in the order asked.

    Raises:
        LostLeaseError: an attempt is not the open one of its run, or has another owner.
    """
    return [_end(connection, end) for end in ends]


def _end(connection: Connection, end: End) -> Run:
    values = _end_values(end)
    if _END_RUN.run(connection, values) != 1:
        raise LostLeaseError(
            "the run is not ours any more", hint="was the state restored or moved meanwhile?"
        )
    _END_ATTEMPT.run(connection, values)
    if end.store_cursor and end.cursor_after is not None:
        _store_cursor(connection, end)
    return _by_id(connection, end.run_id)


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
        **_error_values(finish.error, "e_"),
    }
    return _by_id(connection, finish.run_id) if _FINISH.run(connection, values) else None


def _by_id(connection: Connection, run_id: str) -> Run:
    (row,) = _BY_ID.rows(connection, {"key": run_id})
    return _run(row)


_STARTABLE = or_(_RUN.state == State.PENDING.value, _RUN.state == State.WAITING.value)
_STARTABLE_RUN = Statement(select(_RUN.attempts).where(_RUN.id == bindparam("key"), _STARTABLE))
_BY_ID = Statement(select(schema.run).where(_RUN.id == bindparam("key")))
_NEW: dict[str, Any] = {
    column.name: bindparam(column.name) for column in schema.run.columns if column.name != "seq"
}
_INSERT_NEW = {
    dialect.dialect.name: Statement(
        dialect.insert(schema.run).values(_NEW).on_conflict_do_nothing(index_elements=["job", "claim"])
    )
    for dialect in (postgresql, sqlite)
}
_GROW = Statement(
    update(schema.run)
    .where(_RUN.id == bindparam("key"))
    .values(fire_until=bindparam("until"), fire_count=bindparam("count"), finished_at=bindparam("at"))
)
_BEGIN_RUN = Statement(
    update(schema.run)
    .where(_RUN.id == bindparam("key"))
    .values(
        state=State.RUNNING.value,
        attempts=bindparam("number"),
        started_at=func.coalesce(_RUN.started_at, bindparam("at", type_=schema.Instant())),
        owner=bindparam("by"),
        plugin=bindparam("with"),
        instance=bindparam("where"),
        identity=bindparam("as"),
        reason=None,
        waiting_for=None,
        next_attempt_at=None,
    )
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
        **{name: bindparam(f"n_{name}") for name in _COUNTS},
    )
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
        **_error_values(end.error, "e_"),
        **{f"n_{name}": getattr(end.counts, name) for name in _COUNTS},
    }


def _error_values(error: RunFailure | None, prefix: str) -> dict[str, str | None]:
    return {
        f"{prefix}type": error.type if error else None,
        f"{prefix}message": error.message if error else None,
        f"{prefix}hint": error.hint if error else None,
    }


def _store_cursor(connection: Connection, end: End) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    job = select(_RUN.job).where(_RUN.id == end.run_id).scalar_subquery()
    values = {"value": end.cursor_after, "run_id": end.run_id, "updated_at": end.at}
    connection.execute(
        dialect.insert(schema.cursor)
        .values(job=job, **values)
        .on_conflict_do_update(index_elements=["job"], set_=values)
    )


# -- queries -----------------------------------------------------------------------------------------


_MANY = 500  # ids in one query


def find_run(connection: Connection, id_or_prefix: str) -> Run | None:
    """The run with this id, or the only one whose id begins so.

    Raises:
        AmbiguousRunError: several begin so.
    """
    last = id_or_prefix + "\U0010ffff"
    query = select(schema.run).where(_RUN.id >= id_or_prefix, _RUN.id < last).order_by(_RUN.id).limit(2)
    rows = connection.execute(query).all()
    if len(rows) > 1 and rows[0].id != id_or_prefix:
        raise AmbiguousRunError(f'several runs begin with "{id_or_prefix}"', hint="type more of the id")
    return _run(rows[0]._mapping) if rows else None


def find_claim(connection: Connection, job: str, claim: str) -> Run:
    """The run of a claim that the ledger has."""
    query = select(schema.run).where(_RUN.job == job, _RUN.claim == claim)
    return _run(connection.execute(query).one()._mapping)


def find_runs(connection: Connection, ids: Sequence[str]) -> dict[str, Run]:
    """Those of these runs that the ledger has."""
    found: dict[str, Run] = {}
    for start in range(0, len(ids), _MANY):
        query = select(schema.run).where(_RUN.id.in_(ids[start : start + _MANY]))
        found |= {row.id: _run(row._mapping) for row in connection.execute(query)}
    return found


def list_runs(connection: Connection, which: RunFilter) -> list[Run]:
    """Runs, the newest first."""
    query = select(schema.run).order_by(_RUN.seq.desc()).limit(which.limit)
    if which.jobs is not None:
        query = query.where(_RUN.job.in_(which.jobs))
    if which.outcomes:
        query = query.where(_RUN.outcome.in_([outcome.value for outcome in which.outcomes]))
    if which.states:
        query = query.where(_RUN.state.in_([state.value for state in which.states]))
    if which.since is not None:
        query = query.where(or_(_RUN.created_at >= which.since, _RUN.finished_at >= which.since))
    return [_run(row) for row in connection.execute(query).mappings()]


def list_attempts(connection: Connection, run_id: str) -> list[Attempt]:
    """The attempts of a run, the first one first."""
    query = select(schema.attempt).where(_ATTEMPT.run_id == run_id).order_by(_ATTEMPT.number)
    return [_attempt(row) for row in connection.execute(query).mappings()]


def last_attempt_ends(connection: Connection) -> dict[str, datetime]:
    """When the last attempt of each run ended that waits for its next one."""
    query = (
        select(_ATTEMPT.run_id, _ATTEMPT.finished_at)
        .join(schema.run, (_RUN.id == _ATTEMPT.run_id) & (_RUN.attempts == _ATTEMPT.number))
        .where(literal_column("state <> 'finished'"), _RUN.next_attempt_at.is_not(None))
    )
    return {row.run_id: row.finished_at for row in connection.execute(query) if row.finished_at is not None}


def unfinished_runs(connection: Connection) -> list[Run]:
    """Everything pending, waiting or running, the oldest first."""
    query = select(schema.run).where(literal_column("state <> 'finished'")).order_by(_RUN.seq)
    return [_run(row) for row in connection.execute(query).mappings()]


def live_counts(connection: Connection) -> dict[str, int]:
    """How many runs of each job are claimed and not finished; jobs without any are absent."""
    query = (
        select(_RUN.job, func.count().label("live"))
        .where(literal_column("state <> 'finished'"))
        .group_by(_RUN.job)
    )
    return {row.job: row.live for row in connection.execute(query)}


def last_runs(connection: Connection, jobs: Iterable[str]) -> dict[str, Run]:
    """The newest run of each of these jobs; jobs that never had one are absent."""
    found = {job: _NEWEST.rows(connection, {"name": job}) for job in jobs}
    return {job: _run(row) for job, rows in found.items() for row in rows}


_NEWEST = Statement(
    select(schema.run).where(_RUN.job == bindparam("name")).order_by(_RUN.seq.desc()).limit(1)
)


def last_successes(connection: Connection) -> dict[str, datetime]:
    """When each job last succeeded, by a run that was not special (see `Run.is_special`); reads the whole ledger, for
    start-up and reports."""
    query = (
        select(_RUN.job, func.max(_RUN.finished_at, type_=schema.Instant()).label("at"))
        .where(_RUN.outcome == Outcome.SUCCEEDED.value, _RUN.params.is_(None))
        .group_by(_RUN.job)
    )
    return {row.job: row.at for row in connection.execute(query)}


@dataclass(frozen=True, slots=True)
class History:
    """What the ledger has of a job: how many runs, and the cursor that its last success left."""

    runs: int
    cursor: str | None


def read_history(connection: Connection, jobs: Collection[str]) -> dict[str, History]:
    """The history of those of `jobs` that have any."""
    query = select(_RUN.job, func.count().label("runs")).group_by(_RUN.job)
    cursors = read_cursors(connection)
    rows = connection.execute(query)
    return {row.job: History(row.runs, cursors.get(row.job)) for row in rows if row.job in jobs}


def read_cursors(connection: Connection) -> dict[str, str]:
    """The cursors of all jobs that have one."""
    cursor = schema.cursor.c
    return {row.job: row.value for row in connection.execute(select(cursor.job, cursor.value))}


@dataclass(frozen=True, slots=True)
class StoredCursor:
    """A job's cursor, the run that left it, and when."""

    value: str
    run_id: str
    updated_at: datetime


def stored_cursors(connection: Connection) -> dict[str, StoredCursor]:
    """The cursors of all jobs that have one, with where they come from."""
    rows = connection.execute(select(schema.cursor))
    return {row.job: StoredCursor(row.value, row.run_id, row.updated_at) for row in rows}


def reset_cursors(connection: Connection, jobs: Sequence[str]) -> list[bool]:
    """Forget the cursors of jobs; False where a run of the job is not finished, whose end would write it again."""
    live = live_counts(connection)
    for job in jobs:
        if job not in live:
            connection.execute(delete(schema.cursor).where(schema.cursor.c.job == job))
    return [job not in live for job in jobs]


def read_cursor(connection: Connection, job: str) -> str | None:
    """The cursor that the job's last success left."""
    return connection.scalar(select(schema.cursor.c.value).where(schema.cursor.c.job == job))


def _run_values(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "job": run.job,
        "claim": run.claim,
        "plugin": run.plugin,
        "trigger": run.trigger.value,
        "created_at": run.created_at,
        "instance": run.instance,
        "identity": run.identity,
        "fire_at": run.fire_at,
        "fire_until": run.fire_until,
        "fire_count": run.fire_count,
        "state": run.state.value,
        "waiting_for": run.waiting_for,
        "outcome": run.outcome.value if run.outcome else None,
        "reason": run.reason,
        "attempts": run.attempts,
        "uncharged": run.uncharged,
        "losses": run.losses,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "next_attempt_at": run.next_attempt_at,
        "cursor_before": run.cursor_before,
        "cursor_after": run.cursor_after,
        "requested_by": run.requested_by,
        "retry_of": run.retry_of,
        "params": json.dumps(dict(run.params)) if run.params else None,
        "priority": run.priority,
        "owner": run.owner,
        "parents": " ".join(run.parents) or None,
        **_error_values(run.error, "error_"),
        **run.counts.document(),
    }


def _run(values: Mapping[Any, Any]) -> Run:
    return Run(
        id=values["id"],
        job=values["job"],
        claim=values["claim"],
        plugin=values["plugin"],
        trigger=RunTrigger(values["trigger"]),
        created_at=values["created_at"],
        instance=values["instance"],
        identity=values["identity"],
        fire_at=values["fire_at"],
        fire_until=values["fire_until"],
        fire_count=values["fire_count"],
        state=State(values["state"]),
        waiting_for=values["waiting_for"],
        outcome=Outcome(values["outcome"]) if values["outcome"] else None,
        reason=values["reason"],
        attempts=values["attempts"],
        uncharged=values["uncharged"],
        losses=values["losses"],
        started_at=values["started_at"],
        finished_at=values["finished_at"],
        next_attempt_at=values["next_attempt_at"],
        counts=Counts(**{name: values[name] for name in _COUNTS}),
        cursor_before=values["cursor_before"],
        cursor_after=values["cursor_after"],
        error=_failure(values),
        requested_by=values["requested_by"],
        retry_of=values["retry_of"],
        params=json.loads(values["params"]) if values["params"] else {},
        priority=values["priority"],
        owner=values["owner"],
        parents=tuple((values["parents"] or "").split()),
    )


def _attempt(values: Mapping[Any, Any]) -> Attempt:
    return Attempt(
        run_id=values["run_id"],
        number=values["number"],
        owner=values["owner"],
        started_at=values["started_at"],
        finished_at=values["finished_at"],
        outcome=AttemptOutcome(values["outcome"]) if values["outcome"] else None,
        error=_failure(values),
    )


def _failure(values: Any) -> RunFailure | None:
    if values["error_type"] is None:
        return None
    return RunFailure(values["error_type"], values["error_message"] or "", values["error_hint"] or "")
