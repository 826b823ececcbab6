"""Signing a person in and out: Authorization Code with PKCE (RFC 6749 section 4.1, RFC 7636), checked at every turn.

Authlib builds the address and the challenge, joserfc judges the id_token (OpenID Connect Core section 3.1.3.7).
"""

import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from erpsync.core.clock import Clock
from erpsync.core.errors import (
    DiscoveryError,
    IdentityError,
    SecretUnavailableError,
    SignInError,
    TokenEndpointError,
)
from erpsync.core.instance import Identity
from erpsync.core.redaction import LONGEST_FOREIGN
from erpsync.identity.claims import session_of
from erpsync.identity.client import TokenClient
from erpsync.identity.discovery import ServerMetadata
from erpsync.identity.endpoint import post_as_client
from erpsync.identity.exchange import TIMEOUT, exchange
from erpsync.identity.sealed import StoredToken

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_LEEWAY = 120  # seconds that clocks may differ


@dataclass(frozen=True, slots=True)
class SignIn:
    """A sign-in under way: the address for the browser, and what the answer is compared with."""

    url: str = field(repr=False)
    redirect_uri: str
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignedOut:
    """What could not be done, in words, and the fingerprint of the session that the server says it has ended."""

    undone: tuple[str, ...]
    session: str = ""


def begin(identity: Identity, server: ServerMetadata, redirect_uri: str, *, consent: bool) -> SignIn:
    """A sign-in that comes back to `redirect_uri`.

    With `consent` the person is asked whether erpsync may stay signed in, without which OpenID Connect Core section
    11 gives no refresh token.

    Raises:
        DiscoveryError: the server has no authorization endpoint.
    """
    if server.authorization_endpoint is None:
        raise DiscoveryError(
            f"{server.issuer} names no authorization endpoint: nobody can sign in there",
            hint='a service needs grant = "client_credentials"',
            retryable=False,
        )
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    more = {"prompt": "consent"} if consent else {}
    if identity.audience:
        more["audience"] = identity.audience
    url = prepare_grant_uri(
        server.authorization_endpoint,
        identity.client_id,
        "code",
        redirect_uri,
        list(identity.scope),
        state,
        nonce=nonce,
        code_challenge=create_s256_code_challenge(verifier),
        code_challenge_method="S256",
        resource=list(identity.resource),
        **{**more, **identity.extra},
    )
    return SignIn(url, redirect_uri, state, nonce, verifier)


def code_in(came: str, sign_in: SignIn, server: ServerMetadata) -> str:
    """The code in the address, or its query alone, at which the browser ended.

    Raises:
        SignInError: it is not the answer to this sign-in, or the server has refused.
    """
    if not came.strip():
        raise SignInError(
            "nothing was pasted", hint="the address is in the browser's address bar, from http to its end"
        )
    before, mark, query = came.strip().partition("#")[0].partition("?")
    query = query if mark and ("://" in before or not before) else before + mark + query
    fields = parse_qs(query, keep_blank_values=True)
    if any(len(values) != 1 for values in fields.values()):
        raise SignInError("the browser came back with an answer that says something twice", hint=_ANEW)
    answer = {name: value for name, (value,) in fields.items()}
    if _is_at(server, before) and "code" not in answer:
        raise _kept(answer, sign_in)
    if not hmac.compare_digest(answer.get("state", "").encode("utf-8", "replace"), sign_in.state.encode()):
        raise SignInError("this is not the answer to the sign-in that was begun (state)", hint=_ANEW)
    if "error" in answer and "iss" not in answer:  # a refusal gives nothing, whoever sends it
        raise _refused(answer, sign_in)
    if answer.get("iss", None if server.sends_issuer else server.issuer) != server.issuer:  # RFC 9207
        raise SignInError("the answer is not from this identity server (iss)", hint=_ANEW)
    if "error" in answer:
        raise _refused(answer, sign_in)
    if not answer.get("code"):
        raise SignInError("the answer holds no code", hint=_ANEW)
    return answer["code"]


async def redeem(tokens: TokenClient, http: httpx2.AsyncClient, sign_in: SignIn, code: str) -> StoredToken:
    """What the code is worth, with the id_token checked.

    Raises:
        SignInError: the id_token is missing or not what was asked for, or there is no refresh token.
        DiscoveryError, TokenEndpointError, SecretUnavailableError: as `TokenClient.request`.
    """
    tokens.redactor.learn(code, sign_in.verifier)  # of each there is one in the life of this process
    fetched = await tokens.request(
        "authorization_code", code=code, redirect_uri=sign_in.redirect_uri, code_verifier=sign_in.verifier
    )
    grant = fetched.grant
    tokens.redactor.learn(grant.access_token)
    if grant.id_token is None:
        raise SignInError("the server does not say who has signed in (no id_token)", hint=_OPENID)
    claims = await _checked(tokens, http, grant.id_token, sign_in.nonce)
    if grant.refresh_token is None:
        raise SignInError(
            "the server gives no refresh token, so the sign-in would be over with the first token",
            hint="allow the scope offline_access to the client at the server",
        )
    return StoredToken(
        grant.access_token,
        fetched.sent_at,
        grant.lifetime,
        grant.scope,
        refresh_token=grant.refresh_token,
        refreshed_at=fetched.sent_at,
        id_token=grant.id_token,
        subject=str(claims["sub"]),
        basis=fetched.basis,
    )


async def sign_out(tokens: TokenClient, http: httpx2.AsyncClient, stored: StoredToken) -> SignedOut:
    """Revoke the refresh token (RFC 7009) and end the session (OpenID Connect RP-Initiated Logout), as far as the
    server offers it. Only for people: a service has no session to end."""
    try:
        server = await tokens.metadata()
    except DiscoveryError as error:
        return SignedOut((f"the server was not told: {error.message}",))
    undone: list[list[str]] = []
    for step in (_revoke, _end_session):
        try:
            undone.append(await step(tokens, http, server, stored))
        except (IdentityError, SecretUnavailableError) as error:
            undone.append([error.message])
    revocation, end = undone
    return SignedOut((*revocation, *end), session_of(stored.access_token) if not end else "")


async def _revoke(
    tokens: TokenClient, http: httpx2.AsyncClient, server: ServerMetadata, stored: StoredToken
) -> list[str]:
    if stored.refresh_token is None:
        return []
    if server.revocation_endpoint is None:
        return ["the server offers no revocation: the refresh token lives until it ends by itself"]
    body = urlencode({"token": stored.refresh_token, "token_type_hint": "refresh_token"})
    for secret in await tokens.secrets():
        answer = await post_as_client(
            http,
            server.revocation_endpoint,
            server,
            tokens.identity,
            secret,
            body,
            clock=tokens.clock,
            skew=tokens.skew(server),
        )
        if 200 <= answer.status < 300:
            return []
    return [f"the server has not revoked the refresh token ({answer.status})"]


async def _end_session(
    tokens: TokenClient, http: httpx2.AsyncClient, server: ServerMetadata, stored: StoredToken
) -> list[str]:
    if server.end_session_endpoint is None or stored.id_token is None:
        return ["the server offers no end of the session: it ends when it has been idle"]
    params = {"id_token_hint": stored.id_token, "client_id": tokens.identity.client_id}
    request = http.build_request("GET", server.end_session_endpoint, params=params, timeout=TIMEOUT)
    answer = await exchange(http, request, clock=tokens.clock, error=TokenEndpointError)
    if 200 <= answer.status < 300:
        return []
    asks = (
        "; it wants a person to confirm that" if answer.status < 400 else ""
    )  # and we have named no way back
    return [f"the server has not ended the session ({answer.status}){asks}"]


async def _checked(
    tokens: TokenClient, http: httpx2.AsyncClient, id_token: str, nonce: str
) -> Mapping[str, Any]:
    """The claims of an id_token that is the server's answer to this sign-in."""
    server = await tokens.metadata()
    if server.jwks_uri is None:
        message = "the server publishes no keys (jwks_uri), so its id_token proves nothing"
        raise SignInError(message, hint="ask who runs the identity server")
    client_id = tokens.identity.client_id
    rules = jwt.JWTClaimsRegistry(
        now=int(tokens.clock.now().timestamp() + tokens.skew(server)),
        leeway=_LEEWAY,
        iss={"essential": True, "value": server.issuer},
        aud={"essential": True, "value": client_id},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True, "value": nonce},
    )
    try:
        try:
            claims = jwt.decode(
                id_token, await _keys(http, server.jwks_uri, tokens.clock), _ALGORITHMS
            ).claims
        except InvalidKeyIdError:  # it has just rolled its keys over, and something between had the old ones
            claims = jwt.decode(
                id_token, await _keys(http, server.jwks_uri, tokens.clock), _ALGORITHMS
            ).claims
        rules.validate(claims)
    except (JoseError, ValueError, RecursionError) as error:
        raise SignInError(f"the id_token is not what it should be: {error}", hint=_ANEW) from error
    if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp") != client_id:
        raise SignInError("the id_token was made for another client (azp)", hint=_ANEW)
    return claims


async def _keys(http: httpx2.AsyncClient, url: str, clock: Clock) -> KeySet:
    request = http.build_request(
        "GET", url, headers={"Accept": "application/json", "Cache-Control": "no-cache"}, timeout=TIMEOUT
    )
    answer = await exchange(http, request, clock=clock, error=DiscoveryError)
    try:
        return KeySet.import_key_set(json.loads(answer.body))
    except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
        hint = "open the address in a browser: the server's description names it as its jwks_uri"
        raise DiscoveryError(f"{url} answers {answer.status} and no keys", hint=hint) from error


def _is_at(server: ServerMetadata, address: str) -> bool:
    """Whether an address is one of the identity server's own pages."""
    page = urlsplit(server.authorization_endpoint or server.issuer)
    return address.lower().startswith(f"{page.scheme}://{page.netloc}/".lower())


def _kept(answer: Mapping[str, str], sign_in: SignIn) -> SignInError:
    words = _words(answer)
    return SignInError(
        "the identity server has not sent the browser back" + (f" ({words})" if words else ""),
        hint=f"its page says why; {_registered(sign_in)}",
    )


def _registered(sign_in: SignIn) -> str:
    return (
        f"the address {sign_in.redirect_uri} must be registered with the client, exactly (on ERP.net in "
        "ImpersonateLoginUrl of the Trusted Application); redirect_uri of the identity names another"
    )


def _words(answer: Mapping[str, str]) -> str:
    """What the server says is wrong: "error: error_description" (RFC 6749 section 4.1.2.1)."""
    texts = (
        " ".join(answer.get(name, "").split())[:LONGEST_FOREIGN] for name in ("error", "error_description")
    )
    return ": ".join(filter(None, texts))


def _refused(answer: Mapping[str, str], sign_in: SignIn) -> SignInError:
    error, words = answer["error"].strip(), _words(answer)
    if error == "access_denied":
        return SignInError(f"the sign-in was refused or given up at the identity server ({words})")
    if "redirect" in words.lower():
        return SignInError(f"the identity server does not sign in ({words})", hint=_registered(sign_in))
    away = error in ("server_error", "temporarily_unavailable")
    return SignInError(
        f"the identity server does not sign in ({words})",
        hint="try again later"
        if away
        else "on ERP.net see the Trusted Application: Scope, ImpersonateLoginUrl",
        retryable=away,
    )


_ANEW = "begin anew: erpsync login"
_OPENID = "the scope openid must be allowed to the client at the server"
