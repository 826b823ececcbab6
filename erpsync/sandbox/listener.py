"""The HTTP server below the sandbox: counts what arrives, lets the faults act, starts and stops at once."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from urllib.parse import parse_qsl

import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from erpsync.sandbox.faults import Fault, Where, perform
from erpsync.sandbox.instance import Instance
from erpsync.sandbox.sites import application

_Transports = dict[tuple[str, int], asyncio.Transport]


def listen(port: int) -> socket.socket:
    """A socket that says it is TCP: only then does asyncio switch Nagle's delay off (40 ms an answer)."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    return listener


class Server(uvicorn.Server):
    """uvicorn, which starts and stops at once and has each connection's transport at hand for faults."""

    def __init__(self, instance: Instance) -> None:
        transports: _Transports = {}

        class Protocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                if self.client is not None:
                    transports[self.client] = transport

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                if self.client is not None:
                    transports.pop(self.client, None)

        super().__init__(
            uvicorn.Config(
                _FrontDoor(instance, transports),
                http=Protocol,
                log_config=None,
                access_log=False,
                date_header=False,
                lifespan="off",
            )
        )
        self.ready = threading.Event()
        self._transports = transports
        self._leaving = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until `leave`; whoever waits for `ready` is released even when it cannot start."""
        try:
            super().run(sockets)
        finally:
            self.ready.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self.ready.set()

    def leave(self) -> None:
        """Asks the server, from another thread, to end."""
        self._loop.call_soon_threadsafe(self._leaving.set)

    async def main_loop(self) -> None:
        """Waits until it is time to leave; uvicorn's own looks ten times a second."""
        await self._leaving.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes everything without waiting for answers under way: nobody misses a sandbox."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for transport in list(self._transports.values()):
            transport.abort()
        await asyncio.sleep(0)  # the protocols learn that their connections are lost
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _FrontDoor:
    """The outermost application: counts what arrives, faulty or not, and lets the faults act."""

    def __init__(self, instance: Instance, transports: _Transports) -> None:
        self._instance = instance
        self._transports = transports
        self._sites = application(instance)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        where = _where(scope["path"])
        if where is None:
            await self._sites(scope, receive, send)
            return
        send = self._dated(send)
        if where == "token":
            receive = await self._count_token_request(scope, receive)
            with self._under_way():
                await self._answer(where, scope, receive, send)
        else:
            await self._answer(where, scope, receive, send)

    async def _answer(self, where: Where, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._arrival(where, scope)
        if self._instance.behaviour.latency_ms:
            await asyncio.sleep(self._instance.behaviour.latency_ms / 1000)
        if fault is None:
            await self._sites(scope, receive, send)
        else:
            transport = self._transports.get(tuple(scope["client"]))
            with suppress(asyncio.CancelledError):  # the sandbox stops while an answer is late
                await perform(fault, self._sites, scope, receive, send, transport)

    def _dated(self, send: Send) -> Send:
        """Adds the Date header by the instance's clock, unless the answer has one."""

        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                if all(name != b"date" for name, _ in headers):
                    date = formatdate(self._instance.clock.wall(), usegmt=True).encode()
                    message = {**message, "headers": [*headers, (b"date", date)]}
            await send(message)

        return dated

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        instance = self._instance
        with instance.lock:
            instance.token_requests_now += 1
            instance.most_token_requests = max(instance.most_token_requests, instance.token_requests_now)
        try:
            yield
        finally:
            with instance.lock:
                instance.token_requests_now -= 1

    def _arrival(self, where: Where, scope: Scope) -> Fault | None:
        query = scope["query_string"].decode()
        target = f"{scope['path']}?{query}" if query else scope["path"]
        with self._instance.lock:
            self._instance.api_requests += where == "api"
            return self._instance.faults.take(where, scope["method"], target)

    async def _count_token_request(self, scope: Scope, receive: Receive) -> Receive:
        """Reads the form to see who asks; returns a `receive` that gives it once more."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        form = dict(parse_qsl(body.decode(errors="replace")))
        authorization = dict(scope["headers"]).get(b"authorization", b"").decode(errors="replace")
        with self._instance.lock:
            identity = self._instance.identity
            identity.requests[identity.applications.named(form, authorization)] += 1
        again: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return again.pop() if again else await receive()

        return replay


def _where(path: str) -> Where | None:
    """The kind of a request; None for the side door, which has no faults."""
    if path.startswith("/_sandbox/"):
        return None
    if path.startswith("/api/"):
        return "api"
    if path == "/id/connect/token":
        return "token"
    return "discovery" if path.endswith("/auto-discovery") or "/.well-known/" in path else "other"
