"""Chance: jobs and their changes, drawn from a seeded source, so that a seed tells the whole story."""

import random
from dataclasses import replace
from datetime import time, timedelta

from erpsync.core.job import After, Calendar, Cron, Every, Job, RetryPolicy, Schedule, Window
from erpsync.core.run import Outcome

ZONES = (
    "Europe/Sofia",
    "Europe/Sofia",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Africa/Cairo",
    "Antarctica/Troll",
    "UTC",
)
EXPRESSIONS = (
    "30 3 * * *",
    "30 3 * * *",
    "30 2 * * *",
    "15 1 * * *",
    "0 0 * * *",
    "30 0 * * *",
    "0 3 * * *",
    "5,35 3 * * *",
    "0 2-3 * * *",
    "*/30 2 * * *",
    "0 4 1 * *",
    "30 1 * * MON-FRI",
    "0 3 L * *",
    "30 2 * * 0L",
    "15 30 23 * * SAT,SUN",
    "0 */12 * * *",
)
CALENDARS = (
    Calendar("weekend", weekdays=frozenset({5, 6})),
    Calendar("month-end", month_days=frozenset({-1, 1})),
    Calendar("holidays", yearly=frozenset({(1, 1), (3, 3), (12, 24), (12, 25), (12, 26)})),
)
WINDOWS = (Window(time(22), time(6)), Window(time(1), time(4, 30)), Window(time(3), time(3, 45)))
HOUR = timedelta(hours=1)
_FINE = frozenset({Outcome.SUCCEEDED, Outcome.PARTIAL})


def some_jobs(rng: random.Random) -> list[Job]:
    """One to three jobs."""
    return [_job(rng, f"job-{number}") for number in range(rng.randint(1, 3))]


def changed_jobs(rng: random.Random, jobs: list[Job]) -> list[Job]:
    """The jobs after somebody has edited one of them: another schedule, other rules, switched off, gone, new."""
    kept = list(jobs)
    number = rng.randrange(4)
    name = f"job-{number}"
    present = next((job for job in kept if job.name == name), None)
    if present is None:
        return [*kept, _job(rng, name)]
    kept.remove(present)
    match rng.randrange(4):
        case 0:
            return kept
        case 1:
            return [*kept, replace(present, enabled=not present.enabled)]
        case 2:
            return [*kept, replace(_job(rng, name), schedules=present.schedules)]
        case _:
            return [*kept, _job(rng, name)]


def duration(rng: random.Random, *, calm: bool) -> timedelta:
    """How long an attempt takes: minutes mostly, hours at times, more than a day at bad times."""
    kind = rng.random()
    if calm or kind < 0.85:
        return timedelta(minutes=1 + 20 * rng.random())
    return HOUR * (40 if kind > 0.98 else 6) * rng.random()


def _job(rng: random.Random, name: str) -> Job:
    return Job(
        name,
        name,
        "mirror",
        schedules=tuple(_schedule(rng, name) for _ in range(rng.choice((1, 1, 1, 2)))),
        timezone=rng.choice(ZONES),
        dst=rng.choice(("vixie", "vixie", "skip", "literal")),
        spread=rng.choice((timedelta(0), timedelta(0), timedelta(minutes=90))),
        grace=rng.choice((timedelta(minutes=1), timedelta(minutes=5), HOUR)),
        catch_up=rng.choice(("last", "none", "all")),
        catch_up_window=rng.choice((HOUR, 24 * HOUR, 72 * HOUR)),
        catch_up_limit=rng.randint(1, 5),
        overlap=rng.choice(("skip", "skip", "queue", "replace", "allow")),
        blackout=rng.choice(((), (), (), (rng.choice(CALENDARS),), CALENDARS[:2])),
        on_blackout=rng.choice(("skip", "postpone")),
        window=rng.choice((None, None, rng.choice(WINDOWS))),
        start_by=rng.choice((None, None, HOUR, 30 * HOUR)),
        retry=RetryPolicy(attempts=rng.randint(1, 3)),
        priority=rng.randint(0, 2),
    )


def _schedule(rng: random.Random, name: str) -> Schedule:
    if name > "job-0" and rng.random() < 0.2:
        parents = tuple(f"job-{number}" for number in range(int(name[-1])))  # never a later one: no cycles
        return After(parents[-1:] if rng.random() < 0.5 else parents, rng.choice((_FINE, frozenset(Outcome))))
    if rng.random() < 0.15:
        return Every(rng.choice((7, 12, 24, 36)) * HOUR, rng.randrange(7) * timedelta(minutes=11))
    return Cron(rng.choice(EXPRESSIONS))
