"""A listener on this machine that takes the one request by which a browser comes back from signing in (RFC 8252)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from erpsync.core.errors import IdentityError

ANY_PORT = "http://127.0.0.1/"
"""The redirect URI for servers that let a loopback port be any, as RFC 8252 section 7.3 asks."""

_LARGEST_HEAD = 16 * 1024
_PATIENCE = 10.0  # seconds for a browser to finish its request


@dataclass(frozen=True, slots=True)
class Loopback:
    """An open listener: the redirect URI that leads to it, and the query with which a browser came."""

    redirect_uri: str
    query: Callable[[], Awaitable[str]]


@asynccontextmanager
async def loopback(redirect_uri: str = ANY_PORT) -> AsyncIterator[Loopback]:
    """Listen at `redirect_uri`, at a free port where it names none or 0; the first request to its path that has a
    state is answered, others (icons) are not found and do not count.

    Raises:
        IdentityError: the port is taken.
    """
    parts = urlsplit(redirect_uri)
    came: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                path, query = await _target(reader)
                right = path == (parts.path or "/") and "state=" in query and not came.done()
                if right:
                    came.set_result(query)  # before anything waits: who comes meanwhile is not the first
                writer.write(_COME_BACK if right else _NOT_HERE)
                await writer.drain()
        except (OSError, ValueError, TimeoutError, EOFError, asyncio.LimitOverrunError):
            pass  # somebody knocked and said nothing that a browser says
        except asyncio.CancelledError:
            pass  # a browser opens connections ahead; the sign-in is over
        finally:
            writer.close()

    opened = _listener(parts.hostname or "127.0.0.1", parts.port or 0)
    port = opened.getsockname()[1]
    server = await asyncio.start_server(serve, sock=opened, limit=_LARGEST_HEAD)
    address = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0] or parts.netloc}:{port}")
    if parts.port:
        address = parts
    try:
        yield Loopback(address.geturl(), lambda: asyncio.shield(came))
    finally:
        server.close()
        came.cancel()


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise IdentityError(
            f"cannot listen at {host}:{port} for the browser to come back: {error.strerror}",
            hint="end what listens there, or take another port in redirect_uri; --no-browser needs none",
        ) from error
    opened.setblocking(False)
    return opened


async def _target(reader: asyncio.StreamReader) -> tuple[str, str]:
    """Path and query of a GET request; its headers say nothing that is needed."""
    line = (await reader.readuntil(b"\r\n")).decode("ascii").split(" ")
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    if len(line) != 3 or line[0] != "GET":
        raise ValueError("no GET request")
    path, _, query = line[1].partition("?")
    return path, query


def _page(status: str, words: str) -> bytes:
    body = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>erpsync</title><p>{words}</p></html>'
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nContent-Security-Policy: default-src 'none'\r\n"
        "Referrer-Policy: no-referrer\r\nConnection: close\r\n\r\n"
    )
    return (head + body).encode()


_COME_BACK = _page("200 OK", "You can close this page: the terminal says how it went.")
_NOT_HERE = _page("404 Not Found", "Nothing is here.")
