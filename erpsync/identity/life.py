"""A token's life: the windows before its end, the phases between them, and how long to wait after a failure."""

import random
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Literal

from erpsync.core.clock import Clock
from erpsync.core.errors import ErpsyncError, LoginRequiredError
from erpsync.core.token import AccessToken
from erpsync.identity.source import Origin

Renewal = Literal["late", "early"]
"""late: one token serves its whole life, since each new one may open a session (ERP.net); early: room for trouble."""

PROBE_SECONDS = 900.0
_SPARE_SECONDS = 10.0
_READ_AGAIN_SECONDS = 300.0
_LOOK_APART_SECONDS = 5.0


class Phase(StrEnum):
    """How a held token stands to its end."""

    FRESH = "fresh"
    AGING = "aging"
    """Served while its successor is asked for in the background."""
    EXPIRING = "expiring"
    """Callers wait a little for the successor."""
    EXPIRED = "expired"
    """Nobody gets it any more."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Seconds before the end: `soft` where AGING begins, `hard` where EXPIRING does, `spare` where it is over."""

    soft: float
    hard: float
    spare: float


def windows(lifetime: float, renewal: Renewal, *, jitter: float = 0.0) -> Windows:
    """The windows of a token that lives `lifetime` seconds; they shrink with it, so short tokens stay usable.

    `jitter` in [0, 1) moves the early soft window ahead by up to a tenth of the life.
    """
    if renewal == "late":
        hard = min(max(0.05 * lifetime, 1.0), 30.0, lifetime / 2)
        soft = max(min(0.10 * lifetime, 60.0), hard)
    else:
        hard = min(max(0.10 * lifetime, 1.0), 60.0, lifetime / 2)
        soft = max(min(0.20 * lifetime, 900.0), hard) + jitter * 0.10 * lifetime
    return Windows(soft, hard, min(_SPARE_SECONDS, hard / 3))


def reading_windows(lifetime: float) -> Windows:
    """The windows of a token made by hand: it serves to its very end, and is read again every five minutes."""
    return Windows(max(lifetime - _READ_AGAIN_SECONDS, 0.0), 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class HeldToken:
    """A token with its life on both clocks: it is over, or too old, when either says so.

    `promise` is the longest remaining life that can be asked of it without asking for a new one at once. `origin`
    is that of `Fetched`.
    """

    token: AccessToken
    sent_at_boot: float
    ends_at_boot: float
    windows: Windows
    promise: float
    origin: Origin = "issued"

    @property
    def fixed(self) -> bool:
        """It was made by hand: asking again gives the same one."""
        return self.origin == "fixed"

    def left(self, clock: Clock) -> float:
        """Seconds of life; a wall clock set back gives none."""
        return min(self.ends_at_boot - clock.boot(), (self.token.expires_at - clock.now()).total_seconds())

    def is_older(self, max_age: timedelta, clock: Clock) -> bool:
        """Whether it was obtained longer ago than `max_age`, if another could be had at all."""
        age = max(clock.boot() - self.sent_at_boot, (clock.now() - self.token.obtained_at).total_seconds())
        return age > max_age.total_seconds() and not self.fixed

    def phase(self, left: float) -> Phase:
        if left > self.windows.soft:
            return Phase.FRESH
        if left > self.windows.hard:
            return Phase.AGING
        return Phase.EXPIRING if left > self.windows.spare else Phase.EXPIRED


@dataclass(frozen=True, slots=True)
class Failure:
    """The last renewal's error: when (boot-time clock), the how-manieth in a row, and the server's own wait."""

    error: ErpsyncError
    at: float
    count: int
    retry_after: float
    spread: float

    def next_try(self, phase: Phase) -> float:
        """When (boot-time clock) the next request may go out, while the held token is in `phase`."""
        if not self.error.retryable:
            return self.at + max(PROBE_SECONDS, self.retry_after)
        doubled = 2.0 ** min(self.count - 1, 10)
        ours = {
            Phase.FRESH: 15.0 * doubled,
            Phase.AGING: min(15.0 * doubled, 300.0),
            Phase.EXPIRING: 5.0,
            Phase.EXPIRED: min(doubled, 5.0),
        }[phase]
        return self.at + max(ours * (1 + self.spread), self.retry_after * (1 + abs(self.spread) / 2))


class Next(StrEnum):
    """What may be done about a token that is not fresh."""

    WAIT = "wait"
    """It is too early after a failure."""
    LOOK = "look"
    """Only if a person has changed what was refused."""
    ASK = "ask"


def next_step(failed: Failure | None, phase: Phase, now: float, looked_at: float) -> Next:
    """What may be done `now`, when the source was last asked or looked at `looked_at` (boot-time clock)."""
    if failed is None or now >= failed.next_try(phase):
        return Next.ASK
    # a look at a file, where secrets may be commands
    signed_out = isinstance(failed.error, LoginRequiredError)
    apart = 0.0 if signed_out else _LOOK_APART_SECONDS
    return Next.LOOK if not failed.error.retryable and now - looked_at >= apart else Next.WAIT


def failure(error: ErpsyncError, at: float, count: int) -> Failure:
    """A failure now, spread by up to a fifth so that identities do not come back together."""
    wait = getattr(error, "retry_after", None)
    spread = random.uniform(-0.2, 0.2)  # noqa: S311 - a spread
    return Failure(error, at, count, wait.total_seconds() if wait else 0.0, spread)
