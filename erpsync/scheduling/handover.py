"""Handing over: when the parents of a job with an `after` have ended, its run is claimed in the same transaction.

Each parent leaves its newest end for each child: a run that ended, or the range of skips or misses that has grown.
Once a child has one of every parent it consumes them all. A job whose several `after`s share a parent shares what it
left among them: the first that is complete takes it.
The functions that take a connection are parts of store operations.
"""

from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, delete, func, literal_column, select

from erpsync.core.calendar import blackout_end
from erpsync.core.job import After, Job, new_run
from erpsync.core.run import Outcome, Run, RunTrigger, State, utc_text
from erpsync.scheduling.planner import BLACKOUT, OVERLAP, PARKED, merge, room
from erpsync.store import schema
from erpsync.store.history import find_run, last_runs
from erpsync.store.ledger import grow_runs, insert_runs
from erpsync.store.pauses import read_pauses
from erpsync.store.upsert import upsert

PARENT = "parent"
"""Skipped: a parent ended with an outcome that the job does not go on from."""
_ROW, _RUN = schema.handover.c, schema.run.c


@dataclass(frozen=True, slots=True)
class Succession:
    """`child` runs when the jobs of `after` have ended; `parked` it cannot, and its run is skipped."""

    child: Job
    after: After
    parked: bool = False


def successions(jobs: Iterable[Job], parked: Container[str] = ()) -> dict[str, tuple[Succession, ...]]:
    """Who comes after whom, by the parent's name; jobs that are switched off come after nobody."""
    rules: dict[str, tuple[Succession, ...]] = {}
    for job in jobs:
        for after in job.schedules:
            if isinstance(after, After) and job.enabled:
                for parent in dict.fromkeys(after.jobs):
                    rules[parent] = (*rules.get(parent, ()), Succession(job, after, job.name in parked))
    return rules


def hand_over(
    connection: Connection,
    finished: Sequence[Run],
    rules: Mapping[str, Sequence[Succession]],
    now: datetime,
) -> list[Run]:
    """The runs of children whose last missing parent is among `finished`: written, pending or ended as skipped.

    A run counts when it ends, and a range again whenever it has grown; a dry run and a backfill's slice do not. To be
    called in the transaction that finishes the parents, in the order in which they ended.
    """
    written: list[Run] = []
    ended = deque(finished)
    while ended:
        parent = ended.popleft()
        if parent.job not in rules or parent.params.get("dry_run") or parent.trigger is RunTrigger.BACKFILL:
            continue
        if any(later.id == parent.id for later in ended):  # it has grown since, and is handed over once
            continue
        for rule in rules[parent.job]:
            _leave(connection, rule.child.name, parent)
        for rule in rules[parent.job]:
            run = _take(connection, rule, now)
            written += [run] if run is not None and not _has_grown(run) else []
            ended += [run] if run is not None and run.state is State.FINISHED else []
    return written


def take_left(
    connection: Connection, child: str, rules: Mapping[str, Sequence[Succession]], now: datetime
) -> list[Run]:
    """As `hand_over`, for what parents left while `child` was paused; its pause is over."""
    written: list[Run] = []
    for rule in (rule for each in rules.values() for rule in each if rule.child.name == child):
        run = _take(connection, rule, now)  # once taken, the same rule finds nothing under another parent
        written += [run] if run is not None and not _has_grown(run) else []
        ended = [run] if run is not None and run.state is State.FINISHED else []
        written += hand_over(connection, ended, rules, now)
    return written


def read_left(connection: Connection) -> dict[tuple[str, str], Outcome]:
    """The outcomes that parents have left for children, by (child, parent)."""
    rows = connection.execute(select(_ROW.child, _ROW.parent, _ROW.outcome))
    return {(row.child, row.parent): Outcome(row.outcome) for row in rows}


def forget_parents(connection: Connection, rules: Sequence[Mapping[str, Sequence[Succession]]]) -> list[None]:
    """Drop what was left for children that do not come after that parent any more (a store operation)."""
    for each in rules:
        known = {(rule.child.name, parent) for parent, mine in each.items() for rule in mine}
        for row in connection.execute(select(_ROW.child, _ROW.parent)).all():
            if (row.child, row.parent) not in known:
                connection.execute(
                    delete(schema.handover).where(_ROW.child == row.child, _ROW.parent == row.parent)
                )
    return [None] * len(rules)


def _leave(connection: Connection, child: str, parent: Run) -> None:
    """Keep a parent's end for a child, instead of an older one."""
    assert parent.outcome is not None
    row = {"child": child, "parent": parent.job, "run_id": parent.id, "outcome": parent.outcome.value}
    statement = upsert(connection, schema.handover, ["child", "parent"], ["run_id", "outcome"])
    connection.execute(statement, row)


def _take(connection: Connection, rule: Succession, now: datetime) -> Run | None:
    """The child's run where all its parents are there: new, or the skip before it, which has grown."""
    job, parents = rule.child, set(rule.after.jobs)
    mine = (_ROW.child == job.name) & _ROW.parent.in_(parents)
    left = select(_ROW.run_id, _ROW.outcome, _RUN.fire_until).join_from(
        schema.handover, schema.run, _RUN.id == _ROW.run_id, isouter=True
    )
    rows = connection.execute(left.where(mine).order_by(_ROW.run_id)).all()
    if len(rows) < len(parents) or not _in_force(connection, job, now):
        return None
    connection.execute(delete(schema.handover).where(mine))
    reason = _refusal(connection, rule, {Outcome(row.outcome) for row in rows}, now)
    ends = [f"{row.run_id}+{utc_text(row.fire_until)}" if row.fire_until else row.run_id for row in rows]
    claim = "after:" + ",".join(ends)
    run = new_run(job, claim, RunTrigger.AFTER, now, fire_at=now, parents=tuple(row.run_id for row in rows))
    if reason is None:
        return run if insert_runs(connection, [run]) == [True] else None
    run = replace(run, state=State.FINISHED, outcome=Outcome.SKIPPED, reason=reason, finished_at=now)
    fresh, growths = merge([run], last_runs(connection, [job.name]))
    grow_runs(connection, growths)
    if growths:
        return find_run(connection, growths[0].run_id)
    return run if insert_runs(connection, fresh) == [True] else None


def _has_grown(run: Run) -> bool:
    """Whether this run of a child is a skip that was there before: a new one stands for one end alone."""
    return run.fire_count != 1


def _in_force(connection: Connection, job: Job, now: datetime) -> bool:
    """Whether the child takes runs at all now; a pause keeps what was left for its end."""
    if not is_within(job, now):
        return False
    pause = read_pauses(connection).get(job.name)
    return pause is None or not pause.holds(now)


def is_within(job: Job, instant: datetime) -> bool:
    """Whether a job has begun by its `start` and is not over by its `end`."""
    return (job.start is None or job.start <= instant) and (job.end is None or instant < job.end)


def _refusal(connection: Connection, rule: Succession, outcomes: set[Outcome], now: datetime) -> str | None:
    """Why the child's run is skipped; None: it is to run."""
    job = rule.child
    if not outcomes <= rule.after.on:
        return PARENT
    if rule.parked:
        return PARKED
    if job.on_blackout == "skip" and blackout_end(job, now) is not None:
        return BLACKOUT
    live = select(func.count()).where(
        _RUN.job == job.name,
        _RUN.trigger != RunTrigger.BACKFILL.value,
        literal_column("state <> 'finished'"),
    )
    return None if room(job, connection.scalar(live) or 0, 1) else OVERLAP
