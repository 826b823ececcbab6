"""Is all well between this machine and an instance? Looked at step by step, each with a verdict and what to mend."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2

from erpsync.config.configuration import Configuration
from erpsync.config.secrets import SecretResolver
from erpsync.core.clock import Clock
from erpsync.core.duration import format_duration
from erpsync.core.errors import ErpsyncError, ForbiddenError, NotFoundError
from erpsync.core.event import Emit
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.core.retry_after import http_date
from erpsync.core.token import AccessToken
from erpsync.daemon.connections import Connections, InstanceSite
from erpsync.erpnet.client import ErpClient
from erpsync.erpnet.transport import origin
from erpsync.identity.answer import ABOUT_PEOPLE
from erpsync.identity.claims import shown_claims
from erpsync.identity.discovery import ServerMetadata, fetch_metadata

Verdict = Literal["ok", "warning", "failed"]

READ = "General_EnterpriseCompanies"
"""The entity set of the one read of the API: every ERP.net database has it, and few rows in it."""
_PATIENCE = httpx2.Timeout(10.0, connect=5.0)
_API_SECONDS = 60.0
_CERTIFICATE_DAYS = 21
_TOKEN_DAYS = 14
_NOTABLE_SKEW = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One step at an instance, or of one of its identities. `error` names the class of what failed it, and
    `retryable` says whether waiting can help."""

    instance: str
    step: str
    verdict: Verdict
    message: str
    hint: str = ""
    identity: str | None = None
    error: str | None = None
    retryable: bool = False

    def document(self) -> dict[str, object]:
        """The public JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


class Doctor:
    """Examines instances through the connections that jobs use: same trust, same proxy, same token managers."""

    def __init__(
        self,
        configuration: Configuration,
        connections: Connections,
        resolver: SecretResolver,
        *,
        clock: Clock,
        emit: Emit,
        redactor: Redactor,
    ) -> None:
        self._configuration = configuration
        self._connections = connections
        self._resolver = resolver
        self._clock = clock
        self._emit = emit
        self._redactor = redactor

    async def examine(self, instance: str, *, api: bool) -> list[Finding]:
        """Every step at one instance, those after a failure that forbids them left out; with `api` one read of the
        API by each identity, which opens a session. Never raises an ErpsyncError; secrets are in no finding."""
        findings = [finding async for finding in self._steps(instance)]
        if not any(finding.verdict == "failed" for finding in findings):
            names = [each for each in self._configuration.identities.values() if each.instance == instance]
            for found in await asyncio.gather(*(self._identity(each, api=api) for each in names)):
                findings += found
        return [self._clean(finding) for finding in findings]

    def _clean(self, finding: Finding) -> Finding:
        """Foreign words may hold anything."""
        short = self._redactor.shortened
        return replace(finding, message=short(finding.message), hint=short(finding.hint))

    # -- the servers -----------------------------------------------------------------------------------------------

    async def _steps(self, instance: str) -> AsyncIterator[Finding]:
        site = self._connections.site(instance)
        try:
            addresses = {"issuer": await site.issuer()}
            if site.root is not None:
                addresses["API"] = await site.root()
        except ErpsyncError as error:
            yield _failed(instance, "discovery", error)
            return
        where = ", ".join(f"{name} {url}" for name, url in addresses.items())
        yield Finding(instance, "discovery", "ok", where)
        try:
            metadata = await fetch_metadata(site.client, addresses["issuer"], clock=self._clock)
        except ErpsyncError as error:
            yield _failed(instance, "issuer", error)
            return
        yield Finding(instance, "issuer", "ok", f"the identity server calls itself {metadata.issuer} too")
        yield _endpoint(instance, metadata)
        urls = [site.instance.url, *addresses.values(), metadata.token_endpoint, *site.instance.api]
        for url in {origin(url): None for url in urls if url}:
            for finding in await self._server(site, url):
                yield finding

    async def _server(self, site: InstanceSite, url: str) -> list[Finding]:
        """Certificate and clock of the server at an origin, whatever it answers there."""
        instance, host = site.instance.name, urlsplit(url).netloc
        try:
            async with site.client.stream(
                "GET", url + "/", follow_redirects=False, timeout=_PATIENCE
            ) as answer:
                stream = answer.extensions.get("network_stream")
                secured = stream.get_extra_info("ssl_object") if stream is not None else None
                sent, now = http_date(answer.headers.get("date", "")), self._clock.now()
        except httpx2.HTTPError as error:
            words = f"{host} cannot be reached: {str(error) or type(error).__name__}"
            hint = (
                "check address, proxy and firewall; a certificate authority of your own goes into `ca_file`"
            )
            return [Finding(instance, "TLS", "failed", words, hint, error="UnreachableError", retryable=True)]
        return [_certificate(instance, host, secured, now), _clock(instance, host, sent, now)]

    # -- one identity ----------------------------------------------------------------------------------------------

    async def _identity(self, identity: Identity, *, api: bool) -> list[Finding]:
        findings = list(await asyncio.to_thread(lambda: [*self._secrets(identity)]))
        findings += self._expiry(identity)
        try:
            token = await self._connections.probe(identity.name)
        except ErpsyncError as error:
            return [*findings, _failed(identity.instance, "token", error, identity.name)]
        findings += _token(identity, token, self._clock.now(), checked=api)
        findings += [
            Finding(identity.instance, "notice", "warning", warning, identity=identity.name)
            for warning in self._connections.status(identity.name).warnings
        ]
        return [*findings, *([await self._read(identity)] if api else ())]

    def _secrets(self, identity: Identity) -> Iterator[Finding]:
        """Who else can read the files."""
        exposed = [file for each in identity.secrets if (file := self._resolver.exposed_file(each))]
        for file in exposed:
            message, hint = f"every user of this machine can read {file}", f"chmod 600 {file}"
            yield Finding(identity.instance, "secret", "warning", message, hint, identity.name)

    def _expiry(self, identity: Identity) -> Iterator[Finding]:
        """The end of a reference token, which only the configuration knows."""
        if identity.grant != "reference_token":
            return
        ends = identity.token_expires
        left = ends - self._clock.now() if ends else None
        verdict: Verdict = "warning"
        hint = "issue a new one: Profile > Security > Tokens, or Instance Manager > Security > Trusted Apps"
        if ends is None or left is None:
            message, hint = "nobody is warned before the reference token ends", "set `token_expires`"
        elif left <= timedelta(0):
            verdict, message = "failed", f"the reference token ended on {ends:%Y-%m-%d}"
        elif left < timedelta(days=_TOKEN_DAYS):
            message = f"the reference token ends on {ends:%Y-%m-%d}, in {format_duration(left)}"
        else:
            verdict, message, hint = "ok", f"the reference token ends on {ends:%Y-%m-%d}", ""
        kind = "LoginRequiredError" if verdict == "failed" else None
        yield Finding(identity.instance, "expiry", verdict, message, hint, identity.name, kind)

    async def _read(self, identity: Identity) -> Finding:
        """One read of the API, through the gate that keeps the licence slots."""
        connection = self._connections.between(identity.instance, identity.name)
        known: dict[str, Any] = {"instance": identity.instance, "step": "API", "identity": identity.name}
        if connection.root is None:
            return Finding(
                verdict="ok", message="not looked at: no Domain API at a server that is not ERP.net", **known
            )
        async with httpx2.AsyncClient(transport=connection.transport, timeout=connection.timeout) as http:
            client = ErpClient(http, connection.root, emit=self._emit, clock=self._clock)
            try:
                async with asyncio.timeout(_API_SECONDS):
                    await client.one_page(READ, select=["Id"], top=1)
            except TimeoutError:
                message = f"no answer within {_API_SECONDS:.0f} s"
                return Finding(
                    verdict="failed", message=message, error="UnreachableError", retryable=True, **known
                )
            except (ForbiddenError, NotFoundError) as error:
                hint = "give the SystemUser of the Trusted Application the rights its jobs need"
                return Finding(
                    verdict="warning", message=f"the API takes the token: {error.message}", hint=hint, **known
                )
            except ErpsyncError as error:
                return _failed(identity.instance, "API", error, identity.name)
        message = f"read {READ}; the session holds a licence slot until it was idle for 20 minutes"
        return Finding(verdict="ok", message=message, **known)


def _failed(instance: str, step: str, error: ErpsyncError, identity: str | None = None) -> Finding:
    kind = type(error).__name__
    return Finding(instance, step, "failed", error.message, error.hint, identity, kind, error.retryable)


def _endpoint(instance: str, metadata: ServerMetadata) -> Finding:
    there, here = origin(metadata.token_endpoint), origin(metadata.issuer)
    if there == here:
        return Finding(instance, "token endpoint", "ok", metadata.token_endpoint)
    message = f"secrets go to another host than the issuer's: {metadata.token_endpoint}"
    return Finding(instance, "token endpoint", "warning", message, "make sure that the provider says so")


def _certificate(instance: str, host: str, secured: ssl.SSLObject | None, now: datetime) -> Finding:
    certificate: Mapping[str, Any] | None = secured.getpeercert() if secured is not None else None
    if not certificate:
        return Finding(instance, "TLS", "ok", f"{host}: plain http, which never leaves this machine")
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    names = dict(pair for part in certificate["issuer"] for pair in part)
    issuer = names.get("organizationName") or names.get("commonName") or "an authority without a name"
    message = f"{host}: certificate by {issuer} until {ends:%Y-%m-%d}"
    if ends - now < timedelta(days=_CERTIFICATE_DAYS):
        message += f", {max((ends - now).days, 0)} days from now"
        return Finding(instance, "TLS", "warning", message, "have the server's certificate renewed")
    return Finding(instance, "TLS", "ok", message)


def _clock(instance: str, host: str, sent: datetime | None, now: datetime) -> Finding:
    if sent is None:
        return Finding(instance, "clock", "ok", f"{host} does not tell its time")
    skew = (sent - now).total_seconds()
    message = f"{host} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
    if abs(skew) > _NOTABLE_SKEW:
        return Finding(instance, "clock", "warning", message, "synchronise both clocks (NTP)")
    return Finding(instance, "clock", "ok", message)


def _token(
    identity: Identity, token: AccessToken, now: datetime, *, checked: bool = False
) -> Iterator[Finding]:
    """What was granted, and to whom; `checked`: by the API, which alone can judge a token made by hand."""
    known: dict[str, Any] = {"instance": identity.instance, "identity": identity.name}
    way = (
        identity.grant if identity.grant == "reference_token" else f"{identity.grant}, {identity.auth_method}"
    )
    if identity.grant != "reference_token":
        more = f", for {format_duration(token.expires_at - now)}"
    else:
        more = "" if checked else "; not checked: only the API can tell whether it is good (--api)"
    yield Finding(step="token", verdict="ok", message=f"{token.fingerprint} by {way}{more}", **known)
    if missing := sorted(set(identity.scope) - set(token.scope) - ABOUT_PEOPLE):
        message = f"asked for {' '.join(identity.scope)}, granted {' '.join(token.scope) or 'nothing'}"
        hint = f"add {' '.join(missing)} to the field Scope of the Trusted Application"
        yield Finding(step="scope", verdict="warning", message=message, hint=hint, **known)
    elif token.scope:
        yield Finding(step="scope", verdict="ok", message=" ".join(token.scope), **known)
    yield from _user(known, shown_claims(token.value))


def _user(known: dict[str, Any], claims: Mapping[str, object]) -> Iterator[Finding]:
    """As whom and in which database a token of ERP.net works."""
    database = claims.get("client_db") or claims.get("db")
    if database is None:
        return  # another server, or an opaque token
    user = claims.get("client_system_user") or claims.get("sub")
    if user:
        yield Finding(step="user", verdict="ok", message=f"{user} in database {database}", **known)
    else:
        hint = "set SystemUserAllowed and SystemUser of the Trusted Application"
        message = f"the token works for no user in database {database}"
        yield Finding(step="user", verdict="warning", message=message, hint=hint, **known)
