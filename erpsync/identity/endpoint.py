"""Requests to a token endpoint (RFC 6749 sections 2.3.1 and 3.2), built by Authlib.

Authlib builds the body and authenticates the client. Sending, reading and judging are ours: Authlib accepts error
answers as tokens, hides status and headers, and does not form-encode Basic credentials.
"""

import base64
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime, timedelta
from functools import partial
from urllib.parse import quote, urlencode

import httpx2
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_token_request

from erpsync.core.clock import Clock
from erpsync.core.errors import TokenEndpointError
from erpsync.core.instance import Identity
from erpsync.identity.assertion import client_assertion
from erpsync.identity.discovery import ServerMetadata
from erpsync.identity.exchange import TIMEOUT, Answer, exchange

_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_Prepared = tuple[str, MutableMapping[str, str], str]
_Encode = Callable[[ClientAuth, str, str, MutableMapping[str, str], str], _Prepared]


async def request_token(
    client: httpx2.AsyncClient,
    server: ServerMetadata,
    identity: Identity,
    secret: str,
    grant: str,
    fields: Mapping[str, str],
    *,
    clock: Clock,
    skew: float,
) -> Answer:
    """One token request by the `grant` with its own `fields`, answered with whatever the server says.

    Audience, resources and extra parameters of the identity go with every grant; `skew` is the server's clock minus
    ours in seconds.

    Raises:
        TokenEndpointError: no complete answer came; retryable unless the certificate or the proxy refuses us.
        SecretUnavailableError: `secret` is no private key where one is needed.
    """
    more = [("resource", resource) for resource in identity.resource]  # repeated: RFC 8707 section 2
    if identity.audience:
        more.append(("audience", identity.audience))
    body = prepare_token_request(grant, urlencode([*more, *identity.extra.items()]), **fields)
    return await post_as_client(
        client, server.token_endpoint, server, identity, secret, body, clock=clock, skew=skew
    )


async def post_as_client(
    client: httpx2.AsyncClient,
    url: str,
    server: ServerMetadata,
    identity: Identity,
    secret: str,
    body: str,
    *,
    clock: Clock,
    skew: float,
) -> Answer:
    """A form sent to an endpoint of the identity server by the client of the identity, authenticated as such.

    Raises:
        TokenEndpointError, SecretUnavailableError: as `request_token`.
    """
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    now = clock.now() + timedelta(seconds=skew)
    auth = ClientAuth(identity.client_id, secret, _auth_method(identity, server, now))
    url, headers, body = auth.prepare("POST", url, headers, body)
    request = client.build_request("POST", url, headers=headers, content=body, timeout=TIMEOUT)
    return await exchange(client, request, clock=clock, error=TokenEndpointError)


def _auth_method(identity: Identity, server: ServerMetadata, now: datetime) -> str | _Encode:
    if identity.auth_method == "private_key_jwt":
        return partial(_assertion, identity, server, now)
    if identity.auth_method != "client_secret_basic":
        return identity.auth_method
    return _basic if identity.basic_encoding == "rfc6749" else _raw_basic


def _assertion(
    identity: Identity,
    server: ServerMetadata,
    now: datetime,
    auth: ClientAuth,
    method: str,
    uri: str,
    headers: MutableMapping[str, str],
    body: str,
) -> _Prepared:
    assertion = client_assertion(
        auth.client_id,
        auth.client_secret,
        server.token_endpoint,
        now,
        key_id=identity.key_id,
        offered=server.signing_algorithms,
    )
    fields = {
        "client_id": auth.client_id,
        "client_assertion_type": _JWT_BEARER,
        "client_assertion": assertion,
    }
    return uri, headers, f"{body}&{urlencode(fields)}"


def _basic(
    auth: ClientAuth, method: str, uri: str, headers: MutableMapping[str, str], body: str
) -> _Prepared:
    """Form-encoded as RFC 6749 section 2.3.1 asks; %20 and not +, which every decoder reads alike."""
    return _with_basic(
        f"{quote(auth.client_id, safe='')}:{quote(auth.client_secret, safe='')}", uri, headers, body
    )


def _raw_basic(
    auth: ClientAuth, method: str, uri: str, headers: MutableMapping[str, str], body: str
) -> _Prepared:
    """As RFC 7617 has it, for servers that do not decode."""
    return _with_basic(f"{auth.client_id}:{auth.client_secret}", uri, headers, body)


def _with_basic(pair: str, uri: str, headers: MutableMapping[str, str], body: str) -> _Prepared:
    headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    return uri, headers, body
