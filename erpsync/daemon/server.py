"""Serving an ASGI application inside the daemon's own event loop."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


class EmbeddedServer:
    """uvicorn without its signal handlers, logging and ticking; start returns when it serves, stop when it ended."""

    def __init__(self, application: Any, listener: socket.socket, protocol: Any = "h11") -> None:
        config = uvicorn.Config(
            application,
            http=protocol,
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
        self._task = asyncio.create_task(self._server.serve([self._listener]))
        await self._server.ready.wait()

    async def stop(self) -> None:
        """Finish the answers under way, for a second at most, and close the socket."""
        if self._task is None:
            self._listener.close()
            return
        self._server.over.set()
        await self._task
        self._task = None


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
