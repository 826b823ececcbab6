"""What an OpenID provider says about itself (OpenID Connect Discovery 1.0), checked and remembered."""

import ipaddress
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2

from erpsync.core.clock import Clock, SystemClock
from erpsync.core.errors import DiscoveryError
from erpsync.identity.exchange import TIMEOUT, Answer, exchange

_TRANSIENT = frozenset({408, 425, 429, *range(500, 600)})
_FRESH_SECONDS = 24 * 3600.0
_USABLE_SECONDS = 7 * 24 * 3600.0
_HINT = "the issuer must be the address of the identity server itself, like https://acme.my.erp.net/id"


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """The parts we use; which grants and scopes a server lists is not looked at, servers leave out what works."""

    issuer: str
    token_endpoint: str
    jwks_uri: str | None = None


async def fetch_metadata(
    client: httpx2.AsyncClient, issuer: str, *, clock: Clock | None = None
) -> ServerMetadata:
    """Read and check `{issuer}/.well-known/openid-configuration`.

    Raises:
        DiscoveryError: retryable where the server is away or answers nonsense; not where the document names
            another issuer, an endpoint is not https (loopback may be http), or there is no such document.
    """
    _require_safe(issuer, "the issuer")
    url = issuer.rstrip("/") + "/.well-known/openid-configuration"
    request = client.build_request("GET", url, headers={"Accept": "application/json"}, timeout=TIMEOUT)
    answer = await exchange(client, request, clock=clock or SystemClock(), error=DiscoveryError)
    return _checked(_document(answer, url), issuer)


def _document(answer: Answer, url: str) -> dict[str, object]:
    if answer.status != 200:
        raise DiscoveryError(
            f"{url} answers {answer.status}", hint=_HINT, retryable=answer.status in _TRANSIENT
        )
    try:
        document = json.loads(answer.body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DiscoveryError(f"{url} answers something that is not JSON", hint=_HINT) from error
    if not isinstance(document, dict):
        raise DiscoveryError(f"{url} answers JSON that is not an object", hint=_HINT)
    return document


def _checked(document: dict[str, object], issuer: str) -> ServerMetadata:
    named = document.get("issuer")
    if named != issuer:
        raise DiscoveryError(
            f'the server calls itself "{str(named)[:200]}", not "{issuer}"', hint=_HINT, retryable=False
        )
    endpoint, jwks = document.get("token_endpoint"), document.get("jwks_uri")
    if not isinstance(endpoint, str):
        raise DiscoveryError(f"{issuer} names no token endpoint", hint=_HINT, retryable=False)
    _require_safe(endpoint, "the token endpoint")
    return ServerMetadata(issuer, endpoint, jwks if isinstance(jwks, str) else None)


def _require_safe(url: str, what: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return
    raise DiscoveryError(
        f'{what} "{url[:200]}" is not https', hint="plain http is for this machine only", retryable=False
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class MetadataSource:
    """Gives the metadata of one issuer: asked once a day, kept for a week while the server does not answer."""

    def __init__(
        self, client: httpx2.AsyncClient, issuer: Callable[[], Awaitable[str]], *, clock: Clock
    ) -> None:
        self._client = client
        self._issuer = issuer
        self._clock = clock
        self._known: ServerMetadata | None = None
        self._read_at = 0.0
        self._fresh_until = 0.0

    async def get(self) -> ServerMetadata:
        """The metadata. Raises DiscoveryError where none are known that are young enough."""
        now = self._clock.boot()
        if self._known is not None and now < self._fresh_until:
            return self._known
        try:
            self._known = await fetch_metadata(self._client, await self._issuer(), clock=self._clock)
        except DiscoveryError as error:
            if self._known is None or not error.retryable or now - self._read_at > _USABLE_SECONDS:
                raise
        else:
            self._read_at = now
            self._fresh_until = now + _FRESH_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311 - a spread
        return self._known

    def doubt(self) -> None:
        """Something went wrong at these addresses: ask again next time, and still do without an answer."""
        self._fresh_until = 0.0
