"""One HTTP exchange with an identity server: bounded in time and size, never redirected, errors translated."""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from datetime import timedelta

import httpx2

from erpsync.core.clock import Clock
from erpsync.core.errors import DiscoveryError, TokenEndpointError
from erpsync.core.retry_after import http_date, retry_after

TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
TOTAL_SECONDS = 15.0
LARGEST_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `skew` is the server's clock minus ours in seconds (RFC 9110 section 6.6.1), None unknown."""

    status: int
    headers: httpx2.Headers
    body: bytes = field(repr=False)
    skew: float | None = None

    @property
    def retry_after(self) -> timedelta | None:
        """The wait that the server asks for; see `core.retry_after`."""
        return retry_after(self.headers)


async def exchange(
    client: httpx2.AsyncClient,
    request: httpx2.Request,
    *,
    clock: Clock,
    error: type[DiscoveryError] | type[TokenEndpointError],
) -> Answer:
    """Send `request` and read the whole answer, whatever its status.

    The deadline is watched on the boot-time clock, so that a suspended machine does not hang on an old request.

    Raises:
        error: no complete answer came; retryable unless the certificate or the proxy refuses us.
    """
    work = asyncio.ensure_future(_send(client, request, clock))
    alarm = asyncio.ensure_future(_alarm(clock, clock.boot() + TOTAL_SECONDS))
    try:
        await asyncio.wait({work, alarm}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise error(_say(request, f"did not answer within {TOTAL_SECONDS:.0f} s"), retryable=True)
        return work.result()
    except httpx2.TimeoutException as cause:
        words = ": ".join(filter(None, ("did not answer in time", str(cause))))
        raise error(_say(request, words), retryable=True) from cause
    except httpx2.ProxyError as cause:
        raise error(
            _say(request, f"is behind a proxy that refuses: {cause}"),
            hint="check `proxy` of the instance and its credentials",
            # It begins with the proxy's status. With a 5xx the proxy speaks of the server behind it, which may pass.
            retryable=not str(cause).startswith("4"),
        ) from cause
    except httpx2.HTTPError as cause:
        raise _unreachable(request, cause, error) from cause
    finally:
        for task in (work, alarm):
            task.cancel()
        await asyncio.gather(work, alarm, return_exceptions=True)


def _unreachable(
    request: httpx2.Request,
    cause: httpx2.HTTPError,
    error: type[DiscoveryError] | type[TokenEndpointError],
) -> DiscoveryError | TokenEndpointError:
    if _is_untrusted(cause):
        return error(
            _say(request, f"shows a certificate that is not trusted: {cause}"),
            hint="check the host name; name the authority's certificate as `ca_file` of the instance",
            retryable=False,
        )
    return error(
        _say(request, f"cannot be reached: {str(cause) or type(cause).__name__}"),
        hint="check that the server is up and the address right",
        retryable=True,
    )


async def _send(client: httpx2.AsyncClient, request: httpx2.Request, clock: Clock) -> Answer:
    response = await client.send(request, stream=True, follow_redirects=False, auth=None)
    body = bytearray()
    async with contextlib.aclosing(response):
        sent = http_date(response.headers.get("date", ""))
        skew = (sent - clock.now()).total_seconds() if sent else None
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise httpx2.RemoteProtocolError("the answer is larger than 1 MiB")
    return Answer(response.status_code, response.headers, bytes(body), skew)


async def _alarm(clock: Clock, end: float) -> None:
    while (left := end - clock.boot()) > 0:
        await clock.sleep(min(left, 1.0))


def _is_untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _say(request: httpx2.Request, what: str) -> str:
    host = request.url.netloc.decode("ascii", "replace").rpartition("@")[2]
    return f"the identity server {host} {what}"
