"""What an identity server says about itself, remembered: in this process, and in a folder for the next one."""

import asyncio
import contextvars
import copy
import hashlib
import json
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2

from erpsync.core.clock import Clock
from erpsync.core.errors import DiscoveryError
from erpsync.identity.discovery import ServerMetadata, fetch_metadata

_FRESH = timedelta(hours=24)
_USABLE = timedelta(days=7)
_AGAIN_SECONDS = 60.0  # after a description could not be read, and the one before does


class MetadataSource:
    """Gives the metadata of one issuer: asked once a day beside those who need it, kept for a week while the server
    does not answer.

    Who asks at once shares one request, or its failure. `memory` is a folder where the metadata outlive this process;
    nothing in it is secret.
    """

    def __init__(
        self,
        client: httpx2.AsyncClient,
        issuer: Callable[[], Awaitable[str]],
        *,
        clock: Clock,
        memory: Path | None = None,
    ) -> None:
        self._client = client
        self._issuer = issuer
        self._clock = clock
        self._memory = memory
        self._known: ServerMetadata | None = None
        self._read_at = 0.0
        self._fresh_until = 0.0
        self._doubted = False
        self._refreshing: asyncio.Task[None] | None = None
        self._asking = asyncio.Lock()
        self._failed: tuple[float, DiscoveryError] | None = None  # when, on the boot-time clock

    async def get(self) -> ServerMetadata:
        """The metadata. Raises DiscoveryError where none are known that are young enough."""
        asked = self._clock.boot()
        if self._known is not None and asked < self._fresh_until:
            return self._known
        if self._known is not None and not self._doubted and asked - self._read_at <= _USABLE.total_seconds():
            if self._refreshing is None or self._refreshing.done():
                self._refreshing = asyncio.create_task(
                    self._refresh(), name="metadata", context=contextvars.Context()
                )
            return self._known
        async with self._asking:
            if self._known is not None and asked < self._fresh_until:
                return self._known
            if self._failed is not None and self._failed[0] > asked:
                raise copy.copy(self._failed[1])  # somebody has just run into it
            try:
                return await self._ask()
            except DiscoveryError as error:
                self._failed = (self._clock.boot(), error)
                raise

    async def close(self) -> None:
        """End a request under way that nobody waits for; closing twice is fine."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    async def _refresh(self) -> None:
        """Read it anew beside whoever goes on with what is known."""
        async with self._asking:
            try:
                await self._ask()
            except DiscoveryError as error:
                self._failed = (self._clock.boot(), error)
                self._fresh_until = self._clock.boot() + _AGAIN_SECONDS

    async def _ask(self) -> ServerMetadata:
        now, issuer = self._clock.boot(), ""
        try:
            issuer = await self._issuer()
            self._known = await fetch_metadata(self._client, issuer, clock=self._clock)
        except DiscoveryError as error:
            if self._known is None and self._memory and issuer and error.retryable:
                await asyncio.to_thread(self._recall, issuer)
            too_old = now - self._read_at > _USABLE.total_seconds()
            if self._known is None or not error.retryable or too_old:
                raise
            self._fresh_until, self._doubted = self._clock.boot() + _AGAIN_SECONDS, False
            return self._known
        self._read_at, self._doubted = now, False
        self._fresh_until = now + _FRESH.total_seconds() * random.uniform(0.9, 1.1)  # noqa: S311 - a spread
        await asyncio.to_thread(self._remember, self._known)
        return self._known

    def doubt(self) -> None:
        """Something went wrong at these addresses: ask again next time, and still do without an answer."""
        self._fresh_until, self._doubted = 0.0, True

    def _recall(self, issuer: str) -> None:
        """What the process before knew, if it is young enough and says what it should."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(self._file(issuer).read_text())
            age = self._clock.now() - datetime.fromisoformat(kept["read_at"])
            fields: dict[str, Any] = {
                key: tuple(one) if isinstance(one, list) else one for key, one in kept["server"].items()
            }
            known = ServerMetadata(**fields)
            if age >= timedelta(0) and known.issuer == issuer:
                self._known, self._read_at = known, self._clock.boot() - age.total_seconds()

    def _remember(self, known: ServerMetadata) -> None:
        """A disk that refuses costs nothing now."""
        if self._memory is None:
            return
        file = self._file(known.issuer)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        with suppress(OSError):
            file.parent.mkdir(mode=0o700, exist_ok=True)
            kept = {"read_at": self._clock.now().isoformat(), "server": asdict(replace(known, skew=None))}
            temporary.write_text(json.dumps(kept))
            temporary.replace(file)

    def _file(self, issuer: str) -> Path:
        assert self._memory is not None
        return self._memory / (hashlib.sha256(issuer.encode()).hexdigest()[:32] + ".json")
