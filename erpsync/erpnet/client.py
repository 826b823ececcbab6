"""The Domain API client: rows by page, by id, written, and in transactions; every refusal is one of our errors.

Reads are tried again after a blip; writes never are. It knows no token: the HTTP client's transport adds it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Literal, TypeVar
from urllib.parse import urljoin
from uuid import UUID

import httpx2
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from erpsync.core.clock import Clock
from erpsync.core.errors import (
    ErpNetError,
    ErpsyncError,
    ReadOnlyError,
    RejectedError,
    ServerFaultError,
    ThrottledError,
    UnreachableError,
)
from erpsync.core.event import Emit
from erpsync.core.redaction import LONGEST_FOREIGN
from erpsync.erpnet.answer import SAFE_METHODS, is_sign_in_page, refusal, unreachable
from erpsync.erpnet.body import TooLargeError, read_whole
from erpsync.erpnet.json import Collection, decode, decode_collection, encode
from erpsync.erpnet.query import function_path, options, row_path, set_path
from erpsync.erpnet.transport import LASTING, origin

Row = dict[str, Any]
T = TypeVar("T")
_TRIES = 4
_LONGEST_WAIT = 60.0
_ROLLBACK_SECONDS = 10.0
_LONGEST_TRANSACTION = timedelta(minutes=25)
_LARGEST_ANSWER = 256 << 20
_full_jitter = wait_random_exponential(multiplier=0.5, max=10)
_HEADERS = {"Accept-Language": "en"}  # stable error messages


class Page(list[Row]):
    """Rows of one page; `next_link` is the absolute address of the next, None at the end; may be empty before it."""

    __slots__ = ("next_link",)

    def __init__(self, rows: Sequence[Row], next_link: str | None = None) -> None:
        super().__init__(rows)
        self.next_link = next_link


class ErpClient:
    """The Domain API at `root()`, as seen by the identity behind `client`'s transport.

    Numbers with a point in rows are Decimal. All methods raise ErpNetErrors, and what the transport raises. With
    `dry_run` nothing but reads goes out.
    """

    def __init__(
        self,
        client: httpx2.AsyncClient,
        root: Callable[[], Awaitable[str]],
        *,
        emit: Emit,
        clock: Clock,
        dry_run: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._root = root
        self._emit = emit
        self._clock = clock
        self._dry_run = dry_run
        self._headers = {**_HEADERS, **(headers or {})}

    # -- reading ---------------------------------------------------------------------------------------------------

    async def pages(
        self,
        entity_set: str,
        *,
        select: Sequence[str] | None = None,
        filter: str | None = None,  # noqa: A002 - OData's word
        expand: str | None = None,
        orderby: str | None = None,
        page_size: int = 1000,
        start: str | None = None,
        prefetch: bool = True,
    ) -> AsyncGenerator[Page, None]:
        """All pages of a set, the next one fetched while the caller works on the last (`prefetch`).

        `start` is a `next_link` from before: reading goes on there and the other arguments count for nothing.
        """
        root = await self._service_root()
        asked = options(select=select, filter=filter, expand=expand, orderby=orderby, top=page_size)
        link: str | None = self._own(root, start) if start else root + set_path(entity_set) + asked
        seen: set[str] = set()
        coming: asyncio.Task[Page] | None = None
        try:
            while link is not None:
                seen.add(link)
                page = await (coming or self._page(root, link))
                link, coming = page.next_link, None
                if link in seen:
                    raise UnreachableError(f"GET {entity_set}: the server sends us in circles")
                if link is not None and prefetch:
                    coming = asyncio.create_task(self._page(root, link))
                yield page
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    async def one_page(
        self,
        entity_set: str,
        *,
        select: Sequence[str] | None = None,
        filter: str | None = None,  # noqa: A002 - OData's word
        expand: str | None = None,
        orderby: str | None = None,
        top: int = 1000,
    ) -> Page:
        """The first `top` rows at most, and nothing behind them."""
        root = await self._service_root()
        asked = options(select=select, filter=filter, expand=expand, orderby=orderby, top=top)
        return await self._page(root, root + set_path(entity_set) + asked)

    async def get(
        self,
        entity_set: str,
        row_id: UUID | str,
        *,
        select: Sequence[str] | None = None,
        expand: str | None = None,
    ) -> Row:
        """One row. Raises NotFoundError where there is none."""
        return await self._read(row_path(entity_set, row_id) + options(select=select, expand=expand), _row)

    async def count(self, entity_set: str, *, filter: str | None = None) -> int:  # noqa: A002 - OData's word
        """How many rows there are."""
        return await self._read(f"{set_path(entity_set)}/$count{options(filter=filter)}", _number)

    async def function(
        self,
        name: str,
        parameters: Mapping[str, object] | None = None,
        *,
        on: tuple[str, UUID | str] | None = None,
    ) -> Any:
        """Call a function, of the row `on` where given; its answer as JSON holds it."""
        return await self._read(_bound(on) + function_path(name, parameters or {}), _content)

    async def metadata(self) -> bytes:
        """The model of the instance as CSDL XML."""
        return await self._read("$metadata", lambda response: response.content, accept="application/xml")

    async def version(self) -> str:
        """The version of the server, like "26.2.0.76"."""
        return str((await self.function("GetVersion"))["version"])

    # -- writing ---------------------------------------------------------------------------------------------------

    async def create(self, entity_set: str, row: Mapping[str, object]) -> Row:
        """Insert a row, keys in the order given (one may change another); the row as the server has it now."""
        return _row(await self._write("POST", set_path(entity_set), row))

    async def update(self, entity_set: str, row_id: UUID | str, changes: Mapping[str, object]) -> None:
        """Change a row. With the `ObjectVersion` that was read among `changes` a row changed since is refused."""
        await self._write("PATCH", row_path(entity_set, row_id), changes)

    async def delete(self, entity_set: str, row_id: UUID | str) -> None:
        await self._write("DELETE", row_path(entity_set, row_id))

    async def action(
        self,
        name: str,
        body: Mapping[str, object] | None = None,
        *,
        on: tuple[str, UUID | str] | None = None,
    ) -> Any:
        """Call an action, of the row `on` where given: its answer as JSON or text, None where it has none."""
        return _content(await self._write("POST", _bound(on) + set_path(name), body or {}))

    @asynccontextmanager
    async def transaction(
        self,
        *,
        model: Literal["common", "frontend"] = "common",
        expected: timedelta = timedelta(minutes=5),
    ) -> AsyncIterator["ErpClient"]:
        """An API transaction: commits at the end of the block, rolls back when it is left by an exception.

        Use the client it gives. It lives 25 minutes at most; a lost one raises a retryable RejectedError. One that
        is not `expected` to be over before its session has to end waits for the next session.
        """
        begun = await self._begin(model, min(expected, _LONGEST_TRANSACTION))
        number = str(begun.get("value") if isinstance(begun, dict) else begun).strip()
        inside = ErpClient(
            self._client,
            self._root,
            emit=self._emit,
            clock=self._clock,
            dry_run=self._dry_run,
            headers={**self._headers, "TransactionId": number},
        )
        try:
            yield inside
        except BaseException:  # cancelled or failed: the server must not keep it open
            await inside._roll_back()
            raise
        try:
            await inside.action("EndTransaction", {"commit": True})
        except RejectedError:
            await inside._roll_back()
            raise

    async def _begin(self, model: str, expected: timedelta) -> Any:
        response = await self._write(
            "POST",
            set_path("BeginTransaction"),
            {"model": model, "trackChanges": False},
            {LASTING: str(expected.total_seconds())},
        )
        return _content(response)

    async def _roll_back(self) -> None:
        """As well as can be done: what is not rolled back ends by itself after 25 minutes."""
        with suppress(ErpsyncError, TimeoutError):
            async with asyncio.timeout(_ROLLBACK_SECONDS):
                await self.action("EndTransaction", {"commit": False})

    # -- requests --------------------------------------------------------------------------------------------------

    async def _service_root(self) -> str:
        return (await self._root()).rstrip("/") + "/"

    async def _page(self, root: str, link: str) -> Page:
        def read(response: httpx2.Response) -> Page:
            page = _collection(response)
            following = page.next_link
            return Page(page.value or (), self._own(root, following, link) if following else None)

        return await self._tried(link, read, "application/json")

    def _own(self, root: str, link: str, base: str = "") -> str:
        """A next link goes with our token: it must lead to where we are."""
        try:
            link = urljoin(base or root, link)
            place = origin(link)
        except (ValueError, httpx2.InvalidURL) as error:
            raise RejectedError(f"the address of the next page is none: {link[:LONGEST_FOREIGN]}") from error
        if place != origin(root):
            raise RejectedError(
                f"the next page is said to be at {place}, not at {origin(root)}",
                hint="a proxy may be rewriting addresses; links to elsewhere are not followed",
            )
        return link

    async def _read(
        self, path: str, read: Callable[[httpx2.Response], T], accept: str = "application/json"
    ) -> T:
        return await self._tried(await self._service_root() + path, read, accept)

    async def _tried(self, url: str, read: Callable[[httpx2.Response], T], accept: str) -> T:
        """A GET and the reading of its answer, again after what may pass by itself."""

        async def attempt() -> T:
            return read(await self._send("GET", url, accept=accept))

        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=_polite_wait,
            stop=lambda state: state.attempt_number >= _TRIES or state.upcoming_sleep > _LONGEST_WAIT,
            sleep=self._clock.sleep,
            before_sleep=self._tell_retry,
            reraise=True,
        )
        return await retrying(attempt)

    async def _write(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        content = None if body is None else encode(body)
        return await self._send(method, await self._service_root() + path, content=content, extra=extra)

    async def _send(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        accept: str = "application/json",
        extra: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        headers = {**self._headers, "Accept": accept, **(extra or {})}
        if content is not None:
            headers["Content-Type"] = "application/json"
        request = self._client.build_request(method, url, headers=headers, content=content)
        where = _where(request)
        if self._dry_run and method not in SAFE_METHODS:
            raise ReadOnlyError(f"{where}: not sent, this is a dry run", where=where)
        try:
            streamed = await self._client.send(request, follow_redirects=False, stream=True)
            response = await read_whole(streamed, _LARGEST_ANSWER)
        except httpx2.HTTPError as error:
            raise unreachable(error, where) from error
        except TooLargeError as error:
            raise RejectedError(
                f"{where}: the answer is larger than {_LARGEST_ANSWER >> 20} MiB",
                where=where,
                hint="ask for fewer rows or attributes: a smaller page_size, a shorter select",
            ) from error
        response.request = request
        if not response.is_success or is_sign_in_page(response.headers, response.content):
            raise _refusal(response)
        return response

    def _tell_retry(self, state: RetryCallState) -> None:
        error = _error(state)
        self._emit(
            "request.retried",
            level="debug",
            where=error.where if isinstance(error, ErpNetError) else "",
            error_type=type(error).__name__,
            error_message=str(error),
            attempt=state.attempt_number,
            wait_seconds=round(state.upcoming_sleep, 2),
        )


def _where(request: httpx2.Request) -> str:
    return f"{request.method} {request.url.path.rpartition('/odata/')[2]}"


def _bound(on: tuple[str, UUID | str] | None) -> str:
    return f"{row_path(*on)}/" if on else ""


def _refusal(response: httpx2.Response) -> ErpNetError:
    return refusal(response.status_code, response.headers, response.content, _where(response.request))


def _collection(response: httpx2.Response) -> Collection:
    try:
        page = decode_collection(response.content)
    except ValueError as error:
        raise _refusal(response) from error
    if page.value is None:
        raise _refusal(response)
    return page


def _content(response: httpx2.Response) -> Any:
    """The answer of an operation: JSON where it says so, else text; None where there is nothing."""
    if not response.content:
        return None
    if "json" not in response.headers.get("content-type", ""):
        return response.text
    try:
        content = decode(response.content)
    except ValueError as error:
        raise _refusal(response) from error
    if isinstance(content, dict) and isinstance(content.get("error"), dict):
        raise _refusal(response)
    return content


def _row(response: httpx2.Response) -> Row:
    content = _content(response)
    if not isinstance(content, dict):
        raise _refusal(response)
    return content


def _number(response: httpx2.Response) -> int:
    try:
        return int(response.text.lstrip("\ufeff"))
    except ValueError as error:
        raise _refusal(response) from error


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, UnreachableError | ServerFaultError | ThrottledError) and error.retryable


def _polite_wait(state: RetryCallState) -> float:
    """Full jitter, and never less than the server asks for."""
    asked = getattr(_error(state), "retry_after", None)
    return max(_full_jitter(state), asked.total_seconds() if asked else 0.0)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
