"""A TCP proxy that spoils what passes: put it between a client and a real server."""

import asyncio
import contextlib
import re
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Reset:
    """The connection is reset when the request arrives; with `forward` the server gets it first."""

    forward: bool = False


@dataclass(frozen=True)
class Cut:
    """The answer breaks off after so many bytes."""

    after: int


@dataclass(frozen=True)
class Latency:
    """The answer is held back for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class BlackHole:
    """The request is swallowed, with all that follows on its connection, and nothing comes back."""


Fault = Reset | Cut | Latency | BlackHole
_REQUEST = re.compile(rb"[A-Z]+ ")  # how a request begins; what begins otherwise belongs to the one before
_ABSOLUTE = re.compile(rb"^([A-Z]+) https?://[^/ ]+")


class FaultProxy:
    """Passes bytes between `url`, where clients connect, and `upstream`. Each fault queued takes one request.

    Clients may also have it as their HTTP proxy: wherever their requests go, they come to `upstream`.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._faults: deque[tuple[bytes, Fault]] = deque()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.requests = 0

    def queue(self, *faults: Fault, at: str = "") -> None:
        """The next requests with `at` in their first line meet these, one each."""
        self._faults.extend((at.encode(), fault) for fault in faults)

    @property
    def left(self) -> int:
        """How many faults wait for their request."""
        return len(self._faults)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._upstream)
        current: list[Fault | None] = [None]
        answers = asyncio.create_task(self._answers(upstream_reader, writer, current))
        try:
            while request := _ABSOLUTE.sub(rb"\1 ", await reader.read(65536)):
                if _REQUEST.match(request):
                    self.requests += 1
                    current[0] = self._fault(request)
                fault = current[0]
                if isinstance(fault, BlackHole):
                    continue
                if isinstance(fault, Reset) and not fault.forward:
                    _reset(writer)
                    return
                upstream_writer.write(request)
                await upstream_writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            upstream_writer.close()
            writer.close()
            answers.cancel()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await asyncio.gather(answers, return_exceptions=True)
                await asyncio.gather(upstream_writer.wait_closed(), writer.wait_closed())
            self._tasks.discard(task)

    def _fault(self, request: bytes) -> Fault | None:
        """The first that waits for such a request."""
        line = request.partition(b"\r\n")[0]
        for item in self._faults:
            if item[0] in line:
                self._faults.remove(item)
                return item[1]
        return None

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, current: list[Fault | None]
    ) -> None:
        while chunk := await reader.read(65536):
            match current[0]:
                case Latency(seconds):
                    await asyncio.sleep(seconds)
                case Reset():
                    _reset(writer)
                    return
                case Cut(after):
                    writer.write(chunk[:after])
                    writer.close()
                    return
            writer.write(chunk)
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with RST in place of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
