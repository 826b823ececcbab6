"""Jobs and schedules as values: what the configuration says, fanned out and complete."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

Dst = Literal["vixie", "skip", "literal"]


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression (5 fields, 6 with leading seconds, or an alias) in a zone; None means the job's."""

    expression: str
    timezone: str | None = None
    dst: Dst | None = None


@dataclass(frozen=True, slots=True)
class Every:
    """Each `every`, anchored to the epoch in UTC and moved by `offset`."""

    every: timedelta
    offset: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class At:
    """Once, at an aware UTC instant."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Manual:
    """Only when asked."""


Schedule = Cron | Every | At | Manual


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how far apart a failed attempt is tried again; retryable errors only."""

    attempts: int = 3
    backoff: timedelta = timedelta(seconds=30)
    max_backoff: timedelta = timedelta(minutes=10)
    budget: timedelta = timedelta(hours=1)
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """An effective job: `name` is "products@acme" where `definition` "products" was fanned out.

    `settings` is the plugin's own table after expansion; secret references stay tables in it. `identity` names an
    Identity ("night@acme"), None for a job that needs no token; `timezone` is always resolved. `repeatable` and
    `isolation` are None where the plugin's own word holds. `max_failed` counts rows.
    """

    name: str
    definition: str
    plugin: str
    identity: str | None = None
    instance: str | None = None
    schedules: tuple[Schedule, ...] = (Manual(),)
    enabled: bool = True
    description: str = ""
    tags: frozenset[str] = frozenset()
    settings: Mapping[str, object] = field(default_factory=dict)
    timezone: str = "UTC"
    dst: Dst = "vixie"
    start: datetime | None = None
    end: datetime | None = None
    spread: timedelta = timedelta(0)
    grace: timedelta = timedelta(minutes=5)
    catch_up: Literal["last", "none", "all"] = "last"
    catch_up_window: timedelta = timedelta(hours=24)
    catch_up_limit: int = 10
    timeout: timedelta = timedelta(hours=1)
    retry: RetryPolicy = RetryPolicy()
    overlap: Literal["skip", "allow"] = "skip"
    priority: int = 0
    isolation: Literal["task", "process"] | None = None
    memory: int | None = None
    repeatable: bool | None = None
    max_failed: int = 0
