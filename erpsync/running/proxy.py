"""HTTP on behalf of child processes: requests travel over socket pairs to the daemon, which adds the token.

For each request the child makes a new socket pair, sends one end to the daemon and speaks HTTP/1.1 on the other,
with the target in absolute form (RFC 9112 section 3.2.2). What the daemon's transport raises goes back as a marked
answer, so that a plugin meets the same errors in a child as in the daemon.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import h11
import httpx2
import msgspec
from anyio.from_thread import BlockingPortal

from erpsync.core import errors
from erpsync.core.errors import ErpsyncError

_FAULT = b"erpsync-fault"  # marks an answer that is an error of the daemon's transport
_TIMEOUT = b"erpsync-timeout"  # the time-outs that the child's client asks for
_CHUNK = 64 * 1024
_HEAD = 256 * 1024  # bytes of the longest head of a message: next links may be long
_REPLAYABLE = 2**20  # bytes of a request kept in memory, so that it can be sent again with a fresh token
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
_ERRORS = {
    name: error
    for module in (errors, httpx2)
    for name, error in vars(module).items()
    if isinstance(error, type) and issubclass(error, ErpsyncError | httpx2.TransportError)
}


# -- the daemon's side -------------------------------------------------------------------------------


async def serve_requests(source: socket.socket, transport: httpx2.AsyncBaseTransport) -> None:
    """Answer every request that comes from `source`, until the child closes it or the task is cancelled."""
    source.setblocking(False)
    async with asyncio.TaskGroup() as group:
        while (pair := await _next_pair(source)) is not None:
            group.create_task(_serve(pair, transport))


async def _next_pair(source: socket.socket) -> socket.socket | None:
    loop = asyncio.get_running_loop()
    while True:
        readable = asyncio.Event()
        loop.add_reader(source, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(source)
        try:
            data, descriptors, _, _ = socket.recv_fds(source, 1, 1, _CLOSE_ON_EXEC)
        except ConnectionError:
            return None
        if descriptors:
            return socket.socket(fileno=descriptors[0])
        if not data:
            return None


async def _serve(pair: socket.socket, transport: httpx2.AsyncBaseTransport) -> None:
    """One request, one answer."""
    wire = await _Wire.over(pair, h11.SERVER)
    try:
        asked = await wire.next()
        if isinstance(asked, h11.Request):
            await _forward(asked, wire, transport)
    except Exception:  # noqa: BLE001 - what a child says, or half an answer, ends this connection and no other
        return
    finally:
        await wire.close()


async def _forward(asked: h11.Request, wire: "_Wire", transport: httpx2.AsyncBaseTransport) -> None:
    """Send the request on, and the answer back; one that breaks off stays unfinished, hence truncated."""
    try:
        answer = await transport.handle_async_request(await _outgoing(asked, wire))
    except Exception as error:  # noqa: BLE001 - whatever it is, the child must hear of it
        body = _pack(error)
        head = [(_FAULT, b"1"), (b"content-length", str(len(body)).encode())]
        await wire.send(h11.Response(status_code=502, headers=head), h11.Data(data=body), h11.EndOfMessage())
        return
    try:
        await wire.send(h11.Response(status_code=answer.status_code, headers=_headers(answer.headers)))
        assert isinstance(answer.stream, httpx2.AsyncByteStream)
        async for chunk in answer.stream:
            await wire.send(h11.Data(data=chunk))
        await wire.send(h11.EndOfMessage())
    finally:
        await answer.aclose()


async def _outgoing(asked: h11.Request, wire: "_Wire") -> httpx2.Request:
    headers = [(name, value) for name, value in asked.headers if name not in _HOP_BY_HOP | {_TIMEOUT}]
    timeout = dict(asked.headers).get(_TIMEOUT)
    body = wire.body()
    start = b""
    async for chunk in body:
        start += chunk
        if len(start) > _REPLAYABLE:
            break
    return httpx2.Request(
        asked.method.decode(),
        asked.target.decode(),
        headers=headers,
        content=_continued(start, body) if len(start) > _REPLAYABLE else start or None,
        extensions={"timeout": msgspec.json.decode(timeout)} if timeout else {},
    )


async def _continued(start: bytes, rest: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    yield start
    async for chunk in rest:
        yield chunk


def _headers(headers: httpx2.Headers) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers.raw if name.lower() not in _HOP_BY_HOP | {_FAULT}]


def _pack(error: Exception) -> bytes:
    """An error as JSON: its class, its message and the plain values among its attributes."""
    fields = {
        name: value.total_seconds() if isinstance(value, timedelta) else value
        for name, value in vars(error).items()
        if isinstance(value, str | int | float | timedelta | None)
    }
    return msgspec.json.encode({"name": type(error).__name__, "message": str(error), "fields": fields})


# -- the child's side --------------------------------------------------------------------------------


class ProxiedTransport(httpx2.AsyncBaseTransport):
    """Sends requests through the daemon. Knows no token and sets no time-out of its own: the daemon does."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The server's answer, or the error that the daemon met: an ErpsyncError or an httpx2 error."""
        try:
            wire = await self._connect()
            answer = await self._exchange(wire, request)
        except (h11.RemoteProtocolError, OSError) as error:
            raise httpx2.ReadError("the daemon does not answer", request=request) from error
        if any(name == _FAULT for name, _ in answer.headers):
            async with aclosing(wire.body()) as body:
                packed = b"".join([chunk async for chunk in body])
            await wire.close()
            raise _unpack(packed)
        return httpx2.Response(
            answer.status_code, headers=list(answer.headers), stream=_ProxiedBody(wire), request=request
        )

    async def _connect(self) -> "_Wire":
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._source, [b"+"], [theirs.fileno()])
        return await _Wire.over(ours, h11.CLIENT)

    async def _exchange(self, wire: "_Wire", request: httpx2.Request) -> h11.Response:
        headers = [*request.headers.raw]
        if timeout := request.extensions.get("timeout"):
            headers.append((_TIMEOUT, msgspec.json.encode(timeout)))
        await wire.send(h11.Request(method=request.method, target=str(request.url), headers=headers))
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        async for chunk in request.stream:
            await wire.send(h11.Data(data=chunk))
        await wire.send(h11.EndOfMessage())
        answer = await wire.next()
        if not isinstance(answer, h11.Response):
            raise h11.RemoteProtocolError("the daemon closed the connection")
        return answer


class BlockingTransport(httpx2.BaseTransport):
    """The same for a blocking client: `portal` leads to the loop in which the requests are made."""

    def __init__(self, inner: ProxiedTransport, portal: BlockingPortal) -> None:
        self._inner = inner
        self._portal = portal

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        asked = httpx2.Request(
            request.method,
            request.url,
            headers=request.headers,
            stream=httpx2.ByteStream(request.read()),
            extensions=request.extensions,
        )
        answer = self._portal.call(self._inner.handle_async_request, asked)
        assert isinstance(answer.stream, _ProxiedBody)
        return httpx2.Response(
            answer.status_code, headers=answer.headers, stream=_BlockingBody(answer.stream, self._portal)
        )


class _ProxiedBody(httpx2.AsyncByteStream):
    def __init__(self, wire: "_Wire") -> None:
        self._wire = wire

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._wire.body():
                yield chunk
        except (h11.RemoteProtocolError, OSError) as error:
            raise httpx2.RemoteProtocolError("the answer breaks off in the middle") from error

    async def aclose(self) -> None:
        await self._wire.close()


class _BlockingBody(httpx2.SyncByteStream):
    def __init__(self, inner: _ProxiedBody, portal: BlockingPortal) -> None:
        self._inner = inner
        self._portal = portal

    def __iter__(self) -> Iterator[bytes]:
        chunks = aiter(self._inner)
        while (chunk := self._portal.call(partial(anext, chunks, b""))) != b"":
            yield chunk

    def close(self) -> None:
        self._portal.call(self._inner.aclose)


def _unpack(packed: bytes) -> Exception:
    """The error that was packed; built by name from those we know and from nothing else."""
    parts = msgspec.json.decode(packed)
    kind = _ERRORS.get(parts["name"], ErpsyncError)
    error = kind.__new__(kind, parts["message"])
    fields = parts["fields"]
    if isinstance(fields.get("retry_after"), int | float):
        fields["retry_after"] = timedelta(seconds=fields["retry_after"])
    error.__dict__.update(fields)
    return error


# -- both --------------------------------------------------------------------------------------------


class _Wire:
    """One HTTP/1.1 exchange over one end of a socket pair."""

    def __init__(self, role: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._state = h11.Connection(role, max_incomplete_event_size=_HEAD)
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket, role: Any) -> "_Wire":
        return cls(role, *await asyncio.open_connection(sock=end))

    async def send(self, *events: h11.Event) -> None:
        for event in events:
            self._writer.write(self._state.send(event) or b"")
        await self._writer.drain()

    async def next(self) -> object:
        """The next h11 event that comes in."""
        while (event := self._state.next_event()) is h11.NEED_DATA:
            self._state.receive_data(await self._reader.read(_CHUNK))
        return event

    async def body(self) -> AsyncGenerator[bytes]:
        """The rest of the message that comes in."""
        while isinstance(event := await self.next(), h11.Data):
            yield bytes(event.data)

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
