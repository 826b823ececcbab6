"""The gates of identity servers: few token requests at once, none while a server asks for patience."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import httpx2

from erpsync.core.clock import Clock
from erpsync.core.errors import TokenEndpointError
from erpsync.identity.exchange import Answer

_AT_ONCE = 2
_LONGEST_OWN_WAIT = 60.0


class ServerGates:
    """The gate of each identity server: by the address of its token endpoint, whatever leads there."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gates: dict[tuple[str, str, int | None], ServerGate] = {}

    def at(self, token_endpoint: str) -> "ServerGate":
        """The gate that all who ask there share."""
        url = httpx2.URL(token_endpoint)
        return self._gates.setdefault((url.scheme, url.host, url.port), ServerGate(self._clock))


class ServerGate:
    """Shared by all identities of a server: what it asks of one (429, Retry-After) holds for all of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._closed_until = 0.0
        self._refused = 0  # answers of 429 in a row

    async def send(self, request: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer to `request`, which is made when there is a place.

        Raises:
            TokenEndpointError: the server wants to be left alone for a while; nothing was sent.
        """
        async with self._places:
            left = self._closed_until - self._clock.boot()
            if left > 0:
                raise TokenEndpointError(
                    "the identity server has asked to be left alone for a while",
                    status=429,
                    retryable=True,
                    retry_after=timedelta(seconds=left),
                    hint="it limits how often it is asked; what waits goes on by itself",
                )
            answer = await request()
            self._heed(answer)
            return answer

    def _heed(self, answer: Answer) -> None:
        limited = answer.status == 429
        self._refused = self._refused + 1 if limited else 0
        asked = answer.retry_after if answer.status >= 400 else None
        if asked is not None:
            wait = asked.total_seconds()
        elif limited:
            wait = min(2.0 ** min(self._refused - 1, 10), _LONGEST_OWN_WAIT)
        else:
            return
        self._closed_until = max(self._closed_until, self._clock.boot() + wait)
