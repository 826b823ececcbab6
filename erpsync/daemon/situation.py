"""What the state tells a simulation: how long runs take, what is paused, and what lives now."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median
from typing import Literal

from sqlalchemy import Connection

from erpsync.core.job import Job
from erpsync.core.run import Outcome, Run
from erpsync.scheduling.handover import read_left
from erpsync.store.history import RunFilter, list_runs, unfinished_runs
from erpsync.store.pauses import Pause, read_pauses

ASSUMED = timedelta(minutes=1)
"""How long a run takes of which neither the ledger nor `expected_duration` knows."""
_SUCCESSES = 9  # of each job's newest, whose median is what the next one is expected to take

Source = Literal["ledger", "expected_duration", "assumed"]


@dataclass(frozen=True, slots=True)
class Expected:
    """How long a run of a job is expected to take, and how that is known."""

    duration: timedelta
    source: Source


@dataclass(frozen=True, slots=True)
class Situation:
    """How things stand at `now`: pauses by job, runs that are not finished, what parents left by (child, parent)."""

    now: datetime | None = None
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    live: Sequence[Run] = ()
    left: Mapping[tuple[str, str], Outcome] = field(default_factory=dict)


def read_situation(connection: Connection, now: datetime) -> Situation:
    """How things stand."""
    pauses = {job: pause for job, pause in read_pauses(connection).items() if pause.holds(now)}
    return Situation(now, pauses, unfinished_runs(connection), read_left(connection))


def expected_durations(connection: Connection, jobs: Iterable[Job]) -> dict[str, Expected]:
    """What each job's runs take: the median of its last successes, else what the configuration says."""
    return {job.name: _median(connection, job) or configured_duration(job) for job in jobs}


def configured_duration(job: Job) -> Expected:
    """What is expected of a job that never ran."""
    if job.expected_duration is not None:
        return Expected(job.expected_duration, "expected_duration")
    return Expected(ASSUMED, "assumed")


def _median(connection: Connection, job: Job) -> Expected | None:
    which = RunFilter(jobs=(job.name,), outcomes=(Outcome.SUCCEEDED,), limit=_SUCCESSES)
    runs = [run for run in list_runs(connection, which) if not run.is_special]
    took = [run.duration_seconds for run in runs if run.duration_seconds is not None]
    return Expected(timedelta(seconds=median(took)), "ledger") if took else None
