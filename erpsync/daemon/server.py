"""Serving an ASGI application inside the daemon's own event loop."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from erpsync.core.fork_safety import forget, keep_from_copies

_BACKLOG = 64  # the event loop accepts as many in one go, and all of them are refused where files run out
_MOST_CONNECTIONS = 128
_PATIENCE = 5.0  # seconds for a client to send a whole request


class EmbeddedServer:
    """uvicorn without its signal handlers, logging and ticking; start returns when it serves, stop when it ended.

    Neither many connections nor silent ones can hold it up: those beyond `most` are closed at once, those that owe
    (the rest of) a request for `patience` seconds soon after.
    """

    def __init__(
        self,
        application: Any,
        listener: socket.socket,
        protocol: type[H11Protocol] = H11Protocol,
        *,
        most: int = _MOST_CONNECTIONS,
        patience: float = _PATIENCE,
    ) -> None:
        config = uvicorn.Config(
            application,
            http=_guarded(protocol, most, patience),
            backlog=_BACKLOG,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept connections from now on."""
        keep_from_copies(self._listener.fileno())
        self._task = asyncio.create_task(self._server.serve([self._listener]))
        await self._server.ready.wait()

    async def stop(self) -> None:
        """Finish the answers under way, for a second at most, and close the socket."""
        forget(self._listener.fileno())
        if self._task is None:
            self._listener.close()
            return
        self._server.over.set()
        await self._task
        self._task = None


def _guarded(protocol: type[H11Protocol], most: int, patience: float) -> type[H11Protocol]:
    """The protocol with a limit on its connections and on the patience with each."""

    class Guarded(protocol):  # type: ignore[valid-type,misc]  # a class made from its argument
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._owed: object = None  # after which exchange the client owed a request at the last look
            self._look = self.loop.call_later(patience, self._lose_patience)
            if len(self.connections) > most:
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._look.cancel()
            super().connection_lost(exc)

        def _lose_patience(self) -> None:
            """Close where it is the client's turn, as it was at the last look."""
            owes = self.cycle is None or self.cycle.more_body or self.cycle.response_complete
            if owes and self.cycle is self._owed:
                self.transport.abort()
                return
            self._owed = self.cycle if owes else self  # which is no exchange
            self._look = self.loop.call_later(patience, self._lose_patience)

    return Guarded


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.over = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the daemon's own business."""
        yield

    async def main_loop(self) -> None:
        """Wait for the end instead of waking ten times a second."""
        self.ready.set()
        await self.over.wait()
