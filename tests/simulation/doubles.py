"""What is played: the plugin's work and the hints of the machine's timers; and the queue of slots, watched."""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from erpsync.core.run import Run, RunTrigger
from erpsync.plugins.contract import Plugin
from erpsync.running.admission import Admission
from erpsync.running.alarm import Alarm
from erpsync.running.attempt import LiveAttempt
from erpsync.running.channel import Done
from erpsync.running.fault import Fault, fault_of
from erpsync.scheduling.timetable import Timetable
from erpsync.scheduling.trigger import next_after
from tests.simulation.chance import duration
from tests.simulation.conduct import Conduct
from tests.simulation.virtual_time import POLL, VirtualClock

_PAGES = 3
STOPPED = Fault("stopped", "RunCancelledError", "asked to end")
SUCCEEDED = Done(counts={"read": 1}, cursor=None, note="")
_ANSWERS = (
    *[SUCCEEDED] * 16,
    Done(counts={"read": 2, "failed": 1}, cursor=None, note=""),
    Fault("skip", "Skip", "nothing to do"),
    Fault("error", "ThrottledError", "too many requests", retryable=True),
    Fault("error", "ThrottledError", "too many requests", retryable=True),
    Fault("error", "ValueError", "a bad row"),
    Fault("licence", "LicenseExhaustedError", "no slot"),
)


class Work:
    """In the plugin host's place: attempts that take time, fail, stop when asked, and at times do not listen."""

    def __init__(
        self,
        rng: random.Random,
        conduct: Conduct,
        is_calm: Callable[[], bool],
        fail: Callable[[Exception], None],
    ) -> None:
        self._rng = rng
        self._conduct = conduct
        self._is_calm = is_calm
        self._fail = fail

    async def work(self, attempt: LiveAttempt) -> Done | Fault:
        run = attempt.run
        try:
            self._conduct.entered(run.id, run.attempts, attempt.job)
        except (AssertionError, LookupError) as error:
            self._fail(error)
        try:
            return await self._perform(attempt)
        finally:
            self._conduct.left(run.id)

    async def put_letters_away(self, attempt: LiveAttempt, answer: Done | Fault) -> Done | Fault:
        """There are none."""
        return answer

    async def _perform(self, attempt: LiveAttempt) -> Done | Fault:
        calm, rng = self._is_calm(), self._rng
        length, is_deaf = duration(rng, calm=calm).total_seconds(), not calm and rng.random() < 0.02
        answer = SUCCEEDED if calm else rng.choice(_ANSWERS)
        try:
            return answer if await self._pages(attempt, length, _PAGES) else STOPPED
        except asyncio.CancelledError as error:
            if is_deaf:
                await asyncio.sleep(3600)
            return fault_of(error)

    async def _pages(self, attempt: LiveAttempt, seconds: float, number: int) -> bool:
        """Work for so long, with so many checkpoints; False where it is asked to stop at one."""
        for _ in range(number):
            await asyncio.sleep(seconds / number)
            self._page(attempt)
            if attempt.reporter.stopping():
                return False
        return True

    def _page(self, attempt: LiveAttempt) -> None:
        try:
            self._conduct.page(attempt.run.id, attempt.reporter.stopping())
        except AssertionError as error:
            self._fail(error)


class Hints:
    """In the alarm clock's place: rings in time mostly, late at times, and at times not at all."""

    def __init__(self, ring: Callable[[str], None], rng: random.Random, clock: VirtualClock) -> None:
        self._ring = ring
        self._rng = rng
        self._clock = clock
        self._tables: dict[str, tuple[Timetable, datetime]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._stopped = True

    def start(self) -> None:
        self._stopped = False
        for name in self._tables:
            self._wind(name)

    def set(self, timetables: Iterable[tuple[Timetable, datetime | None]]) -> None:
        for table, due in timetables:
            name = table.job.name
            self._tables.pop(name, None)
            if due is not None:
                self._tables[name] = table, due
            self._wind(name)

    def check(self) -> None:
        """The machine's timers do not follow a clock that is set; after a look they do."""
        if not self._clock.is_settled:
            for name in self._tables:
                self._wind(name)

    def stop(self) -> None:
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()

    def _wind(self, name: str, delay: float = 0.0) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
        if name in self._tables and not self._stopped:
            left = (self._tables[name][1] - self._clock.now()).total_seconds() + delay
            self._timers[name] = asyncio.get_running_loop().call_later(
                max(left, 0.0), self._due, name, delay > 0
            )

    def _due(self, name: str, late: bool) -> None:
        table, due = self._tables[name]
        now = self._clock.now()
        if now < due:  # the clock was set, or the timer was a hair early
            self._wind(name)
            return
        fate = 1.0 if late else self._rng.random()
        if fate < 0.05:
            self._wind(name, 5 * self._rng.random() + 0.001)
            return
        following = next_after(table.trigger, now - table.delay)
        self._tables.pop(name)
        if following is not None:
            self._tables[name] = table, following + table.delay
            self._wind(name)
        if fate < 0.1:
            self._clock.settle()
        else:
            self._ring(name)


class NotedAlarm(Alarm):
    """The real one; what is to be done at its hour, and is no mere look, is noted."""

    def set(self, key: object, seconds: float, call: Callable[[], object]) -> None:
        if seconds != POLL:
            assert isinstance(self._clock, VirtualClock)
            self._clock.note(seconds)
        super().set(key, seconds, call)


class WatchedAdmission(Admission):
    """The real one; each run that it lets through has to be of the highest priority among those with room."""

    conduct: Conduct

    def __init__(self, *limits: Any) -> None:
        super().__init__(*limits)
        self._seen: dict[str, Run] = {}
        self._inside: dict[str, Run] = {}

    def put(self, run: Run, pool: str | None = None) -> bool:
        is_new = super().put(run, pool)
        if is_new:
            self._seen[run.id] = run
        return is_new

    def take(self) -> Iterator[Run]:
        for run in super().take():
            del self._seen[run.id]
            jobs = self.conduct.jobs
            inside = [jobs[each.job] for each in self._inside.values() if each.job in jobs]
            for other in self._seen.values():
                if _rank(other) > _rank(run) and other.job in jobs:
                    room = self.conduct.limits.have_room(inside, jobs[other.job])
                    assert not room, f"{run} goes before {other}"
            self._inside[run.id] = run
            yield run

    def release(self, run_id: str) -> None:
        super().release(run_id)
        del self._inside[run_id]

    def withdraw(self, run_id: str) -> bool:
        self._seen.pop(run_id, None)
        return super().withdraw(run_id)

    def clear(self) -> None:
        super().clear()
        self._seen.clear()


def _rank(run: Run) -> tuple[bool, int]:
    """Slices of a backfill go behind all others."""
    return run.trigger is not RunTrigger.BACKFILL, run.priority


class NoPlugins:
    """In the catalogue's place: there are none to be found, and nobody asks for one."""

    def all(self) -> list[Plugin]:
        return []


class NoRunLog:
    """In the run logs' place."""

    def append(self, run_id: str, *records: object) -> None:
        """Nobody reads it."""

    def is_full(self, run_id: str) -> bool:
        """It takes whatever comes."""
        return False

    def close(self, run_id: str) -> None:
        """Nothing to close."""


def late(rng: random.Random) -> float:
    """By how many seconds the machine is late when something is due."""
    return rng.choice((0.0, 0.0, 0.004, 3.0))
