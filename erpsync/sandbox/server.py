"""The sandbox as a server: in a thread of its own for tests, in the foreground for the command line.

>>> with Sandbox() as sandbox:
...     httpx.get(f"{sandbox.url}/sys/auto-discovery")
"""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self
from urllib.parse import parse_qsl

import msgspec
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from erpsync.sandbox.behaviour import Behaviour
from erpsync.sandbox.faults import Fault, Where, perform
from erpsync.sandbox.instance import Instance
from erpsync.sandbox.model import SETS
from erpsync.sandbox.query import Projection, Query, Sql, page_sql
from erpsync.sandbox.sites import application, touch

_Transports = dict[tuple[str, int], asyncio.Transport]


class Sandbox:
    """An ERP.net-like instance on loopback. Its methods may be called from any thread, while it serves or not."""

    def __init__(
        self,
        port: int = 0,
        license_slots: int = 5,
        token_ttl: int = 3600,
        rows: int = 1250,
        clock_scale: float = 1.0,
        database: str | None = None,
        behaviour: Behaviour | None = None,
    ) -> None:
        """Seeds `rows` products, unless the SQLite file `database` holds an earlier sandbox.

        Without `database` the rows live in a temporary one. With a `clock_scale` of 60 sessions last a 60th of their
        time; tokens live for `token_ttl` seconds whatever the scale.
        """
        self._port = port
        behaviour = (behaviour or Behaviour()).changed(
            {"license_slots": license_slots, "token_ttl": token_ttl}
        )
        self._instance = Instance(behaviour, rows=rows, clock_scale=clock_scale, database=database)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._instance.database.close()

    @property
    def url(self) -> str:
        """The instance root, without a slash at its end."""
        return self._instance.url

    def start(self) -> None:
        """Returns when it accepts connections. Raises OSError when the port is taken."""
        listener = _listen(self._port)
        self._port = listener.getsockname()[1]
        self._instance.url = f"http://127.0.0.1:{self._port}"
        self._server = _Server(self._instance)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="sandbox", daemon=True
        )
        self._thread.start()
        self._server.ready.wait()

    def stop(self) -> None:
        """Returns when it has stopped; open connections are closed. Stopping twice is fine; it can start again."""
        if self._server is not None and self._thread is not None:
            self._server.leave()
            self._thread.join()
        self._server = self._thread = None

    def serve_forever(self, on_ready: Callable[[str], object]) -> int:
        """Serves until SIGTERM or SIGINT; `on_ready` gets the URL. Returns the number of the signal.

        For the main thread of a process; other threads must not have these signals unblocked.
        """
        signals = {signal.SIGTERM, signal.SIGINT}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            with self:
                on_ready(self.url)
                return int(signal.sigwait(signals))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stats(self) -> dict[str, Any]:
        """The same as `GET /_sandbox/stats`; see `Instance.stats`."""
        return self._instance.stats()

    def sessions(self) -> list[dict[str, object]]:
        """The open sessions."""
        with self._instance.lock:
            return self._instance.sessions.listing()

    def fail(self, fault: Fault | Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Arms a fault, given as such, as its JSON form, or by its fields. Raises msgspec.ValidationError."""
        if not isinstance(fault, Fault):
            fault = msgspec.convert(
                {**(fault or {}), **{key.rstrip("_"): value for key, value in fields.items()}}, Fault
            )
        with self._instance.lock:
            self._instance.faults.arm(fault)

    def clear_faults(self) -> None:
        """Disarms every fault."""
        with self._instance.lock:
            self._instance.faults.clear()

    @property
    def behaviour(self) -> Behaviour:
        """The switches as they are now."""
        return self._instance.behaviour

    def behave(self, **changes: Any) -> None:
        """Changes switches from now on. Raises ValueError for an unknown one."""
        with self._instance.lock:
            self._instance.behaviour = self._instance.behaviour.changed(changes)

    def advance(self, seconds: float) -> None:
        """Time passes for sessions, API transactions and tokens already issued."""
        with self._instance.lock:
            self._instance.clock.advance(seconds)

    def skew(self, seconds: float) -> None:
        """Puts the instance's wall clock ahead: `iat` of tokens, update times of rows."""
        self._instance.clock.skew = seconds

    def occupy(self, slots: int) -> None:
        """Lets other people hold so many licence slots from now on."""
        with self._instance.lock:
            self._instance.sessions.occupy(slots)

    def register(self, client_id: str, secret: str, scope: str = "read update", **fields: Any) -> None:
        """Adds or replaces a trusted application; `fields` are those of `identity.Application`."""
        with self._instance.lock:
            self._instance.identity.register(client_id, secret, scope=scope, **fields)

    def set_secret(self, client_id: str, secret: str) -> None:
        """Rotates an application's secret."""
        with self._instance.lock:
            self._instance.identity.set_secret(client_id, secret)

    def reference_token(self, client_id: str) -> str:
        """Mints a reference token (`enrt_…`) for the application's system user."""
        with self._instance.lock:
            return self._instance.identity.reference_token(client_id)

    def revoke_tokens(self) -> None:
        """From now on the API answers 401 to every token issued so far."""
        with self._instance.lock:
            self._instance.identity.revoke()

    def restart_sessions(self) -> None:
        """Forgets sessions and transactions, as a restart of the server does; tokens survive."""
        self._instance.restart()

    def rows(self, set_name: str) -> int:
        """How many rows a set has."""
        with self._instance.lock:
            sql = f'SELECT count(*) FROM "{SETS[set_name].name}"'  # noqa: S608 - a name of the model
            return int(self._instance.database.query(sql)[0][0])

    def read(self, set_name: str, *attributes: str) -> list[dict[str, Any]]:
        """All rows with these attributes, in page order, as the API would show them."""
        sql = page_sql(SETS[set_name], Query(Projection(attributes), Sql("")))
        with self._instance.lock:
            rows = self._instance.database.query(sql.text, sql.values)
        return [msgspec.json.decode(row[0]) for row in rows]

    def touch(self, set_name: str, count: int = 1) -> list[str]:
        """Saves the first rows as if somebody had changed them: version and update time rise. Returns their ids."""
        return touch(self._instance, set_name, count)

    def insert(self, set_name: str, **values: Any) -> str:
        """Creates a row by the rules of the API, and returns its id.

        Required references that are not given point at the first row there is.
        """
        with self._instance.lock:
            return self._instance.writer.post(SETS[set_name], self._with_references(set_name, values))

    def change(self, set_name: str, row_id: str, **values: Any) -> None:
        """Changes a row by the rules of the API."""
        with self._instance.lock:
            self._instance.writer.update(SETS[set_name], row_id, values)

    def delete(self, set_name: str, row_id: str) -> None:
        """Deletes a row by the rules of the API."""
        with self._instance.lock:
            self._instance.writer.delete(SETS[set_name], row_id)

    def _with_references(self, set_name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        missing = [
            item
            for item in SETS[set_name].attributes.values()
            if item.kind == "ref" and "required" in item.flags and item.name not in values
        ]
        first = 'SELECT id FROM "{}" ORDER BY sort LIMIT 1'
        query = self._instance.database.query
        found = {item.name: f"{item.target}({query(first.format(item.target))[0][0]})" for item in missing}
        return {**{name: {"@odata.id": reference} for name, reference in found.items()}, **values}


def _listen(port: int) -> socket.socket:
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


class _Server(uvicorn.Server):
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
                lifespan="off",
            )
        )
        self.ready = threading.Event()
        self._transports = transports
        self._leaving = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self.ready.set()

    def leave(self) -> None:
        """Asks the server, from another thread, to end."""
        self._loop.call_soon_threadsafe(self._leaving.set)

    async def main_loop(self) -> None:
        """Keeps the Date header right until it is time to leave; uvicorn's own looks ten times a second."""
        while not self._leaving.is_set():
            await self.on_tick(0)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), 1)

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
        if where == "token":
            receive = await self._count_token_request(scope, receive)
        fault = self._arrival(where, scope)
        if self._instance.behaviour.latency_ms:
            await asyncio.sleep(self._instance.behaviour.latency_ms / 1000)
        if fault is None:
            await self._sites(scope, receive, send)
        else:
            transport = self._transports.get(tuple(scope["client"]))
            with suppress(asyncio.CancelledError):  # the sandbox stops while an answer is late
                await perform(fault, self._sites, scope, receive, send, transport)

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
            self._instance.identity.count_request(form, authorization)
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
