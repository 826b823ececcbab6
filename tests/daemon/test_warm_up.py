"""Cold identities are made ready before their jobs start: the real engine over a real store, a clock by hand."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from erpsync.core.clock import ManualClock
from erpsync.core.event import silent
from erpsync.core.job import Cron, Every, Job, Manual, Window
from erpsync.daemon.warm_up import AHEAD, LOOK, WarmUp
from erpsync.scheduling.engine import Engine
from erpsync.store.state import Store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Asked:
    """Writes down for whom a token was to be prepared, and when."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.at: list[tuple[str, datetime]] = []

    async def prepare(self, identity: str) -> None:
        self.at.append((identity, self._clock.now()))

    def times(self) -> Counter[str]:
        return Counter(identity for identity, _ in self.at)


@asynccontextmanager
async def foreseeing(folder: Path, clock: ManualClock, jobs: Iterable[Job]) -> AsyncIterator[Asked]:
    store = Store.open(folder / "state.db")
    named = {job.name: job for job in jobs}
    engine, asked = Engine(named, store, clock, silent, lambda runs: None), Asked(clock)
    await engine.start()
    looking = asyncio.create_task(WarmUp(engine, lambda: named, asked.prepare, clock).run())
    await asyncio.sleep(0)
    yield asked
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    await engine.stop()
    store.close()


async def passes(clock: ManualClock, time: timedelta) -> None:
    """Let time pass, every second of it seen by everybody."""
    for _ in range(int(time.total_seconds())):
        clock.advance(timedelta(seconds=1))
        for _ in range(5):
            await asyncio.sleep(0)


def job(name: str, identity: str | None, *schedules: Cron | Every | Manual, **more: object) -> Job:
    return Job(name, name, "noop", identity, schedules=schedules, **more)  # type: ignore[arg-type]


async def test_an_identity_is_prepared_once_shortly_before_its_jobs_start(tmp_path: Path) -> None:
    """Forty jobs of one identity at one instant: asked for once, less than a minute and some seconds before it."""
    clock = ManualClock(NOON)
    jobs = [job(f"night-{number}", "night", Cron("5 12 * * *")) for number in range(40)]
    async with foreseeing(tmp_path, clock, jobs) as asked:
        await passes(clock, timedelta(minutes=4))
        assert asked.at == []
        await passes(clock, timedelta(seconds=59))
        assert asked.times() == {"night": 1}
        (_, at) = asked.at[0]
        assert timedelta(0) < NOON + 5 * MINUTE - at <= AHEAD
        await passes(clock, timedelta(minutes=10))
        assert asked.times() == {"night": 1}


async def test_idle_identities_are_left_alone(tmp_path: Path) -> None:
    """A manual job, one of tomorrow, one outside its window and one without identity ask for nothing."""
    clock = ManualClock(NOON)
    minutely = Every(MINUTE)
    window = Window(time(20), time(23))
    jobs = [
        job("by-hand", "hand", Manual()),
        job("tomorrow", "morning", Cron("0 3 * * *")),
        job("evening", "late", minutely, window=window),
        job("bare", None, minutely),
        job("busy", "busy", minutely),
    ]
    async with foreseeing(tmp_path, clock, jobs) as asked:
        await passes(clock, timedelta(minutes=3))
    assert set(asked.times()) == {"busy"}


async def test_only_what_is_due_is_asked_for(tmp_path: Path) -> None:
    """Of two thousand jobs and identities only the three that are due are asked for."""
    clock = ManualClock(NOON)
    jobs = [job(f"job-{number}", f"id-{number}", Cron("0 18 * * *")) for number in range(2_000)]
    jobs += [job(f"soon-{number}", f"soon-{number}", Cron("1 12 * * *")) for number in range(3)]
    async with foreseeing(tmp_path, clock, jobs) as asked:
        await passes(clock, timedelta(seconds=20) + LOOK + timedelta(seconds=15))
    assert asked.times() == {"soon-0": 1, "soon-1": 1, "soon-2": 1}
