"""Claiming: the one transaction that plans from what is durable, writes the runs and moves the marks.

The functions that take a connection are operations of the store: they run in its writer, so nothing can start
or end between the look at the live runs and the claim.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, bindparam, literal_column, select

from erpsync.core.job import Job
from erpsync.core.run import Outcome, Run, State
from erpsync.scheduling.planner import OVERLAP, merge, plan
from erpsync.scheduling.timetable import Timetable
from erpsync.store import schema
from erpsync.store.ledger import Growth, grow_runs, insert_runs, last_runs, live_counts
from erpsync.store.marks import Mark, write_marks

_MANY = 500  # jobs of one look, beyond which reading all that lives is cheaper
_LIVE = select(schema.run.c.job).where(
    literal_column("state <> 'finished'"), schema.run.c.job.in_(bindparam("names", expanding=True))
)


@dataclass(frozen=True, slots=True)
class Look:
    """Plan these timetables at `now`; `marks` are their marks as the store has them."""

    timetables: tuple[Timetable, ...]
    marks: Mapping[str, Mark]
    now: datetime


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a look wrote: runs to start, runs that ended as skipped or missed, ranges that grew, marks that moved."""

    pending: tuple[Run, ...]
    ended: tuple[Run, ...]
    grown: tuple[Growth, ...]
    marks: tuple[Mark, ...]
    corrected: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A run that somebody asked for."""

    run: Run
    job: Job


def claim_due(connection: Connection, looks: Sequence[Look]) -> list[Claimed]:
    """Claim what is due. A fire time that the ledger has already is left to whom it belongs."""
    return [_claim(connection, look) for look in looks]


def _claim(connection: Connection, look: Look) -> Claimed:
    live = _live(connection, [table.job for table in look.timetables])
    found = plan(look.timetables, look.marks, live, look.now)
    ended = {run.job for run in found.runs if run.state is State.FINISHED}
    runs, growths = merge(found.runs, last_runs(connection, ended) if ended else {})
    ours = [run for run, new in zip(runs, insert_runs(connection, runs), strict=True) if new]
    grow_runs(connection, growths)
    write_marks(connection, found.marks)
    return Claimed(
        pending=tuple(run for run in ours if run.state is State.PENDING),
        ended=tuple(run for run in ours if run.state is State.FINISHED),
        grown=tuple(growths),
        marks=found.marks,
        corrected=found.corrected,
    )


def _live(connection: Connection, jobs: Iterable[Job]) -> Mapping[str, int]:
    """How many runs live, of those jobs at least that must not overlap."""
    names = [job.name for job in jobs if job.overlap == "skip"]
    if len(names) > _MANY:
        return live_counts(connection)
    return Counter(connection.scalars(_LIVE, {"names": names})) if names else {}


def claim_requested(connection: Connection, requests: Sequence[Request]) -> list[Run]:
    """Write runs that were asked for: pending, or skipped where one of the job lives and none may run beside it."""
    live = dict(_live(connection, [request.job for request in requests]))
    runs = []
    for request in requests:
        run, job = request.run, request.job
        if job.overlap == "skip" and live.get(job.name):
            run = replace(
                run,
                state=State.FINISHED,
                outcome=Outcome.SKIPPED,
                reason=OVERLAP,
                finished_at=run.created_at,
            )
        live[job.name] = live.get(job.name, 0) + (run.state is State.PENDING)
        runs.append(run)
    insert_runs(connection, runs)
    return runs
