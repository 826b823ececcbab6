"""The transport of an instance: adds the token for allowed origins, has it renewed on a 401, refuses writes.

It knows no identity: the token comes from an `Auth`. What httpx2 raises passes through as it is.
"""

import copy
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Literal

import httpx2

from erpsync.core.clock import Clock
from erpsync.core.errors import ReadOnlyError
from erpsync.core.event import Emit
from erpsync.core.token import AccessToken, Auth
from erpsync.erpnet.answer import SAFE_METHODS, is_license_answer
from erpsync.erpnet.body import TooLargeError, read_whole
from erpsync.erpnet.pace import Pace

Origins = frozenset[str] | Callable[[], Awaitable[frozenset[str]]]
_LARGEST_REFUSAL = 1 << 20
_PORTS = {"http": 80, "https": 443}


class AuthorizedTransport(httpx2.AsyncBaseTransport):
    """Requests to `origins` carry the identity's token; requests elsewhere go out bare.

    `origins` holds URLs or origins, or yields them (it is asked at each request). Without `auth` no request carries
    a token. `rate` is requests a second, or a Pace shared with other transports. `doubt` is called when nobody
    listens where a request goes: its address may have changed. `base` is not closed with it.
    """

    def __init__(
        self,
        *,
        base: httpx2.AsyncBaseTransport,
        auth: Auth | None,
        origins: Origins,
        access: Literal["full", "read"] = "full",
        rate: float | Pace | None = None,
        clock: Clock,
        emit: Emit,
        instance: str,
        doubt: Callable[[], object] = lambda: None,
    ) -> None:
        self._base = base
        self._auth = auth
        self._origins = origins
        self._read_only = f'instance {instance} has access = "read"' if access == "read" else ""
        self._pace = Pace(rate, clock) if isinstance(rate, int | float) else rate
        self._emit = emit
        self._instance = instance
        self._doubt = doubt

    def for_dry_run(self) -> "AuthorizedTransport":
        """The same transport for a dry run: everything but GET and HEAD is refused."""
        twin = copy.copy(self)
        twin._read_only = "this is a dry run"
        return twin

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One request, replayed at most once with a newer token.

        Raises:
            ReadOnlyError: a write that is not allowed; nothing was sent.
            IdentityError: no token.
        """
        if self._read_only and request.method not in SAFE_METHODS:
            where = f"{request.method} {request.url.path}"
            raise ReadOnlyError(f"{where}: not sent, {self._read_only}", where=where)
        if self._pace is not None:
            await self._pace.turn()
        if self._auth is None or not await self._is_allowed(request.url):
            return await self._send(request)
        token = await self._auth.token()
        response = await self._send(_with_token(request, token))
        if response.status_code != 401:
            return response
        return await self._after_401(self._auth, request, response, token)

    async def aclose(self) -> None:
        """Nothing: `base` belongs to whoever made it, and other transports use it."""

    async def _after_401(
        self, auth: Auth, request: httpx2.Request, response: httpx2.Response, token: AccessToken
    ) -> httpx2.Response:
        """Have the token renewed, and send the request again if there is a newer one; a 401 was not processed."""
        try:
            refused = await read_whole(response, _LARGEST_REFUSAL)
        except TooLargeError:
            refused = httpx2.Response(response.status_code)
        if "insufficient_scope" in refused.headers.get("www-authenticate", ""):  # RFC 6750 section 3.1
            return refused
        if is_license_answer(await refused.aread()):
            return refused
        auth.invalidate(token.version, f"401 from {request.url.host}")
        newer = await auth.token()
        if newer.version == token.version or not isinstance(request.stream, httpx2.ByteStream):
            return refused
        self._emit(
            "request.replayed",
            level="debug",
            instance=self._instance,
            method=request.method,
            path=request.url.path,
        )
        return await self._send(_with_token(request, newer))

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await self._base.handle_async_request(request)
        except httpx2.ConnectError:
            self._doubt()
            raise

    async def _is_allowed(self, url: httpx2.URL) -> bool:
        origins = await self._origins() if callable(self._origins) else self._origins
        return origin(f"{url.scheme}://{url.netloc.decode('ascii')}") in {origin(one) for one in origins}


@lru_cache(maxsize=1024)
def origin(url: str) -> str:
    """Scheme, host and port of a URL, the port always there (RFC 6454 section 4)."""
    parts = httpx2.URL(url)
    return f"{parts.scheme}://{parts.host}:{parts.port or _PORTS.get(parts.scheme, 0)}"


def _with_token(request: httpx2.Request, token: AccessToken) -> httpx2.Request:
    """A copy that carries the token: the caller's request object never holds it, nor does a redirect made from it."""
    headers = request.headers.copy()
    name, value = token.header
    headers[name] = value
    return httpx2.Request(
        request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
    )
