"""What separates two configurations: the jobs, and all that running jobs depend on. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from erpsync.config.configuration import Configuration
from erpsync.core.duration import format_duration
from erpsync.core.job import Job

V = TypeVar("V")

_RESTART = (
    ("daemon.data", lambda c: c.daemon.data),
    ("daemon.state", lambda c: c.daemon.state),
    ("daemon.plugins", lambda c: c.daemon.plugins),
    ("daemon.log", lambda c: (c.daemon.log_format, c.daemon.log_level)),
    ("daemon.retention.log_size", lambda c: c.daemon.retention.log_size),
    ("daemon.seal_key", lambda c: c.daemon.seal_key),
    ("secrets", lambda c: c.secrets),
    ("control", lambda c: c.control),
    ("metrics", lambda c: c.metrics),
)
"""What a running daemon has built into itself."""
_SETTINGS = (
    ("daemon.timezone", lambda c: c.daemon.timezone),
    ("daemon.max_runs", lambda c: c.daemon.max_runs),
    ("daemon.drain", lambda c: format_duration(c.daemon.drain)),
    ("daemon.retention.runs", lambda c: format_duration(c.daemon.retention.runs)),
    ("daemon.retention.logs", lambda c: format_duration(c.daemon.retention.logs)),
    ("pools", lambda c: dict(c.pools)),
)
"""What a reload takes over and is no job's."""
_NAME = ("name", "definition", "formerly")
"""What a renamed job has another of in any case."""


@dataclass(frozen=True, slots=True)
class Change:
    """One key in its public JSON form, before and after; None where it was not or is not given."""

    key: str
    before: object
    after: object


@dataclass(frozen=True, slots=True)
class Difference:
    """Names, each tuple in order. `renamed` maps a former name to the job that takes it over, which is among the
    `changed` too where more than its name is another; `unable` maps those to the job that would and cannot.

    `connected` names the instances and identities whose connections change; `settings` are keys of the daemon that
    change, `restart` names those that only a restart takes over.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: Mapping[str, tuple[Change, ...]]
    renamed: Mapping[str, str]
    unable: Mapping[str, str]
    connected: tuple[str, ...]
    settings: tuple[Change, ...]
    restart: tuple[str, ...]


def difference(before: Configuration, after: Configuration, known: Collection[str] = ()) -> Difference:
    """From `before` to `after`; whether files are written differently does not matter. `known` are the names of which
    the state holds anything: none of them takes a former name over."""
    wished = {
        former: job.name
        for job in after.jobs.values()
        for former in job.formerly
        if former in before.jobs or former in known
    }
    former_of = _heirs(wished, known)
    renamed = {former: name for name, former in former_of.items()}
    was = {name: former_of.get(name, name) for name in after.jobs}
    return Difference(
        added=tuple(name for name in after.jobs if name not in before.jobs and name not in former_of),
        removed=tuple(name for name in before.jobs if name not in after.jobs and name not in renamed),
        changed={
            name: changes
            for name, job in after.jobs.items()
            if (old := before.jobs.get(was[name])) and (changes := tuple(_changes(before, old, after, job)))
        },
        renamed=renamed,
        unable={former: name for former, name in wished.items() if former not in renamed and former in known},
        connected=(
            *_unequal(before.instances, after.instances),
            *_unequal(before.identities, after.identities),
        ),
        settings=tuple(
            Change(key, part(before), part(after)) for key, part in _SETTINGS if part(before) != part(after)
        ),
        restart=tuple(key for key, part in _RESTART if part(before) != part(after)),
    )


def _heirs(wished: Mapping[str, str], known: Collection[str]) -> dict[str, str]:
    """The former name that each job takes over: the first of which something is known, for it can take one."""
    heirs: dict[str, str] = {}
    for former, name in wished.items():
        if name not in known and (name not in heirs or heirs[name] not in known):
            heirs[name] = former
    return heirs


def _unequal(before: Mapping[str, V], after: Mapping[str, V]) -> Iterator[str]:
    return (name for name in {**before, **after} if before.get(name) != after.get(name))


def _changes(before: Configuration, old: Job, after: Configuration, new: Job) -> Iterator[Change]:
    if old == new:
        return
    was, is_ = _flat(before.document(old, mask=False)), _flat(after.document(new, mask=False))
    unequal = [key for key in {**was, **is_} if was.get(key) != is_.get(key)]
    if old.name != new.name:
        unequal = [key for key in unequal if key not in _NAME]
    shown_was, shown_is = _flat(before.document(old)), _flat(after.document(new))
    for key in unequal:
        yield Change(key, shown_was.get(key), shown_is.get(key))
    if not unequal and old.name == new.name:  # a calendar of the same name with other days
        hidden = (part.name for part in fields(Job) if getattr(old, part.name) != getattr(new, part.name))
        yield Change(next(hidden), None, None)


def _flat(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
