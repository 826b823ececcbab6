"""Claiming: the one transaction that plans from what is durable, writes the runs and moves the marks.

The functions that take a connection are operations of the store: they run in its writer, so nothing can start
or end between the look at the live runs and the claim.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, literal_column, select, update

from erpsync.core.calendar import start_deadline
from erpsync.core.job import Job
from erpsync.core.run import Outcome, Run, State
from erpsync.scheduling.handover import Succession, hand_over, take_left
from erpsync.scheduling.planner import (
    COUNTED,
    OVERLAP,
    PARKED,
    PAUSED,
    UNKNOWN,
    Span,
    merge,
    plan,
    room,
    span_of,
)
from erpsync.scheduling.timetable import Timetable, read_schedule
from erpsync.scheduling.trigger import MOMENT, newest_until, next_after
from erpsync.store import schema
from erpsync.store.history import find_claim, find_run, find_runs, last_runs
from erpsync.store.ledger import Finish, Growth, finish_runs, grow_runs, insert_runs
from erpsync.store.marks import Mark, write_marks
from erpsync.store.pauses import Pause, read_pauses, remove_pauses
from erpsync.store.statement import Statement

START_BY = "start_by"
"""Missed: no first start in time, and nothing was noted that the run waited for."""
_MANY = 500  # jobs of one look, beyond which reading all that lives is cheaper
_RUN = schema.run.c
_LIVE = select(_RUN.job, _RUN.id, _RUN.started_at).where(
    literal_column("state <> 'finished'"),
    literal_column("trigger <> 'backfill'"),  # which stand in nobody's way
)
_LIVE_OF_ALL = Statement(_LIVE)
_LIVE_OF_JOB = Statement(_LIVE.where(_RUN.job == bindparam("name")))
_LAST = func.coalesce(_RUN.fire_until, _RUN.fire_at, type_=schema.Instant())
_Live = Mapping[str, Sequence[Mapping[str, Any]]]  # rows of _LIVE, by job


@dataclass(frozen=True, slots=True)
class Look:
    """Plan these timetables at `now`; `marks` are their marks as the store has them.

    `resumed` are pauses that end with this look. `ahead` are jobs of which the ledger has fire times beyond the
    mark, because the clock was corrected. `unable` says why the fire times of jobs are skipped that cannot run as
    things are; `unparked` are jobs that were parked and can run again. `rules` say who comes after whom.
    """

    timetables: tuple[Timetable, ...]
    marks: Mapping[str, Mark]
    now: datetime
    resumed: Mapping[str, Pause] = field(default_factory=dict)
    ahead: frozenset[str] = frozenset()
    unable: Mapping[str, str] = field(default_factory=dict)
    unparked: frozenset[str] = frozenset()
    rules: Mapping[str, Sequence[Succession]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a look wrote: runs to start, runs that ended as skipped or missed, ranges that grew, marks that moved.

    `replaced` are runs that are to be cancelled, because a new one takes their place.
    """

    pending: tuple[Run, ...]
    ended: tuple[Run, ...]
    grown: tuple[Growth, ...]
    marks: tuple[Mark, ...]
    corrected: tuple[Mark, ...]
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """A run that somebody asked for."""

    run: Run
    job: Job


@dataclass(frozen=True, slots=True)
class Granted:
    """The run as it is in the ledger, perhaps since an earlier request; `replaced` are to be cancelled."""

    run: Run
    replaced: tuple[str, ...] = ()
    is_new: bool = True


def claim_due(connection: Connection, looks: Sequence[Look]) -> list[Claimed]:
    """Claim what is due. A fire time that the ledger has already is left to whom it belongs."""
    return [_claim(connection, look) for look in looks]


def _claim(connection: Connection, look: Look) -> Claimed:
    live = _live(connection, [table.job for table in look.timetables])
    expired = _expire(connection, look, live)
    gone = {run.id for run in expired}
    live = {job: [run for run in runs if run["id"] not in gone] for job, runs in live.items()}
    parked = _reopen(connection, look)
    marks = dict(look.marks)
    for job, since in parked.items():
        marks[job] = replace(marks[job], until=since - MOMENT)
    found = plan(
        look.timetables,
        marks,
        {job: len(runs) for job, runs in live.items()},
        look.now,
        resumed=look.resumed,
        taken=_taken(connection, look),
        unable=look.unable,
        parked=parked,
    )
    for mark in found.corrected:
        _give_back(connection, mark, look.now)
    ended = {run.job for run in found.runs if run.state is State.FINISHED}
    runs, growths = merge(found.runs, _last(connection, look, ended))
    ours = [run for run, new in zip(runs, insert_runs(connection, runs), strict=True) if new]
    grow_runs(connection, growths)
    write_marks(connection, found.marks)
    grown = find_runs(connection, [growth.run_id for growth in growths]).values()
    over = [run for run in ours if run.state is State.FINISHED]
    newest = {run.job: run for run in (*expired, *grown, *over)}
    handed = hand_over(connection, [*newest.values()], look.rules, look.now)
    if look.resumed:
        remove_pauses(connection, [*look.resumed])
    for job in look.resumed:
        handed += take_left(connection, job, look.rules, look.now)
    written = [*expired, *ours, *handed]
    pending = tuple(run for run in written if run.state is State.PENDING)
    return Claimed(
        pending=pending,
        ended=tuple(run for run in written if run.state is State.FINISHED),
        grown=tuple(growths),
        marks=found.marks,
        corrected=found.corrected,
        replaced=_replaced(connection, look, pending),
    )


def _last(connection: Connection, look: Look, jobs: set[str]) -> dict[str, Run]:
    """The newest run of each of these jobs that a new range may continue: no other run lies between it and the mark.

    It does where a wrong clock made runs whose time comes only now.
    """
    found = last_runs(connection, jobs - look.ahead) if jobs else {}
    if not found:
        return {}
    triggers = {table.job.name: table.trigger for table in look.timetables if table.job.name in found}

    def is_next_to(run: Run, mark: Mark) -> bool:
        end = run.fire_until or run.fire_at
        return end == mark.until or end == newest_until(triggers[run.job], mark.until)

    return {job: run for job, run in found.items() if job in look.marks and is_next_to(run, look.marks[job])}


def _replaced(connection: Connection, look: Look, pending: Sequence[Run]) -> tuple[str, ...]:
    """The runs that live beside these new ones, of jobs whose new run takes the place of the old."""
    claimed = {run.job for run in pending}
    jobs = {table.job.name: table.job for table in look.timetables if table.job.name in claimed}
    if not claimed <= jobs.keys():  # the others come after these
        jobs |= {rule.child.name: rule.child for rules in look.rules.values() for rule in rules}
    names = [name for name in claimed if jobs[name].overlap == "replace"]
    new = {run.id for run in pending}
    live = [row["id"] for name in names for row in _LIVE_OF_JOB.rows(connection, {"name": name})]
    return tuple(run_id for run_id in live if run_id not in new)


def _give_back(connection: Connection, mark: Mark, now: datetime) -> None:
    """The clock was ahead: what only passed by it, skipped or missed, has not come yet. Runs stay what they are."""
    passed = (_RUN.job == mark.job) & _RUN.claim.like("at:%") & _RUN.outcome.in_(("skipped", "missed"))
    ahead = passed & (_RUN.fire_at > now)
    left = schema.handover.c.run_id.in_(select(_RUN.id).where(ahead))
    connection.execute(delete(schema.handover).where(left))
    connection.execute(delete(schema.run).where(ahead))
    across = select(_RUN.id, _RUN.fire_at, _RUN.fire_until).where(passed, _RUN.fire_until > now)
    for row in connection.execute(across).all():
        try:
            trigger = read_schedule(mark.schedule_at(row.fire_until))
        except ValueError:  # a newer version wrote it: where its ranges would end now is not known
            continue
        span = span_of(trigger, row.fire_at, now, COUNTED - 1)  # of what follows the first fire time
        count = 1 if span is None else UNKNOWN if span.count == UNKNOWN else 1 + span.count
        until = None if span is None else span.last
        cut = update(schema.run).where(_RUN.id == row.id)
        connection.execute(cut.values(fire_until=until, fire_count=count))


def _reopen(connection: Connection, look: Look) -> dict[str, datetime]:
    """Since when jobs were parked that can run again. What was skipped because of that is taken out of the ledger, to
    follow `catch_up`, unless another run or another schedule came after it."""
    skipped = {
        job: run for job, run in _last(connection, look, {*look.unparked}).items() if run.reason == PARKED
    }
    schedules = {table.job.name: table.schedule for table in look.timetables}
    since = {}
    for job, run in skipped.items():
        if (
            run.fire_at is None
            or not run.claim.startswith("at:")
            or schedules[job] != look.marks[job].schedule
        ):
            continue
        connection.execute(delete(schema.handover).where(schema.handover.c.run_id == run.id))
        connection.execute(delete(schema.run).where(_RUN.id == run.id))
        since[job] = run.fire_at
    return since


def last_parked(connection: Connection) -> set[str]:
    """The jobs of which the last that the ledger has is that they were parked."""
    last = select(func.max(_RUN.seq)).where(_RUN.job == schema.mark.c.job).scalar_subquery()
    newest = schema.run.alias("newest")
    query = select(newest.c.job).select_from(schema.mark).join(newest, newest.c.seq == last)
    return {*connection.scalars(query.where(newest.c.outcome == Outcome.SKIPPED, newest.c.reason == PARKED))}


def _live(connection: Connection, jobs: Iterable[Job]) -> _Live:
    """The runs that live, of those jobs at least that do not allow any number."""
    names = [job.name for job in jobs if job.overlap != "allow"]
    if len(names) <= _MANY:
        return {name: _LIVE_OF_JOB.rows(connection, {"name": name}) for name in names}
    live: dict[str, list[Mapping[str, Any]]] = {}
    for row in _LIVE_OF_ALL.rows(connection, {}):
        live.setdefault(row["job"], []).append(row)
    return live


def _expire(connection: Connection, look: Look, live: _Live) -> list[Run]:
    """End what has waited too long for its first start, so that what is due now takes its place."""
    finishes = []
    for table in look.timetables:
        for row in live.get(table.job.name, ()):
            if row["started_at"] is not None:
                continue
            run = find_run(connection, row["id"])
            assert run is not None
            if start_deadline(table.job, run, partial(next_after, table.trigger)) <= look.now:
                reason = run.waiting_for or START_BY
                finishes.append(Finish(run.id, Outcome.MISSED, look.now, reason))
    return [run for run in finish_runs(connection, finishes) if run is not None] if finishes else []


def _taken(connection: Connection, look: Look) -> dict[str, list[Span]]:
    """What the ledger has beyond the marks of jobs that are ahead, up to now."""
    taken: dict[str, list[Span]] = {}
    for table in look.timetables:
        name = table.job.name
        if name in look.ahead and name in look.marks:
            query = select(_RUN.fire_at, _LAST.label("last")).where(
                _RUN.job == name,
                _RUN.claim.like("at:%"),
                look.marks[name].until < _LAST,
                _RUN.fire_at <= look.now,
            )
            taken[name] = [Span(row.fire_at, row.last) for row in connection.execute(query)]
    return taken


def claimed_ahead(connection: Connection) -> dict[str, datetime]:
    """Jobs of which the ledger has fire times beyond the mark, and up to when."""
    run = schema.run.alias("newest")
    claim = (
        select(func.max(_RUN.claim))
        .where(_RUN.job == schema.mark.c.job, _RUN.claim >= "at:", _RUN.claim < "at;")
        .scalar_subquery()
    )
    last = func.coalesce(run.c.fire_until, run.c.fire_at, type_=schema.Instant())
    query = (
        select(schema.mark.c.job, last.label("last"))
        .select_from(schema.mark)
        .join(run, (run.c.job == schema.mark.c.job) & (run.c.claim == claim))
        .where(last > schema.mark.c.until)
    )
    return {row.job: row.last for row in connection.execute(query)}


def claim_requested(connection: Connection, requests: Sequence[Request]) -> list[Granted]:
    """Write runs that were asked for: pending, or skipped where the job is paused or may not run beside another."""
    pauses = read_pauses(connection)
    found = _live(connection, [request.job for request in requests])
    live = {job: [row["id"] for row in rows] for job, rows in found.items()}
    granted = []
    for request in requests:
        run, job = request.run, request.job
        mine = live.setdefault(job.name, [])
        pause = pauses.get(job.name)
        if pause is not None and pause.holds(run.created_at):
            granted.append(Granted(_skipped(run, PAUSED)))
        elif not room(job, len(mine), 1):
            granted.append(Granted(_skipped(run, OVERLAP)))
        else:
            granted.append(Granted(run, tuple(mine) if job.overlap == "replace" else ()))
            mine.append(run.id)
    new = insert_runs(connection, [each.run for each in granted])
    return [
        each if is_new else Granted(find_claim(connection, each.run.job, each.run.claim), is_new=False)
        for each, is_new in zip(granted, new, strict=True)
    ]


def claim_backfills(
    connection: Connection, backfills: Sequence[Sequence[Run]]
) -> list[list[tuple[Run, bool]]]:
    """Write the slices of backfills: each as the ledger has it now, and whether it is new."""
    return [_claim_slices(connection, slices) for slices in backfills]


def _claim_slices(connection: Connection, slices: Sequence[Run]) -> list[tuple[Run, bool]]:
    new = insert_runs(connection, slices)
    return [
        (run if is_new else find_claim(connection, run.job, run.claim), is_new)
        for run, is_new in zip(slices, new, strict=True)
    ]


def _skipped(run: Run, reason: str) -> Run:
    return replace(
        run, state=State.FINISHED, outcome=Outcome.SKIPPED, reason=reason, finished_at=run.created_at
    )
