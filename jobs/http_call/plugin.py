"""Calls an HTTP address: checks the status, keeps the answer where asked to."""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

import httpx2
from pydantic import Field, model_validator

from erpsync import (
    AuthFailed,
    ConfigProblem,
    Duration,
    JobContext,
    JobFailedError,
    JobResult,
    Retry,
    Secret,
    Settings,
    Skip,
    job,
)

_SAFE = frozenset({"GET", "HEAD"})
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_EXCERPT = 200  # characters of a refusal that are told


class HttpCallSettings(Settings):
    """What to send and which answer is fine."""

    url: str = Field(description="a whole address, or a path below the instance's Domain API")
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    headers: dict[str, str | Secret] = Field(default_factory=dict)
    query: dict[str, str | int | bool | list[str]] = Field(default_factory=dict)
    json_body: object = Field(None, alias="json", description="sent as JSON")
    body: str | Secret | None = Field(None, description="sent as it is")
    expect: tuple[int, ...] = Field((), description="statuses that are fine; by default every 2xx")
    save_as: str = Field("", description="name of an artifact that keeps the answer's body")
    timeout: Duration | None = Field(
        None, description="for connecting and for each read; else the instance's"
    )
    repeatable: bool = Field(False, description="the server may get this request twice without harm")

    @model_validator(mode="after")
    def _one_body(self) -> "HttpCallSettings":
        if self.json_body is not None and self.body is not None:
            raise ValueError("give json or body, not both")
        if self.method in _SAFE and (self.json_body is not None or self.body is not None):
            raise ValueError(f"a {self.method} carries no body; set method")
        return self

    @property
    def may_repeat(self) -> bool:
        """Whether a request of which nobody knows if it was carried out may be sent again."""
        return self.repeatable or self.method in _SAFE


@job("http_call")
async def http_call(ctx: JobContext[HttpCallSettings]) -> JobResult:
    """Call an HTTP address."""
    settings = ctx.settings
    if ctx.dry_run and settings.method not in _SAFE:
        raise Skip(f"a dry run sends no {settings.method}")
    request = _request(ctx.http, settings, await ctx.absolute(settings.url))
    where = f"{request.method} {request.url.copy_with(query=None, userinfo=b'')}"
    begin = time.monotonic()
    try:
        response = await ctx.http.send(request, stream=True, follow_redirects=False)
        try:
            size = await _take(ctx, response, where)
        finally:
            await response.aclose()
    except httpx2.TransportError as error:
        raise _no_answer(error, settings, where) from error
    ctx.log.info(
        "http_call.answered",
        request=where,
        status=response.status_code,
        content_type=response.headers.get("content-type", ""),
        size_bytes=size,
        seconds=round(time.monotonic() - begin, 3),
    )
    ctx.count(**{"read" if settings.method in _SAFE else "written": 1})
    return ctx.result(f"{response.status_code}, {size} bytes")


def _request(client: httpx2.AsyncClient, settings: HttpCallSettings, url: str) -> httpx2.Request:
    """Raises ConfigProblem where the settings make no request."""
    content = _plain(settings.body) if settings.body is not None else None
    timeout = settings.timeout.total_seconds() if settings.timeout else httpx2.USE_CLIENT_DEFAULT
    try:
        request = client.build_request(
            settings.method,
            url,
            params=settings.query or None,
            headers={name: _plain(value) for name, value in settings.headers.items()},
            json=settings.json_body,
            content=content,
            timeout=timeout,
        )
    except httpx2.InvalidURL as error:
        raise ConfigProblem("url", f"is no address: {error}") from error
    if request.url.scheme not in ("http", "https") or not request.url.host:
        raise ConfigProblem("url", "must begin with https:// or lead below the instance's API")
    return request


async def _take(ctx: JobContext[HttpCallSettings], response: httpx2.Response, where: str) -> int:
    """The size of a welcome answer, its body kept where asked to; another one is raised as what it means."""
    expected = ctx.settings.expect
    if response.status_code not in expected if expected else not response.is_success:
        raise await _refused(response, ctx.settings, where)
    size = 0
    if not ctx.settings.save_as:
        async for chunk in response.aiter_bytes():
            size += len(chunk)
        return size
    with ctx.artifact(ctx.settings.save_as) as file:
        async for chunk in response.aiter_bytes():
            size += file.write(chunk)
    return size


async def _refused(response: httpx2.Response, settings: HttpCallSettings, where: str) -> Exception:
    """What an unexpected status means for the run."""
    status = response.status_code
    message = f"{where} answered {status}{await _excerpt(response, settings)}"
    if status in (401, 403):
        return AuthFailed(message)
    passing = status in _PASSING and (settings.may_repeat or status == 429)
    wait = _wait(response.headers)
    if passing and wait is not None:
        return Retry(wait, message)
    return JobFailedError(message, retryable=passing, hint=_hint(status, settings))


def _hint(status: int, settings: HttpCallSettings) -> str:
    if 300 <= status < 400:
        return "redirects are not followed, for the request carries a token: use the final address"
    if status in _PASSING and not settings.may_repeat:
        return "look whether it was carried out; with repeatable = true such a request is tried again"
    return "statuses that are fine besides 2xx are listed in expect"


def _no_answer(error: httpx2.TransportError, settings: HttpCallSettings, where: str) -> Exception:
    """A connection that failed: before anything was sent, or when nobody knows what was done."""
    message = f"{where}: {error or type(error).__name__}"
    if isinstance(error, _NEVER_SENT) or settings.may_repeat:
        return JobFailedError(
            message, retryable=True, hint="check that the server is up and the address right"
        )
    return JobFailedError(
        message,
        hint="the request may have been carried out: look before it is tried again (or set repeatable)",
    )


async def _excerpt(response: httpx2.Response, settings: HttpCallSettings) -> str:
    """The beginning of a refusal in text, without the secrets that we sent: servers like to repeat them."""
    if not response.headers.get("content-type", "").startswith(("text/plain", "application/")):
        return ""
    text = ""
    async for chunk in response.aiter_text():
        text += chunk
        if len(text) > 16 * _EXCERPT:
            break
    for secret in (*settings.headers.values(), settings.body):
        if isinstance(secret, Secret) and secret.get():
            text = text.replace(secret.get(), "[redacted]")
    return f": {' '.join(text.split())[:_EXCERPT]}" if text.strip() else ""


def _wait(headers: Mapping[str, str]) -> timedelta | None:
    """How long the server asks to wait, in the form that has seconds (RFC 9110 section 10.2.3)."""
    text = headers.get("retry-after", "").strip()
    return timedelta(seconds=int(text)) if text.isascii() and text.isdigit() and len(text) < 6 else None


def _plain(value: str | Secret) -> str:
    return value.get() if isinstance(value, Secret) else value
