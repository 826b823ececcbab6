"""Where an instance's sites are: its own auto-discovery, read and remembered (auth/concepts/identity-server.md)."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from erpsync.core.clock import Clock
from erpsync.core.errors import DiscoveryError
from erpsync.core.redaction import LONGEST_FOREIGN
from erpsync.erpnet.json import decode
from erpsync.erpnet.transport import origin

_PATHS = ("/sys/auto-discovery", "/tools/auto-discovery")  # the documentation names both
_FRESH_SECONDS = 24 * 3600.0
_LARGEST = 1 << 20
_TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
_HINT = "the url must be the root of an ERP.net instance, like https://acme.my.erp.net"
_SITE_HINT = "correct the address of the site in the instance's own settings"


@dataclass(frozen=True, slots=True)
class Sites:
    """`identity_url` is the issuer, without a slash at its end; `odata_root` has one."""

    identity_url: str
    odata_root: str

    @property
    def origins(self) -> frozenset[str]:
        """The only origins that get the instance's tokens."""
        return frozenset({origin(self.odata_root)})


async def discover_sites(client: httpx2.AsyncClient, root: str) -> Sites:
    """Ask the instance at `root`.

    Raises:
        DiscoveryError: retryable where the server is away or its API is not working just now; not where the answer
            is none of an ERP.net instance.
    """
    problem: DiscoveryError | None = None
    for path in _PATHS:
        try:
            return _sites(await _document(client, root.rstrip("/") + path), root)
        except DiscoveryError as error:
            problem = problem if problem is not None and not error.retryable else error
    assert problem is not None
    raise problem


async def _document(client: httpx2.AsyncClient, url: str) -> dict[str, Any]:
    try:
        async with client.stream("GET", url, follow_redirects=False, timeout=_TIMEOUT) as got:
            body = bytearray()
            async for chunk in got.aiter_bytes():
                body += chunk
                if len(body) > _LARGEST:
                    raise DiscoveryError(f"{url} answers more than 1 MiB", hint=_HINT, retryable=False)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise DiscoveryError(
            f"{url} cannot be reached: {str(error) or type(error).__name__}",
            hint="check that the server is up and the address right; its certificate may need `ca_file`",
        ) from error
    if got.status_code != 200:
        away = got.status_code >= 500 or got.status_code in (408, 425, 429)
        raise DiscoveryError(f"{url} answers {got.status_code}", hint=_HINT, retryable=away)
    try:
        document = decode(bytes(body))
    except ValueError as error:
        raise DiscoveryError(f"{url} answers something that is not JSON", hint=_HINT) from error
    if not isinstance(document, dict):
        raise DiscoveryError(f"{url} answers JSON that is not an object", hint=_HINT)
    return document


def _sites(document: dict[str, Any], root: str) -> Sites:
    """The identity site whatever its status, the Domain API only when it works; unknown types are no harm."""
    listed = document.get("WebSites")
    sites = [site for site in listed if isinstance(site, dict)] if isinstance(listed, list) else []
    identity = next(_of_type(sites, "ID"), None)
    apis = list(_of_type(sites, "DomainAPI"))
    if identity is None or not apis:
        what = "identity site" if identity is None else "Domain API"
        raise DiscoveryError(f"{root} lists no {what}", hint=_HINT, retryable=False)
    working = next((site for site in apis if site.get("Status") == "Working"), None)
    if working is None:
        raise DiscoveryError(
            f"the Domain API of {root} does not work now: {apis[0].get('Status')}",
            hint="the instance's administrator must start it; we keep trying",
        )
    return Sites(_url(identity, root), _odata_root(working, root))


def _of_type(sites: Iterable[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    return (site for site in sites if site.get("Type") == kind and isinstance(site.get("Url"), str))


def _odata_root(site: dict[str, Any], root: str) -> str:
    properties = site.get("AdditionalProperties")
    named = properties.get("ODataServiceRoot") if isinstance(properties, dict) else None
    if isinstance(named, str):
        return _safe(named, root).rstrip("/") + "/"
    return _url(site, root) + "/domain/odata/"


def _url(site: dict[str, Any], root: str) -> str:
    return _safe(site["Url"], root).rstrip("/")


def _safe(url: str, root: str) -> str:
    """A site of an https instance must be https too: its requests carry secrets and tokens."""
    try:
        scheme = urlsplit(url).scheme
        origin(url)
    except (ValueError, httpx2.InvalidURL) as error:
        message = f"{root} names a site whose Url is no address: {url[:LONGEST_FOREIGN]!r}"
        raise DiscoveryError(message, hint=_SITE_HINT, retryable=False) from error
    if scheme == "https" or urlsplit(root).scheme == "http":
        return url
    message = f"{root} names a site that is not https: {url[:LONGEST_FOREIGN]}"
    raise DiscoveryError(message, hint=_HINT, retryable=False)


class SiteDirectory:
    """The sites of one instance: asked once a day, shared by all tasks, kept while the instance does not answer."""

    def __init__(self, client: httpx2.AsyncClient, root: str, *, clock: Clock) -> None:
        self._client = client
        self._root = root
        self._clock = clock
        self._known: Sites | None = None
        self._fresh_until = 0.0
        self._asking = asyncio.Lock()

    async def sites(self) -> Sites:
        """Raises DiscoveryError where nothing is known yet and the instance does not say."""
        if self._known is None or self._clock.boot() >= self._fresh_until:
            async with self._asking:
                if self._known is None or self._clock.boot() >= self._fresh_until:
                    await self._ask()
        assert self._known is not None
        return self._known

    async def identity_url(self) -> str:
        return (await self.sites()).identity_url

    async def odata_root(self) -> str:
        return (await self.sites()).odata_root

    async def origins(self) -> frozenset[str]:
        return (await self.sites()).origins

    def doubt(self) -> None:
        """The addresses may have changed: ask again next time, and still do without an answer."""
        self._fresh_until = 0.0

    async def _ask(self) -> None:
        try:
            self._known = await discover_sites(self._client, self._root)
        except DiscoveryError:
            if self._known is None:
                raise
            self._fresh_until = self._clock.boot() + 60.0
        else:
            self._fresh_until = self._clock.boot() + _FRESH_SECONDS
