"""What taking another configuration over would change: jobs, their next fire times, cursors at stake, restarts."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from erpsync.config.configuration import Configuration
from erpsync.config.difference import Change, Difference, difference
from erpsync.core.job import Job
from erpsync.core.run import utc_text
from erpsync.scheduling.explain import next_start
from erpsync.scheduling.timetable import timetable
from erpsync.scheduling.trigger import next_after
from erpsync.store.cursors import History


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One job that changes. `former` is the name it had; `at_stake` says what is lost or doubtful, empty: nothing.

    `next_before` and `next_after` are the next starts (aware UTC) by the old and by the new schedule.
    """

    job: str
    change: Literal["added", "removed", "renamed", "changed"]
    keys: tuple[Change, ...] = ()
    former: str | None = None
    next_before: datetime | None = None
    next_after: datetime | None = None
    at_stake: str = ""

    def document(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "job": self.job,
            "change": self.change,
            "former": self.former,
            "keys": _documents(self.keys),
            "next_before": utc_text(self.next_before),
            "next_after": utc_text(self.next_after),
            "at_stake": self.at_stake or None,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """All that changes. `connections` names instances and identities, `settings` are keys of the daemon, `restart`
    names what needs a restart.

    `parked` says of jobs that cannot run as things would be what is in the way.
    """

    jobs: tuple[PlannedJob, ...]
    connections: tuple[str, ...]
    restart: tuple[str, ...]
    settings: tuple[Change, ...] = ()
    parked: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.jobs or self.connections or self.restart or self.settings)

    def document(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "jobs": [job.document() for job in self.jobs],
            "connections": list(self.connections),
            "restart": list(self.restart),
            "settings": _documents(self.settings),
            "parked": dict(self.parked),
        }


def _documents(changes: Iterable[Change]) -> list[dict[str, object]]:
    return [{"key": one.key, "before": one.before, "after": one.after} for one in changes]


CursorOf = Callable[[str], Collection[str]]
"""The settings of a plugin of which a change lets its cursor begin anew."""


def plan_change(
    before: Configuration,
    after: Configuration,
    history: Mapping[str, History],
    now: datetime,
    cursor_of: CursorOf = lambda plugin: (),
) -> Plan:
    """From `before` to `after`; `history` is that of the jobs of `before`. Pure, as far as `cursor_of` is.

    Raises:
        ValueError: a schedule is not valid.
    """
    found = difference(before, after)
    jobs = [*_new(found, after, now), *_renamed(found, before, after, now)]
    jobs += _kept(found, before, after, history, now, cursor_of)
    jobs += _gone(found, before, history, now)
    jobs.sort(key=lambda each: each.job)
    return Plan(tuple(jobs), found.connected, found.restart, found.settings)


def first_plan(configuration: Configuration, now: datetime) -> Plan:
    """What a first start takes over: everything."""
    jobs = (PlannedJob(job.name, "added", next_after=_next(job, now)) for job in configuration.jobs.values())
    return Plan(tuple(sorted(jobs, key=lambda each: each.job)), (), ())


def _new(found: Difference, after: Configuration, now: datetime) -> Iterable[PlannedJob]:
    for name in found.added:
        yield PlannedJob(name, "added", next_after=_next(after.jobs[name], now))


def _renamed(
    found: Difference, before: Configuration, after: Configuration, now: datetime
) -> Iterable[PlannedJob]:
    for former, name in found.renamed.items():
        was, becomes = before.jobs[former], after.jobs[name]
        yield PlannedJob(
            name, "renamed", former=former, next_before=_next(was, now), next_after=_next(becomes, now)
        )


def _kept(
    found: Difference,
    before: Configuration,
    after: Configuration,
    history: Mapping[str, History],
    now: datetime,
    cursor_of: CursorOf,
) -> Iterable[PlannedJob]:
    for name, changes in found.changed.items():
        cursor = history[name].cursor if name in history else None
        doubt = (
            _doubt(cursor, [one.key for one in changes], cursor_of(after.jobs[name].plugin)) if cursor else ""
        )
        was, becomes = before.jobs[name], after.jobs[name]
        yield PlannedJob(
            name,
            "changed",
            changes,
            next_before=_next(was, now),
            next_after=_next(becomes, now),
            at_stake=doubt,
        )


def _doubt(cursor: str, keys: Sequence[str], cursor_of: Collection[str]) -> str:
    """What becomes of a cursor when these keys of its job change."""
    settings = [key for key in keys if key == "plugin" or key.startswith("with.")]
    anew = [key for key in settings if key.removeprefix("with.").partition(".")[0] in cursor_of]
    if "plugin" not in settings and cursor_of:
        return (
            f"its cursor {cursor} is left, and all is read anew, for other {', '.join(anew)}" if anew else ""
        )
    return f"its cursor goes on from {cursor} with other {', '.join(settings)}" if settings else ""


def _gone(
    found: Difference, before: Configuration, history: Mapping[str, History], now: datetime
) -> Iterable[PlannedJob]:
    for name in found.removed:
        left = history.get(name)
        lost = ""
        if left is not None:
            cursor = f" and its cursor {left.cursor}" if left.cursor else ""
            lost = f'the history of {left.runs} runs{cursor}, unless a job says formerly = ["{name}"]'
        yield PlannedJob(name, "removed", next_before=_next(before.jobs[name], now), at_stake=lost)


def _next(job: Job, now: datetime) -> datetime | None:
    if not job.enabled:
        return None
    table = timetable(job)
    fire = next_after(table.trigger, now - table.delay)
    return next_start(table, fire) if fire is not None else None
