"""Chance: jobs and their changes, drawn from a seeded source, so that a seed tells the whole story."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, time, timedelta
from typing import Any

from erpsync.core.job import After, At, Calendar, Cron, Every, Job, RetryPolicy, Schedule, Window
from erpsync.core.run import Outcome
from tests.simulation.conduct import Limits

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
WINDOWS = (
    Window(time(22), time(6)),
    Window(time(1), time(4, 30)),
    Window(time(3), time(3, 45)),
    Window(time(2), time(5), at_end="checkpoint"),
    Window(time(23, 30), time(3, 15), at_end="checkpoint"),
)
HURRIES = (
    Every(timedelta(seconds=10)),
    Every(timedelta(seconds=7), timedelta(seconds=3)),
    Cron("*/5 * * * * *"),
)
"""Schedules of jobs that run for less than half an hour."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_FINE = frozenset({Outcome.SUCCEEDED, Outcome.PARTIAL})


def some_limits(rng: random.Random) -> Limits:
    """Few slots, so that they are missed."""
    return Limits(
        rng.randint(1, 3), {"acme": rng.randint(1, 2)}, {"warehouse": 1, "night": rng.randint(1, 2)}
    )


def some_jobs(rng: random.Random, now: datetime) -> list[Job]:
    """One to three jobs."""
    names = [f"job-{number}" for number in range(rng.randint(1, 3))]
    return [_job(rng, name, now, names) for name in names]


def changed_jobs(rng: random.Random, jobs: list[Job], now: datetime) -> list[Job]:
    """The jobs after somebody has edited one of them: another schedule, other rules, switched off, gone, new."""
    number = rng.randrange(4)
    present = next((job for job in jobs if _number(job.name) == number), None)
    names = [job.name for job in jobs]
    if present is None:
        return [*jobs, _job(rng, f"job-{number}", now, names)]
    kept = [job for job in jobs if job is not present]
    match rng.randrange(5):
        case 0:
            return kept
        case 1:
            return [*kept, replace(present, enabled=not present.enabled)]
        case 2:
            return [*kept, replace(_job(rng, present.name, now, names), **_identity(present))]
        case 3:
            return [_renamed(job, present.name, f"{present.name}x") for job in jobs]
        case _:
            return [*kept, replace(_job(rng, present.name, now, names), formerly=present.formerly)]


def _identity(job: Job) -> dict[str, Any]:
    return {"schedules": job.schedules, "start": job.start, "end": job.end, "formerly": job.formerly}


def _renamed(job: Job, former: str, name: str) -> Job:
    """A job after one, perhaps itself, has got another name."""
    if job.name == former:
        return replace(job, name=name, definition=name, formerly=(*job.formerly, former))
    schedules = [
        replace(each, jobs=tuple(name if parent == former else parent for parent in each.jobs))
        if isinstance(each, After)
        else each
        for each in job.schedules
    ]
    return replace(job, schedules=tuple(schedules)) if tuple(schedules) != job.schedules else job


def _number(name: str) -> int:
    return int(name.removeprefix("job-").rstrip("x"))


def duration(rng: random.Random, *, calm: bool) -> timedelta:
    """How long an attempt takes: minutes mostly, hours at times, more than a day at bad times."""
    kind = rng.random()
    if calm or kind < 0.85:
        return timedelta(minutes=1 + 20 * rng.random())
    return HOUR * (40 if kind > 0.98 else 6) * rng.random()


def _job(rng: random.Random, name: str, now: datetime, names: Sequence[str]) -> Job:
    """One of this name; it comes after jobs of lower numbers at most, so there are no cycles."""
    number = _number(name)
    parents = tuple(sorted(each for each in names if _number(each) < number))
    schedules = tuple(_schedule(rng, now, parents) for _ in range(rng.choice((1, 1, 1, 2))))
    hurries = rng.random() < 0.04
    start = now + rng.random() * 3 * DAY if hurries else None
    return Job(
        name,
        name,
        "mirror",
        instance=rng.choice((None, "acme", "beta")),
        schedules=(rng.choice(HURRIES),) if hurries else schedules,
        timezone=rng.choice(ZONES),
        dst=rng.choice(("vixie", "vixie", "skip", "literal")),
        start=start,
        end=start + rng.random() * HOUR / 3 if start else rng.choice((None,) * 9 + (now + 90 * DAY,)),
        spread=rng.choice((timedelta(0), timedelta(0), timedelta(minutes=90))),
        grace=rng.choice((timedelta(minutes=1), timedelta(minutes=5), HOUR)),
        catch_up=rng.choice(("last", "none", "all")),
        catch_up_window=rng.choice((HOUR, 24 * HOUR, 72 * HOUR)),
        catch_up_limit=rng.randint(1, 5),
        timeout=rng.choice((HOUR, HOUR, 5 * HOUR)),
        overlap=rng.choice(("skip", "skip", "queue", "replace", "allow")),
        blackout=rng.choice(((), (), (), (rng.choice(CALENDARS),), CALENDARS[:2])),
        on_blackout=rng.choice(("skip", "postpone")),
        window=rng.choice((None, None, rng.choice(WINDOWS))),
        start_by=rng.choice((None, None, HOUR, 30 * HOUR)),
        retry=RetryPolicy(attempts=rng.randint(1, 3)),
        pool=rng.choice((None, None, "warehouse", "night")),
        priority=rng.randint(0, 2),
        repeatable=rng.random() < 0.9,
    )


def _schedule(rng: random.Random, now: datetime, parents: tuple[str, ...]) -> Schedule:
    kind = rng.random()
    if parents and kind < 0.2:
        return After(parents[-1:] if rng.random() < 0.5 else parents, rng.choice((_FINE, frozenset(Outcome))))
    if kind < 0.3:
        return Every(rng.choice((7, 12, 24, 36)) * HOUR, rng.randrange(7) * timedelta(minutes=11))
    if kind < 0.35:
        return At(now + rng.random() * 9 * DAY)
    return Cron(rng.choice(EXPRESSIONS))
