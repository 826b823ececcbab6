"""`simulate` against the real engine and runner: where nothing goes wrong, what is foretold happens."""

import asyncio
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest

from erpsync.core.job import Job, RetryPolicy
from erpsync.daemon.simulation import simulate
from erpsync.daemon.situation import Expected, Situation
from erpsync.running.attempt import LiveAttempt
from erpsync.running.channel import Done
from erpsync.running.fault import Fault, fault_of
from tests.simulation.doubles import STOPPED, SUCCEEDED, Work
from tests.simulation.ledger import instant
from tests.simulation.oracle import MICROSECOND
from tests.simulation.virtual_store import empty_state
from tests.simulation.world import World

if TYPE_CHECKING:
    from erpsync.config.configuration import Configuration

WORLDS = [seed for seed in range(24) if seed != 18]
"""In that one things happen at one instant whose order is open."""
DAYS = timedelta(days=9)
AFTERWARDS = timedelta(days=4)
"""So much longer both are watched: what begins before the end is over by then."""
_FATES = """
SELECT job, outcome, reason, fire_at, fire_until, started_at, CASE WHEN started_at IS NOT NULL THEN finished_at END,
       finished_at
FROM run
"""
CLOSE = timedelta(seconds=2)
"""The real ones take a moment for what takes none in a simulation."""


@dataclass(frozen=True)
class Fate:
    """What became of a run."""

    job: str
    outcome: str
    reason: str | None
    fire_at: datetime
    fire_until: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    over_at: datetime | None = None  # whether it started or not

    def is_like(self, other: "Fate") -> bool:
        mine, theirs = (
            (each.fire_at, each.fire_until, each.started_at, each.finished_at) for each in (self, other)
        )
        same = (self.job, self.outcome, self.reason) == (other.job, other.outcome, other.reason)
        return same and all(map(_close, mine, theirs))


def _close(one: datetime | None, other: datetime | None) -> bool:
    return one == other if one is None or other is None else abs(one - other) < CLOSE


class Even(random.Random):
    """A source of chance by which nothing is late."""

    def random(self) -> float:
        return 0.5

    def choice(self, seq: Sequence[Any]) -> Any:
        return seq[0]


class SteadyWork(Work):
    """Each run of a job takes its time, over all attempts; it stops when asked, and what is left of it stays."""

    def __init__(self, world: "QuietWorld") -> None:
        super().__init__(world.rng, world.conduct, lambda: True, world.fail)
        self._boot = world.clock.boot
        self._durations = world.durations
        self._left: dict[str, float] = {}

    async def _perform(self, attempt: LiveAttempt) -> Done | Fault:
        run, job, began = attempt.run, attempt.job, self._boot()
        length = self._left.setdefault(run.id, self._durations[run.job].total_seconds())
        stops = job.window is not None and job.window.at_end == "checkpoint"
        try:
            await self._pages(attempt, length, max(1, int(length)) if stops else 1)
        except asyncio.CancelledError as error:
            return fault_of(error)
        self._left[run.id] = length - (self._boot() - began)
        return STOPPED if self._left[run.id] > 1 else SUCCEEDED


class QuietWorld(World):
    """One in which nothing goes wrong, and whose runs take what they are expected to take."""

    def __init__(self, seed: int, file: Path) -> None:
        super().__init__(seed, file)
        rng, once = self.rng, RetryPolicy(attempts=1)
        self.jobs = [replace(job, retry=once, timeout=DAYS, overlap=_not_replaced(job)) for job in self.jobs]
        self.durations = {
            job.name: timedelta(
                minutes=rng.choice((1, 7, 25, 25, 50, 200)), seconds=rng.choice((20, 73, 131))
            )
            for job in self.jobs
        }
        self.rng = Even(seed)
        self.is_calm = True

    def work(self) -> Work:
        return SteadyWork(self)

    def happened(self, before: datetime) -> list[Fate]:
        """What became of what was due before then."""
        with closing(sqlite3.connect(self.file)) as state:
            rows = state.execute(_FATES).fetchall()
        fates = [
            Fate(*row[:3], *(None if at is None else instant(at) for at in row[3:]))  # type: ignore[arg-type]
            for row in rows
        ]
        return _until(fates, before)

    def foretold(
        self, begin: datetime, end: datetime, before: datetime, situation: Situation | None = None
    ) -> list[Fate]:
        """The same as simulated."""
        limits = self.conduct.limits
        configuration = SimpleNamespace(
            jobs={job.name: job for job in self.jobs},
            instances={
                name: SimpleNamespace(name=name, max_runs=most, kind="oidc")
                for name, most in limits.instances.items()
            },
            daemon=SimpleNamespace(max_runs=limits.all),
            pools=limits.pools,
        )
        expected = {name: Expected(duration, "assumed") for name, duration in self.durations.items()}
        runs = simulate(cast("Configuration", configuration), expected, begin + MICROSECOND, end, situation)
        fates = [
            Fate(
                run.job,
                run.outcome.value,
                run.reason,
                run.fire_at,
                run.fire_until,
                run.started_at,
                run.finished_at,
            )
            for run in runs
        ]
        return _until(fates, before)


def _not_replaced(job: Job) -> Literal["skip", "queue", "allow"]:
    """What is replaced at the instant at which it could start may have begun or not: that is left to chance."""
    return "queue" if job.overlap == "replace" else job.overlap


def _until(fates: Sequence[Fate], before: datetime) -> list[Fate]:
    """Those due before then, in order; ranges end there."""
    kept = [
        replace(fate, fire_until=None) if fate.fire_until and fate.fire_until >= before else fate
        for fate in fates
        if fate.fire_at < before
    ]
    return sorted(kept, key=lambda fate: (fate.job, fate.fire_at, fate.outcome))


@pytest.mark.parametrize("seed", WORLDS)
def test_what_is_foretold_happens(seed: int, tmp_path: Path) -> None:
    """The same runs, skips and misses for the same reasons, and the same starts and ends."""
    world = QuietWorld(seed, empty_state(tmp_path))
    begin = world.clock.now()
    world.live_until((DAYS + AFTERWARDS).total_seconds())

    happened = world.happened(begin + DAYS)
    foretold = world.foretold(begin, begin + DAYS + AFTERWARDS, begin + DAYS, Situation(begin))
    _compare(world, happened, foretold)
    for days in (3, 5):
        later = begin + timedelta(days=days)
        lives = [fate for fate in happened if fate.over_at is None or fate.over_at > later]
        told = world.foretold(later, begin + DAYS + AFTERWARDS, begin + DAYS)
        _compare(world, _not_skipped(lives), _not_skipped(told))


def _not_skipped(fates: Sequence[Fate]) -> list[Fate]:
    """Without ranges, which may begin before the time looked at."""
    return [fate for fate in fates if fate.outcome != "skipped"]


def _compare(world: QuietWorld, happened: Sequence[Fate], foretold: Sequence[Fate]) -> None:
    differing = [pair for pair in zip_longest(happened, foretold) if not _is_alike(*pair)]
    assert not differing, "\n".join(
        [*map(str, world.jobs), *(f"{real}\n  {told}" for real, told in differing[:5])]
    )


def _is_alike(real: Fate | None, told: Fate | None) -> bool:
    return real is not None and told is not None and real.is_like(told)
