"""What an OpenID provider says about itself (OpenID Connect Discovery 1.0), checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import httpx2

from erpsync.core.address import is_loopback
from erpsync.core.clock import Clock, SystemClock
from erpsync.core.errors import DiscoveryError
from erpsync.core.redaction import LONGEST_FOREIGN
from erpsync.identity.exchange import TIMEOUT, Answer, exchange
from erpsync.identity.refusal import TRANSIENT

_HINT = "the issuer must be the address of the identity server itself, like https://acme.my.erp.net/id"


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """The parts we use. What a server lists (`grants`, `signing_algorithms`) decides nothing: servers leave out what
    works. Endpoints that it does not have, or that are not https, are None. `skew` is its clock minus ours (s).
    """

    issuer: str
    token_endpoint: str
    jwks_uri: str | None = None
    authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None
    end_session_endpoint: str | None = None
    grants: tuple[str, ...] = ()
    signing_algorithms: tuple[str, ...] = ()
    sends_issuer: bool = False
    """It names itself in the answer to a sign-in (RFC 9207)."""
    skew: float | None = None


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
    return replace(_checked(_document(answer, url), issuer), skew=answer.skew)


def _document(answer: Answer, url: str) -> dict[str, object]:
    if answer.status != 200:
        raise DiscoveryError(
            f"{url} answers {answer.status}", hint=_HINT, retryable=answer.status in TRANSIENT
        )
    try:
        document = json.loads(answer.body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DiscoveryError(f"{url} answers something that is not JSON", hint=_HINT) from error
    if not isinstance(document, dict):
        raise DiscoveryError(f"{url} answers JSON that is not an object", hint=_HINT)
    return document


def _checked(document: Mapping[str, object], issuer: str) -> ServerMetadata:
    """The parts of a server's description that we use. Raises DiscoveryError."""
    named = document.get("issuer")
    if named != issuer:
        raise DiscoveryError(
            f'the server calls itself "{str(named)[:LONGEST_FOREIGN]}", not "{issuer}"',
            hint=_HINT,
            retryable=False,
        )
    endpoint = document.get("token_endpoint")
    if not isinstance(endpoint, str):
        raise DiscoveryError(f"{issuer} names no token endpoint", hint=_HINT, retryable=False)
    _require_safe(endpoint, "the token endpoint")
    return ServerMetadata(
        issuer,
        endpoint,
        jwks_uri=_endpoint(document.get("jwks_uri")),
        authorization_endpoint=_endpoint(document.get("authorization_endpoint")),
        revocation_endpoint=_endpoint(document.get("revocation_endpoint")),
        end_session_endpoint=_endpoint(document.get("end_session_endpoint")),
        grants=_words(document.get("grant_types_supported")),
        signing_algorithms=_words(document.get("token_endpoint_auth_signing_alg_values_supported")),
        sends_issuer=document.get("authorization_response_iss_parameter_supported") is True,
    )


def _endpoint(url: object) -> str | None:
    return url if isinstance(url, str) and _is_safe(url) else None


def _words(value: object) -> tuple[str, ...]:
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, list) else ()


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    except ValueError:
        return False


def _require_safe(url: str, what: str) -> None:
    if not _is_safe(url):
        message = f'{what} "{url[:LONGEST_FOREIGN]}" is not https'
        raise DiscoveryError(message, hint="plain http is for this machine only", retryable=False)
