"""Gate, book and admission in virtual time, against a server that counts: many nights, by chance.

NIGHTS=2000 plays more of them; SEED=… begins elsewhere.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from erpsync.core.errors import LicenseExhaustedError, TokenEndpointError
from erpsync.core.event import silent
from erpsync.core.instance import GrantKind
from erpsync.core.run import Run, RunTrigger
from erpsync.core.session import Session
from erpsync.core.token import AccessToken
from erpsync.erpnet.gate import Seen, SessionGate
from erpsync.erpnet.slots import SlotBook
from erpsync.running.admission import Admission
from erpsync.store.sessions import write_sessions
from tests.erpnet.virtual import VirtualClock, in_virtual_time

NIGHTS = int(os.environ.get("NIGHTS", "60"))
SEED = int(os.environ.get("SEED", "1"))
CLOCK = VirtualClock()
HOUR = 3600.0
_IDLE, _ABSOLUTE = 20 * 60.0, HOUR


class FullError(Exception):
    """MaximumLicenseCountExceeded."""


@dataclass
class Server:
    """Sessions as ERP.net keeps them: by token, or by sign-in for a person."""

    slots: int
    sessions: dict[str, tuple[float, float, bool]] = field(default_factory=dict)  # key: opened, used, person
    owner: dict[str, str] = field(default_factory=dict)
    opened: Counter[str] = field(default_factory=Counter)
    most: int = 0
    side_by_side: int = 0

    def call(self, key: str, identity: str, *, person: bool) -> None:
        now = CLOCK.boot()
        self.sessions = {
            other: (opened, used, sliding)
            for other, (opened, used, sliding) in self.sessions.items()
            if now < used + _IDLE and (sliding or now < opened + _ABSOLUTE)
        }
        if key not in self.sessions:
            if len(self.sessions) >= self.slots:
                raise FullError
            self.sessions[key] = now, now, person
            self.owner[key] = identity
            self.opened[identity] += 1
            self.most = max(self.most, len(self.sessions))
        opened, _, sliding = self.sessions[key]
        self.sessions[key] = opened, now, sliding


class Tokens:
    """An Auth: tokens of an hour, kept over a crash where they are sealed."""

    def __init__(self, identity: str, grant: GrantKind, rng: random.Random, *, sealed: bool) -> None:
        self.identity = identity
        self.grant = grant
        self.rng = rng
        self.sealed = sealed
        self.held: AccessToken | None = None
        self.requests = 0
        self.away = False

    async def token(
        self, *, min_valid: timedelta = timedelta(0), max_age: timedelta | None = None
    ) -> AccessToken:
        held, now = self.held, CLOCK.now()
        if (
            held is not None
            and now < held.expires_at - timedelta(seconds=60)
            and (max_age is None or now - held.obtained_at <= max_age or self.grant == "reference_token")
        ):
            return held
        await asyncio.sleep(self.rng.uniform(0.01, 2.0))
        if self.away:
            raise TokenEndpointError("away", retryable=True)
        self.requests += 1
        life = timedelta(days=365) if self.grant == "reference_token" else timedelta(hours=1)
        value = f"{self.identity} {self.requests}"
        self.held = AccessToken(value, self.requests, now, now + life)
        return self.held

    def invalidate(self, version: int, reason: str) -> None:
        if self.held is not None and self.held.version == version:
            self.held = None

    def crash(self) -> None:
        if not self.sealed:
            self.held = None


class Disk:
    """The store: what is written survives; a crash may come before or after."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], Session] = {}

    def submit(self, operation: Callable[..., Any], item: Session) -> "Future[Any]":
        key = item.instance, item.identity, item.fingerprint
        if operation is write_sessions:
            self.rows[key] = item
        else:
            self.rows.pop(key, None)
        return Future()

    async def write(self, operation: Callable[..., Any], item: Session) -> None:
        await asyncio.sleep(0.003)
        self.submit(operation, item)
        await asyncio.sleep(0.002)


class Night:
    """Some identities with their runs at one instance; whatever is needed may be killed and started again."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.slots = rng.choice((1, 1, 2, 2, 3))
        self.server = Server(self.slots)
        self.disk = Disk()
        grants: tuple[GrantKind, ...] = ("client_credentials",) * 5 + (
            "reference_token",
            "authorization_code",
        )
        self.tokens = {}
        for number in range(rng.randint(1, 4)):
            name, grant = f"i{number}", rng.choice(grants)
            self.tokens[name] = Tokens(name, grant, rng, sealed=rng.random() < 0.6)
        self.lasting = rng.choice((30.0, 300.0, 1500.0))
        self.crashes = rng.random() < 0.5
        self.refusals = rng.random() < 0.3  # the API refuses tokens now and then
        self.unfinished: dict[str, Run] = {}
        self.due: dict[str, float] = {}
        self.hog = rng.random() < 0.4  # one identity always has work
        self.hungry: dict[str, float] = {}  # identities with work of which nothing runs, since when
        self.working: Counter[str] = Counter()
        self.longest_wait = self.longest_run = 0.0
        self.exhausted = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.numbers = iter(range(10**9))
        self.refused = 0
        self.alive = False
        self.alarm: asyncio.TimerHandle | None = None

    async def play(self) -> None:
        self.start()
        end = CLOCK.boot() + 10 * HOUR
        while CLOCK.boot() < end:
            await asyncio.sleep(self.rng.expovariate(1 / self.rng.choice((20, 300, 2000))))
            if self.crashes and self.rng.random() < 0.03:
                await self.fall()
            for _ in range(self.rng.choice((0, 1, 1, 5))):
                self.claim(self.rng.choice(list(self.tokens)))
            while self.hog and len(self.unfinished) < 30:
                self.claim("i0")
            self.pump()
        last = CLOCK.boot() + 60 * HOUR
        while self.unfinished and CLOCK.boot() < last:
            await asyncio.sleep(30)
            self.pump()
        assert not self.unfinished, f"never ended: {sorted(self.unfinished)}"

    def judge(self) -> None:
        """What must hold whatever happened, and what must where neither crash nor refusal did."""
        assert self.server.most <= self.slots, "more sessions than slots"
        assert not self.refused, "the server had no slot"
        if not self.crashes and not self.refusals:
            assert not self.exhausted, "a run was let start and had no slot"
            turns = len(self.tokens)
            assert self.longest_wait < turns * (1.5 * HOUR + self.longest_run), "somebody starves"

    def claim(self, identity: str) -> None:
        number = next(self.numbers)
        run = Run(
            f"r{number:06}",
            f"job {number}",
            "at",
            "p",
            RunTrigger.SCHEDULE,
            CLOCK.now(),
            instance="acme",
            identity=identity,
        )
        self.unfinished[run.id] = run
        if not self.working[identity]:
            self.hungry.setdefault(identity, CLOCK.boot())
        if self.alive:
            self.admission.put(run)

    # -- the daemon ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.book = SlotBook("acme", self.slots, CLOCK, silent)
        self.book.load(self.disk.rows.values())
        self.gates = {
            name: SessionGate(
                name,
                tokens.grant,
                tokens,
                self.book,
                store=self.disk,  # type: ignore[arg-type]
                clock=CLOCK,
                emit=silent,
            )
            for name, tokens in self.tokens.items()
        }
        self.admission = Admission(100, {}, None, {"acme": self.book})
        for run in self.unfinished.values():
            self.admission.put(run)
        self.due.clear()
        self.alive = True

    async def fall(self) -> None:
        """Kill -9; calls under way may still arrive."""
        self.alive = False
        tasks, self.tasks = self.tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for gate in self.gates.values():
            await gate.close()
        for tokens in self.tokens.values():
            tokens.crash()
        await asyncio.sleep(self.rng.choice((1, 30, 600, 4000)) * self.rng.random())
        self.start()

    def pump(self) -> None:
        if not self.alive:
            return
        now = CLOCK.boot()
        for run_id in [run_id for run_id, at in self.due.items() if at <= now]:
            del self.due[run_id]
            self.admission.put(self.unfinished[run_id])
        for run in self.admission.take():
            task = asyncio.get_running_loop().create_task(self.work(run))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        self.look_again()

    def look_again(self) -> None:
        """What the runner's alarm does: time alone may free a slot."""
        loop = asyncio.get_running_loop()
        if self.alarm is not None:
            self.alarm.cancel()
        seconds = self.admission.awaits_slot()
        self.alarm = None if seconds is None else loop.call_later(seconds, self.pump)

    async def work(self, run: Run) -> None:
        assert run.identity is not None
        began = CLOCK.boot()
        self.working[run.identity] += 1
        self.longest_wait = max(self.longest_wait, began - self.hungry.pop(run.identity, began))
        try:
            for _ in range(self.rng.randint(0, 6)):
                await asyncio.sleep(min(self.rng.expovariate(1 / self.lasting), 4 * self.lasting))
                await self.call(run.identity)
            del self.unfinished[run.id]
            self.longest_run = max(self.longest_run, CLOCK.boot() - began)
        except LicenseExhaustedError as error:
            self.exhausted += 1
            self.due[run.id] = CLOCK.boot() + (error.retry_after or timedelta(hours=99)).total_seconds()
        finally:
            self.working[run.identity] -= 1
            if not self.working[run.identity] and any(
                other.identity == run.identity for other in self.unfinished.values()
            ):
                self.hungry.setdefault(run.identity, CLOCK.boot())
            self.admission.release(run.id)
            asyncio.get_running_loop().call_soon(self.pump)

    async def call(self, identity: str) -> None:
        gate, tokens = self.gates[identity], self.tokens[identity]
        for _ in range(2):
            lease, token = await gate.enter()
            sent = gate.sent(lease)
            seen = Seen.UNKNOWN
            try:
                try:
                    await asyncio.sleep(self.rng.uniform(0.0, 3.0))
                except asyncio.CancelledError:  # what was sent arrives
                    self.arrives(token.value, identity, tokens.grant)
                    raise
                if self.refusals and self.rng.random() < 0.01:
                    seen = Seen.NOTHING
                    gate.invalidate(token.version, "401")
                    continue
                try:
                    self.arrives(token.value, identity, tokens.grant)
                except FullError:
                    seen = Seen.NOTHING
                    self.refused += 1
                    raise gate.refused(lease, "GET x") from None
                await asyncio.sleep(self.rng.choice((0.01, 0.3, 5.0)))
                seen = Seen.OPEN
                return
            finally:
                gate.answered(lease, sent, seen)

    def arrives(self, value: str, identity: str, grant: GrantKind) -> None:
        person = grant == "authorization_code"
        self.server.call(identity if person else value, identity, person=person)


def _seeds() -> Iterator[int]:
    yield from range(SEED, SEED + NIGHTS)


@pytest.mark.parametrize("block", range(4))
def test_slots_are_kept_and_nobody_starves(block: int) -> None:
    """Whatever happens: never more sessions than slots, the server refuses nobody, and every run ends."""
    for seed in list(_seeds())[block::4]:
        night = Night(seed)
        try:
            in_virtual_time(night.play())
            night.judge()
        except AssertionError as error:
            raise AssertionError(f"SEED={seed}: {error}") from error
