"""The embedded server against clients that want to hold it up."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from erpsync.daemon.fault_tally import FaultTally
from erpsync.daemon.server import EmbeddedServer

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE = 0.1
Application = Callable[..., Any]


async def greet(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def serving(application: Application = greet, **limits: Any) -> AsyncIterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server = EmbeddedServer(application, listener, **limits)
    await server.start()
    try:
        yield address
    finally:
        await server.stop()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Whether the other side hangs up, without another byte, within five seconds."""
    try:
        return await asyncio.wait_for(reader.read(), 5) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", GET[:9], b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"])
async def test_silence_ends_a_connection(sent: bytes) -> None:
    """Who sends nothing, half a head or half a body, is not waited for."""

    async def whole(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await greet(scope, receive, send)

    async with serving(whole, patience=PATIENCE) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(sent)
        assert await is_closed(reader)
        writer.close()


async def test_a_slow_answer_is_waited_for() -> None:
    """An answer may take longer than the patience with clients; the connection is there for the next request."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(3 * PATIENCE)
        await greet(scope, receive, send)

    async with serving(slow, patience=PATIENCE) as address:
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(2):
            writer.write(GET)
            assert (await asyncio.wait_for(reader.readuntil(b"ok"), 5)).startswith(b"HTTP/1.1 200")
        assert await is_closed(reader)
        writer.close()


async def test_connections_beyond_the_limit_are_closed() -> None:
    """Too many are turned away at once; those before them are served, and so is the next when one has left."""
    async with serving(most=2, patience=30) as address:
        first, _second = [await asyncio.open_connection(*address) for _ in range(2)]
        third = await asyncio.open_connection(*address)
        assert await is_closed(third[0])
        first[1].write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await asyncio.wait_for(first[0].read(), 5)).endswith(b"ok")
        fourth = await asyncio.open_connection(*address)
        fourth[1].write(GET)
        assert (await asyncio.wait_for(fourth[0].readuntil(b"ok"), 5)).startswith(b"HTTP/1.1 200")
        for _, writer in (first, _second, third, fourth):
            writer.close()


def test_equal_faults_are_told_once_a_minute() -> None:
    """The first fault is told at once, those of the minute after it together with the next; others for themselves."""
    tally = FaultTally()
    told = [tally.count("full", now) for now in (5.0, 6.0, 64.9, 65.0, 65.1)]
    assert told == [1, 0, 0, 3, 0]
    assert tally.count("other", 65.2) == 1
