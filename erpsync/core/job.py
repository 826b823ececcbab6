"""Jobs and schedules as values: what the configuration says, fanned out and complete."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any, Literal

from erpsync.core.run import Outcome, Run, RunTrigger, new_run_id

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
class After:
    """When all of these jobs (names as in the ledger) have ended with an outcome in `on`."""

    jobs: tuple[str, ...]
    on: frozenset[Outcome] = frozenset({Outcome.SUCCEEDED, Outcome.PARTIAL})


@dataclass(frozen=True, slots=True)
class Manual:
    """Only when asked."""


Schedule = Cron | Every | At | After | Manual


@dataclass(frozen=True, slots=True)
class Calendar:
    """Named days, read in the zone of the job that uses them.

    `yearly` holds (month, day), `weekdays` Monday as 0, `month_days` days of the month with -1 for the last one,
    `holidays` an ISO 3166 country code with an optional subdivision ("BG", "DE-BY").
    """

    name: str
    dates: frozenset[date] = frozenset()
    yearly: frozenset[tuple[int, int]] = frozenset()
    weekdays: frozenset[int] = frozenset()
    month_days: frozenset[int] = frozenset()
    holidays: str | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """The part of each day in which a job may start, in its zone; across midnight where it opens after it closes.

    `at_end` says what happens to a run that is not finished then: it goes on, or stops at its next checkpoint.
    """

    opens: time
    closes: time
    at_end: Literal["finish", "checkpoint"] = "finish"


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
    `isolation` are None where the plugin's own word holds. `max_failed` counts rows. `start_by` is how long a run may
    wait for its start, None: until the next fire time, a day at most; `due_by` the time of day, in the job's zone, by
    which a success is expected. `formerly` are names whose history and marks are the job's own.
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
    overlap: Literal["skip", "queue", "replace", "allow"] = "skip"
    blackout: tuple[Calendar, ...] = ()
    on_blackout: Literal["skip", "postpone"] = "skip"
    window: Window | None = None
    start_by: timedelta | None = None
    due_by: time | None = None
    expected_duration: timedelta | None = None
    formerly: tuple[str, ...] = ()
    pool: str | None = None
    priority: int = 0
    isolation: Literal["task", "process"] | None = None
    memory: int | None = None
    repeatable: bool | None = None
    max_failed: int = 0


def new_run(job: Job, claim: str, trigger: RunTrigger, now: datetime, **more: Any) -> Run:
    """A run of a job by a claim, made `now`: pending, or as `more` of its fields say."""
    fields: dict[str, Any] = {"id": new_run_id(now), "priority": job.priority, **more}
    return Run(
        job=job.name,
        claim=claim,
        plugin=job.plugin,
        trigger=trigger,
        created_at=now,
        instance=job.instance,
        identity=job.identity,
        **fields,
    )
