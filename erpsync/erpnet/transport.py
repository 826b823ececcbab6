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
from erpsync.erpnet.answer import GRANTED, NEVER_SENT, SAFE_METHODS, says_no_license, transaction_id
from erpsync.erpnet.body import LITTLE, ReadAhead, TooLargeError, read_whole
from erpsync.erpnet.gate import Seen, SessionGate
from erpsync.erpnet.pace import Pace
from erpsync.erpnet.slots import Lease

Origins = frozenset[str] | Callable[[], Awaitable[frozenset[str]]]
LASTING = "erpsync-lasting"
"""A header for us, never sent on: the API transaction that this request begins may take so many seconds."""
_LARGEST_REFUSAL = 1 << 20
_PORTS = {"http": 80, "https": 443}


class AuthorizedTransport(httpx2.AsyncBaseTransport):
    """Requests to `origins` carry the identity's token; requests elsewhere go out bare.

    `origins` holds URLs or origins, or yields them (it is asked at each request). Without `auth` no request carries
    a token; where it is a SessionGate each request goes out in a session. `rate` is requests a second, or a Pace
    shared with other transports. `doubt` is called when nobody listens where a request goes: its address may have
    changed. `base` is not closed with it.
    """

    def __init__(
        self,
        *,
        base: httpx2.AsyncBaseTransport,
        auth: Auth | SessionGate | None,
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
        """One request, replayed at most once with a newer token; before that once more in a session that was open.

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
            return await self._send(_copied(request) if LASTING in request.headers else request)
        token, lease = await self._ticket(self._auth, request)
        response = await self._authorized(request, token, lease)
        if lease is not None and lease.proves(token) and _is_refused(response) and _is_repeatable(request):
            # a slot is dear: two 401s, not one, give it up
            response = await self._authorized(request, token, lease)
        if _misses_a_scope(response) and token.scope:
            response.headers[GRANTED] = " ".join(token.scope)
        if response.status_code != 401:
            return response
        return await self._after_401(self._auth, request, response, token)

    async def aclose(self) -> None:
        """Nothing: `base` belongs to whoever made it, and other transports use it."""

    async def _after_401(
        self,
        auth: Auth | SessionGate,
        request: httpx2.Request,
        response: httpx2.Response,
        token: AccessToken,
    ) -> httpx2.Response:
        """Have the token renewed, and send the request again if there is a newer one; a 401 was not processed."""
        refused = await _whole(response)
        if not _is_refused(refused):
            return refused
        if says_no_license(401, refused.headers, refused.content):
            return refused
        auth.invalidate(token.version, f"401 from {request.url.host}")
        newer, lease = await self._ticket(auth, request)
        if newer.version == token.version or not _is_repeatable(request):
            return refused
        self._emit(
            "request.replayed",
            level="debug",
            instance=self._instance,
            method=request.method,
            path=request.url.path,
        )
        return await self._authorized(request, newer, lease)

    async def _ticket(
        self, auth: Auth | SessionGate, request: httpx2.Request
    ) -> tuple[AccessToken, Lease | None]:
        """The token for a request, and where sessions matter the session that it goes out in."""
        if not isinstance(auth, SessionGate):
            return await auth.token(), None
        lasting = float(request.headers.get(LASTING, 0))
        lease, token = await auth.enter(lasting, within="transactionid" in request.headers)
        return token, lease

    async def _authorized(
        self, request: httpx2.Request, token: AccessToken, lease: Lease | None
    ) -> httpx2.Response:
        if lease is None:
            return await self._send(_with_token(request, token))
        gate, seen = self._auth, Seen.UNKNOWN
        assert isinstance(gate, SessionGate)
        sent = gate.sent(lease)
        try:
            response = await self._send(_with_token(request, token))
            response, body = await _looked_into(response)
            is_full = says_no_license(response.status_code, response.headers, body)
            seen = _seen(response, is_full=is_full)
        except NEVER_SENT:
            seen = Seen.NOTHING
            raise
        finally:
            gate.answered(lease, sent, seen)
        if is_full:
            await response.aclose()
            raise gate.refused(lease, f"{request.method} {request.url.path}")
        _note_transaction(lease, request, response, body)
        return response

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


def _is_refused(response: httpx2.Response) -> bool:
    """Whether the token is no good; a 401 may also say that it lacks a scope (RFC 6750 section 3.1)."""
    return response.status_code == 401 and not _misses_a_scope(response)


def _misses_a_scope(response: httpx2.Response) -> bool:
    return response.status_code in (401, 403) and "insufficient_scope" in response.headers.get(
        "www-authenticate", ""
    )


def _is_repeatable(request: httpx2.Request) -> bool:
    return isinstance(request.stream, httpx2.ByteStream)


async def _whole(response: httpx2.Response) -> httpx2.Response:
    """A refusal with its body, which is small unless something else than the API answers."""
    try:
        return await read_whole(response, _LARGEST_REFUSAL)
    except TooLargeError:
        return httpx2.Response(response.status_code, headers=response.headers)


async def _looked_into(response: httpx2.Response) -> tuple[httpx2.Response, bytes]:
    """An answer and its decoded body; of a success no body where there is more than a little, but for a page."""
    if response.status_code >= 300:
        response = await _whole(response)
        return response, response.content
    most = _LARGEST_REFUSAL if _is_plain_page(response) else LITTLE
    if not response.is_success or int(response.headers.get("content-length", 0)) > most:
        return response, b""
    ahead = await ReadAhead.of(response, most)
    raw = ahead.all
    response = httpx2.Response(
        response.status_code, headers=response.headers, stream=ahead, extensions=response.extensions
    )
    try:
        return response, httpx2.Response(200, headers=response.headers, content=raw).content if raw else b""
    except httpx2.DecodingError:
        return response, b""  # whoever reads it hears of it


def _is_plain_page(response: httpx2.Response) -> bool:
    """Whether HTML came where data should have; a compressed megabyte could be a gigabyte."""
    headers = response.headers
    return "html" in headers.get("content-type", "") and "content-encoding" not in headers


def _seen(response: httpx2.Response, *, is_full: bool) -> Seen:
    if is_full or response.status_code == 401:
        return Seen.NOTHING
    return Seen.OPEN if response.is_success else Seen.ANSWER


def _note_transaction(lease: Lease, request: httpx2.Request, response: httpx2.Response, body: bytes) -> None:
    """Which API transactions are open; one whose end fails may be, and is waited for until its session is over."""
    if not response.is_success:
        return
    if request.url.path.endswith("/BeginTransaction"):
        lease.transactions.add(transaction_id(body))
    elif request.url.path.endswith("/EndTransaction"):
        lease.transactions.discard(request.headers.get("transactionid", ""))


def _with_token(request: httpx2.Request, token: AccessToken) -> httpx2.Request:
    """A copy that carries the token: the caller's request object never holds it, nor does a redirect made from it."""
    copied = _copied(request)
    name, value = token.header
    copied.headers[name] = value
    return copied


def _copied(request: httpx2.Request) -> httpx2.Request:
    """A copy without what is meant for us."""
    headers = request.headers.copy()
    headers.pop(LASTING, None)
    return httpx2.Request(
        request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
    )
