"""What the run ledger has: queries for the rooms that go on with runs, and for people."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, literal_column, or_, select

from erpsync.core.errors import AmbiguousRunError
from erpsync.core.run import Attempt, Outcome, Run, State
from erpsync.store import schema
from erpsync.store.run_rows import to_attempt, to_run
from erpsync.store.statement import Statement

_RUN = schema.run.c
_ATTEMPT = schema.attempt.c


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list; what is None or empty does not restrict. `since`: written or ended then or later."""

    jobs: tuple[str, ...] | None = None
    outcomes: tuple[Outcome, ...] = ()
    states: tuple[State, ...] = ()
    since: datetime | None = None
    limit: int = 50


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
    return to_run(rows[0]._mapping) if rows else None


def find_claim(connection: Connection, job: str, claim: str) -> Run:
    """The run of a claim that the ledger has."""
    query = select(schema.run).where(_RUN.job == job, _RUN.claim == claim)
    return to_run(connection.execute(query).one()._mapping)


def find_runs(connection: Connection, ids: Sequence[str]) -> dict[str, Run]:
    """Those of these runs that the ledger has."""
    found: dict[str, Run] = {}
    for start in range(0, len(ids), _MANY):
        query = select(schema.run).where(_RUN.id.in_(ids[start : start + _MANY]))
        found |= {row.id: to_run(row._mapping) for row in connection.execute(query)}
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
    return [to_run(row) for row in connection.execute(query).mappings()]


def list_attempts(connection: Connection, run_id: str) -> list[Attempt]:
    """The attempts of a run, the first one first."""
    query = select(schema.attempt).where(_ATTEMPT.run_id == run_id).order_by(_ATTEMPT.number)
    return [to_attempt(row) for row in connection.execute(query).mappings()]


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
    return [to_run(row) for row in connection.execute(query).mappings()]


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
    return {job: to_run(row) for job, rows in found.items() for row in rows}


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
