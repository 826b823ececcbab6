"""What a fresh token costs its callers, against an awaited attribute."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from measure import Figure

from erpsync.core.clock import SystemClock
from erpsync.core.event import silent
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.core.token import AccessToken
from erpsync.identity.manager import TokenManager
from erpsync.identity.source import Fetched, Grant, SourceFacts

CALLS = 20_000
ROUNDS = 15


class OneToken:
    """A source whose server is no part of what is measured."""

    async def fetch(self, *, anew: bool = False) -> Fetched:
        clock = SystemClock()
        return Fetched(Grant("opaque-token-1", 3600.0, ("read",)), clock.now(), clock.boot())

    async def changed(self) -> bool:
        return False

    def withdrawn(self) -> bool:
        """It is not."""
        return False

    def facts(self) -> SourceFacts:
        return SourceFacts()


@dataclass
class Attribute:
    """The least that an asynchronous `token` can do."""

    value: AccessToken

    async def token(self) -> AccessToken:
        return self.value


async def microseconds(token: Callable[[], Awaitable[AccessToken]]) -> float:
    """What one of many calls in a row takes."""
    begin = time.perf_counter()
    for _ in range(CALLS):
        await token()
    return (time.perf_counter() - begin) / CALLS * 1e6


async def medians() -> tuple[float, float]:
    """Manager and attribute, measured in turns, so that a busy moment meets both."""
    now = datetime.now(UTC)
    attribute = Attribute(AccessToken("x", 1, now, now + timedelta(hours=1)))
    manager = TokenManager(
        Identity("night", "acme"), OneToken(), clock=SystemClock(), emit=silent, redactor=Redactor()
    )
    rounds = [(await microseconds(manager.token), await microseconds(attribute.token)) for _ in range(ROUNDS)]
    ours, other = zip(*rounds, strict=True)
    return statistics.median(ours), statistics.median(other)


def figures() -> list[Figure]:
    """A fresh token of one identity."""
    ours, other = asyncio.run(medians())
    return [Figure("a fresh token", ours, "µs", other, "awaited attribute", "≤ 5 µs more")]
