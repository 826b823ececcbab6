"""What taking another configuration over would change: jobs, their next fire times, cursors at stake, restarts."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from erpsync.config.configuration import Configuration
from erpsync.config.difference import Change, Difference, difference
from erpsync.core.job import Job
from erpsync.core.run import utc_text
from erpsync.scheduling.engine import LEFT_BEHIND
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
    """From `before` to `after`; `history` is that of all names that the state knows. Pure, as far as `cursor_of` is.

    Raises:
        ValueError: a schedule is not valid.
    """
    found = difference(before, after, history)
    jobs = [*_new(found, after, history, now)]
    jobs += _kept(found, before, after, history, now, cursor_of)
    jobs += _gone(found, before, history, now)
    jobs.sort(key=lambda each: each.job)
    return Plan(tuple(jobs), found.connected, found.restart, found.settings)


def first_plan(configuration: Configuration, now: datetime) -> Plan:
    """What a first start takes over: everything."""
    jobs = (PlannedJob(job.name, "added", next_after=_next(job, now)) for job in configuration.jobs.values())
    return Plan(tuple(sorted(jobs, key=lambda each: each.job)), (), ())


def _new(
    found: Difference, after: Configuration, history: Mapping[str, History], now: datetime
) -> Iterable[PlannedJob]:
    for name in found.added:
        goes_on = _goes_on(history.get(name))
        yield PlannedJob(name, "added", next_after=_next(after.jobs[name], now), at_stake=goes_on)


def _goes_on(left: History | None) -> str:
    """What a job begins with that was not there before, from what the state has of it."""
    return f"it goes on from its cursor {left.cursor}" if left is not None and left.cursor else ""


def _kept(
    found: Difference,
    before: Configuration,
    after: Configuration,
    history: Mapping[str, History],
    now: datetime,
    cursor_of: CursorOf,
) -> Iterable[PlannedJob]:
    """Jobs that were there before, perhaps under another name."""
    former_of = {name: former for former, name in found.renamed.items()}
    for name in {**found.changed, **former_of}:
        changes, former = found.changed.get(name, ()), former_of.get(name)
        was, becomes, left = before.jobs.get(former or name), after.jobs[name], history.get(former or name)
        doubt = _goes_on(left)
        if was is not None:
            keys = [one.key for one in changes]
            doubt = _doubt(left.cursor, keys, cursor_of(becomes.plugin)) if left and left.cursor else ""
        yield PlannedJob(
            name,
            "renamed" if former else "changed",
            changes,
            former,
            next_before=_next(was, now) if was else None,
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
        lost = _lost(name, history.get(name), found.unable.get(name))
        yield PlannedJob(name, "removed", next_before=_next(before.jobs[name], now), at_stake=lost)


def _lost(name: str, left: History | None, unable: str | None) -> str:
    """What the removal of a job costs, `unable` being the job that would take it over and cannot."""
    if left is None or not (left.runs or left.cursor):
        return ""
    runs = "1 run" if left.runs == 1 else f"{left.runs} runs"
    what = f"the history of {runs}" + (f" and its cursor {left.cursor}" if left.cursor else "")
    if unable is None:
        return f'{what}, unless a job has this name again or says formerly = ["{name}"]'
    verb = "are" if left.cursor else "is"
    return f"{what} {verb} left behind, for the state knows {unable} already; {LEFT_BEHIND}"


def _next(job: Job, now: datetime) -> datetime | None:
    if not job.enabled:
        return None
    table = timetable(job)
    fire = next_after(table.trigger, now - table.delay)
    return next_start(table, fire) if fire is not None else None
