"""The configuration as one frozen value: sections, instances, identities, jobs, and where each key came from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Literal

from erpsync.config.document import Document, dotted
from erpsync.config.layer import Layer, Spot
from erpsync.config.mask import shown_settings
from erpsync.config.section import SecretsSection
from erpsync.config.source import Keys
from erpsync.core.instance import Identity, Instance
from erpsync.core.job import After, At, Calendar, Cron, Every, Job, Schedule, Window
from erpsync.core.problem import Problem, Severity
from erpsync.core.run import utc_text
from erpsync.core.secret import SecretReference


@dataclass(frozen=True, slots=True)
class Retention:
    """How long finished runs and run logs are kept, and how many bytes the log of one run may have."""

    runs: timedelta
    logs: timedelta
    log_size: int


@dataclass(frozen=True, slots=True)
class Daemon:
    """[daemon], all paths absolute; `plugins` are folders, `state` the SQLite file, the first of `seal_key` seals."""

    data: Path
    state: Path
    timezone: str
    plugins: tuple[Path, ...]
    max_runs: int
    drain: timedelta
    seal_key: tuple[SecretReference, ...]
    log_format: Literal["auto", "console", "json"]
    log_level: Literal["debug", "info", "warning", "error"]
    retention: Retention


@dataclass(frozen=True, slots=True)
class Control:
    """[control]: the Unix socket, the bits of its mode, the group it belongs to."""

    socket: Path
    mode: int
    group: str | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """[metrics]: address and port; None where it is switched off."""

    listen: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a job's key was given: `layer` "default" has no place, "environment" the variable as its `file`."""

    layer: Layer
    file: str | None = None
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that erpsync.toml and its files say; `pools` holds the slots of each.

    `problems` are warnings only, unless it was merely examined. `fingerprint` tells whether two configurations
    define the same jobs, instances and identities.
    """

    path: Path
    daemon: Daemon
    control: Control
    metrics: Metrics
    secrets: SecretsSection
    instances: Mapping[str, Instance]
    identities: Mapping[str, Identity]
    jobs: Mapping[str, Job]
    calendars: Mapping[str, Calendar]
    pools: Mapping[str, int]
    problems: tuple[Problem, ...]
    fingerprint: str
    files: Document = field(repr=False, compare=False)

    def document(self, job: Job, *, mask: bool = True) -> dict[str, object]:
        """The effective job in its public JSON form; keys are those of the file, durations text, instants UTC.

        What may be a secret by its key, or is one in a URL, is masked; without `mask` it is for comparing only.
        """
        skipped = {"name", "definition", "schedules", "settings", "retry"}
        rest = {
            part.name: _plain(getattr(job, part.name)) for part in fields(job) if part.name not in skipped
        }
        return {
            "name": job.name,
            "definition": job.definition,
            "schedule": [_schedule(schedule) for schedule in job.schedules],
            **rest,
            "retry": {part.name: _plain(getattr(job.retry, part.name)) for part in fields(job.retry)},
            "with": shown_settings(job.settings) if mask else dict(job.settings),
        }

    def origins(self, name: str) -> Mapping[str, Origin]:
        """Where each key of a job's document was given, by dotted key; lists are one key."""
        document = self.document(self.jobs[name])
        del document["name"], document["definition"], document["instance"]
        return {dotted(keys): self._origin(self.jobs[name], keys) for keys in _leaves(document)}

    def place(
        self,
        job: str,
        key: str,
        *,
        code: str,
        message: str,
        help: str = "",  # noqa: A002  # the word of Problem
        severity: Severity = "error",
        hide: bool = False,
    ) -> Problem:
        """A problem found elsewhere with a job's key, like "schedule" or "with.page_size", at its place or the
        nearest table around it; `job` is the name of a job or of a definition. `hide` leaves the line out because
        it may hold a secret."""
        found = self.jobs.get(job)
        spot = self._spot(found) if found else Spot(self.files, job, None)
        keys = spot.where(tuple(key.replace("[", ".").replace("]", "").split(".")) if key else ())
        return self.files.problem(code, message, keys, hint=help, severity=severity, hide=hide)

    def origin(self, job: Job, key: str) -> Origin:
        """Where a job's key was given."""
        return self._origin(job, (key,))

    def _spot(self, job: Job) -> Spot:
        return Spot(self.files, job.definition, job.instance)

    def _origin(self, job: Job, keys: Keys) -> Origin:
        origin = self._spot(job).origin(keys)
        if keys == ("timezone",) and (origin is None or origin[0] == "defaults"):
            origin = self._given("instance", ("instances", job.instance or "", "timezone")) or origin
            origin = origin or self._given("defaults", ("daemon", "timezone"))
        if origin is None:
            return Origin("default")
        layer, there = origin
        if there in self.files.environment:
            return Origin("environment", self.files.environment[there])
        owner = self.files.owner(there)
        assert owner is not None  # what has an origin was read from a file
        return Origin(layer, owner.name, *owner.position(there))

    def _given(self, layer: Layer, keys: Keys) -> tuple[Layer, Keys] | None:
        return (layer, keys) if self.files.existing(keys) == keys else None


def _schedule(schedule: Schedule) -> object:
    match schedule:
        case Cron(expression, timezone, dst):
            return {
                "cron": expression,
                **({"timezone": timezone} if timezone else {}),
                **({"dst": dst} if dst else {}),
            }
        case Every(every, offset):
            return {"every": duration_text(every), **({"offset": duration_text(offset)} if offset else {})}
        case At(at):
            return {"at": utc_text(at)}
        case After(jobs, on):
            return {"after": list(jobs), "on": _plain(on)}
    return "manual"


def _plain(value: object) -> object:
    match value:
        case timedelta():
            return duration_text(value)
        case datetime():
            return utc_text(value)
        case time():
            return value.isoformat("minutes")
        case frozenset():
            return sorted(value)
        case tuple():
            return [_plain(part) for part in value]
        case Calendar():
            return value.name
        case Window(opens, closes, at_end):
            return {"from": _plain(opens), "to": _plain(closes), "at_end": at_end}
    return value


def duration_text(value: timedelta) -> str:
    """Exact and as people write it: "1h30m", "90ms", "0s"."""
    rest, text = value // timedelta(milliseconds=1), ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        amount, rest = divmod(rest, size)
        text += f"{amount}{unit}" if amount else ""
    return text or "0s"


def _leaves(table: Mapping[str, object], keys: Keys = ()) -> Iterator[Keys]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*keys, key))
        else:
            yield (*keys, key)
