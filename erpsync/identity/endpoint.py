"""The request to a token endpoint (RFC 6749 sections 2.3.1 and 4.4.2), built by Authlib; its one home.

Authlib builds the body and authenticates the client. Sending, reading and judging are ours: Authlib accepts error
answers as tokens, hides status and headers, and does not form-encode Basic credentials.
"""

import base64
from collections.abc import Callable, MutableMapping
from urllib.parse import quote, urlencode

import httpx2
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_token_request

from erpsync.core.clock import Clock
from erpsync.core.errors import TokenEndpointError
from erpsync.core.instance import Identity
from erpsync.identity.exchange import TIMEOUT, Answer, exchange

_Prepared = tuple[str, MutableMapping[str, str], str]
_Encode = Callable[[ClientAuth, str, str, MutableMapping[str, str], str], _Prepared]


async def request_token(
    client: httpx2.AsyncClient, url: str, identity: Identity, secret: str, *, clock: Clock
) -> Answer:
    """One token request by Client Credentials, answered with whatever the server says.

    Raises:
        TokenEndpointError: no complete answer came; retryable unless the certificate or the proxy refuses us.
    """
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    auth = ClientAuth(identity.client_id, secret, _auth_method(identity))
    url, headers, body = auth.prepare("POST", url, headers, _body(identity))
    request = client.build_request("POST", url, headers=headers, content=body, timeout=TIMEOUT)
    return await exchange(client, request, clock=clock, error=TokenEndpointError)


def _body(identity: Identity) -> str:
    more = [("resource", resource) for resource in identity.resource]  # repeated: RFC 8707 section 2
    if identity.audience:
        more.append(("audience", identity.audience))
    body: str = prepare_token_request(
        "client_credentials", urlencode([*more, *identity.extra.items()]), scope=list(identity.scope)
    )
    return body


def _auth_method(identity: Identity) -> str | _Encode:
    if identity.auth_method == "client_secret_post":
        return "client_secret_post"
    return _basic if identity.basic_encoding == "rfc6749" else _raw_basic


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
