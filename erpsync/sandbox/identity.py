"""The identity site: trusted applications, discovery documents and access tokens by Client Credentials.

Source: auth/flows/client-credentials, auth/tokens/access-tokens, RFC 6749 sections 4.4 and 5.2, RFC 9068.
"""

import base64
import hashlib
import secrets
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final
from urllib.parse import unquote_plus

from joserfc import jwt
from joserfc.jwk import KeyParameters, RSAKey

from erpsync.sandbox.behaviour import Behaviour
from erpsync.sandbox.sessions import Clock

CLIENT_ID: Final = "erpsync.sandbox/service"
CLIENT_SECRET: Final = "sandbox-secret"  # noqa: S105 - published, opens nothing but a sandbox
_AUDIENCES: Final = ("DomainAPI", "TableAPI", "OLAP", "AppServer")
_INTERACTIVE: Final = frozenset({"openid", "profile", "offline_access"})
_LEGACY: Final = "DomainApi"


@dataclass(frozen=True, slots=True)
class Application:
    """A trusted application, as far as a service needs it (Systems.Security.TrustedApplications)."""

    client_id: str
    secret_hash: str = field(repr=False)
    scope: str = "read update"
    name: str = ""
    is_enabled: bool = True
    client_type: str = "Confidential"
    system_user_allowed: bool = True
    system_user: str = "SYSTEM_APPLICATION_USER"

    def accepts(self, secret: str) -> bool:
        """Whether it may authenticate with this secret."""
        right = secrets.compare_digest(self.secret_hash, secret_hash(secret))
        return right and self.is_enabled and self.client_type == "Confidential"


@dataclass(frozen=True, slots=True)
class Token:
    """What is known about a token that was issued. `deadline` is a reading of `Clock.lifetime`."""

    token_id: str
    client_id: str
    user: str
    scopes: frozenset[str]
    deadline: float


class OAuthError(Exception):
    """A refusal of the token endpoint (RFC 6749 section 5.2)."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description


def secret_hash(secret: str) -> str:
    """The form in which ERP.net keeps secrets: base64 of the SHA-256."""
    return base64.b64encode(hashlib.sha256(secret.encode()).digest()).decode()


@cache
def signing_key() -> RSAKey:
    """One key for each process: making it takes longer than starting a sandbox."""
    parameters: KeyParameters = {"kid": uuid.uuid4().hex.upper(), "use": "sig", "alg": "RS256"}
    return RSAKey.generate_key(2048, parameters)


class Identity:
    """Trusted applications and the tokens issued to them. Only tokens issued here and not revoked are accepted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._applications: dict[str, Application] = {}
        self._tokens: dict[str, Token] = {}
        self.requests: Counter[str] = Counter()
        self.issued: Counter[str] = Counter()
        self.register(CLIENT_ID, CLIENT_SECRET)

    def register(self, client_id: str, secret: str, **fields: Any) -> None:
        """Adds or replaces a trusted application. Raises TypeError for an unknown field."""
        self._applications[client_id] = Application(client_id, secret_hash(secret), **fields)

    def set_secret(self, client_id: str, secret: str) -> None:
        """Rotates a secret; tokens already issued stay valid."""
        self._applications[client_id] = replace(
            self._applications[client_id], secret_hash=secret_hash(secret)
        )

    def reference_token(self, client_id: str) -> str:
        """Mints a token without expiry for the application's system user (auth/tokens/reference-access-tokens)."""
        application = self._applications[client_id]
        text = f"enrt_{secrets.token_hex(32).upper()}"
        scopes = frozenset(application.scope.split())
        self._tokens[text] = Token(text[-8:], client_id, application.system_user, scopes, float("inf"))
        return text

    def revoke(self) -> None:
        """From now on no token issued so far is accepted."""
        self._tokens.clear()

    def tokens(self) -> list[str]:
        """The tokens issued and not revoked."""
        return list(self._tokens)

    def lookup(self, text: str) -> Token | None:
        """The token behind `text` while it is valid."""
        token = self._tokens.get(text)
        return token if token is not None and token.deadline > self._clock.lifetime() else None

    def count_request(self, form: Mapping[str, str], authorization: str) -> None:
        """Counts a request to the token endpoint by application, whatever its answer will be."""
        client_id = form.get("client_id") or next(iter(_basic(authorization)), ("", ""))[0]
        self.requests[client_id if client_id in self._applications else "(unknown)"] += 1

    def grant(
        self, form: Mapping[str, str], authorization: str, issuer: str, behaviour: Behaviour
    ) -> dict[str, object]:
        """The answer to a token request. Raises OAuthError in the order in which the checks are made."""
        if not form.get("grant_type"):
            raise OAuthError("invalid_request", "The grant_type is missing.")
        application = self._authenticate(form, authorization if behaviour.basic_auth else "")
        if form["grant_type"] != "client_credentials":
            raise OAuthError(
                "unsupported_grant_type", f"The grant type '{form['grant_type']}' is not supported."
            )
        if not (application.system_user_allowed and application.system_user):
            raise OAuthError("unauthorized_client", "The application has no system user.")
        scopes = _granted(application, form.get("scope", ""), behaviour.granted_scope)
        text = self._issue(application, scopes, issuer, behaviour.token_ttl)
        return {
            "access_token": text,
            "expires_in": behaviour.token_ttl,
            "token_type": "Bearer",
            "scope": " ".join(scopes),
        }

    def _authenticate(self, form: Mapping[str, str], authorization: str) -> Application:
        posted = (
            [(form["client_id"], form["client_secret"])]
            if {"client_id", "client_secret"} <= set(form)
            else []
        )
        candidates = posted or _basic(authorization)
        if not candidates:
            raise OAuthError("invalid_request", "The client_id or client_secret is missing.")
        for client_id, secret in candidates:
            application = self._applications.get(client_id)
            if application is not None and application.accepts(secret):
                return application
        raise OAuthError("invalid_client", "The client is unknown or disabled, or its credentials are wrong.")

    def _issue(self, application: Application, scopes: list[str], issuer: str, ttl: int) -> str:
        now = int(self._clock.wall())
        token_id = uuid.uuid4().hex.upper()
        claims: dict[str, Any] = {
            "nbf": now,
            "exp": now + ttl,
            "iss": issuer,
            "aud": [*_AUDIENCES, f"{issuer}/resources"],
            "client_id": application.client_id,
            "client_system_user": application.system_user,
            "client_system_user_type": "InternalUser",
            "client_db": "SANDBOX",
            "jti": token_id,
            "iat": now,
            "scope": scopes,
        }
        key = signing_key()
        text = jwt.encode({"alg": "RS256", "kid": key.kid, "typ": "at+jwt"}, claims, key)
        deadline = self._clock.lifetime() + ttl
        self._tokens[text] = Token(
            token_id, application.client_id, application.system_user, frozenset(scopes), deadline
        )
        self.issued[application.client_id] += 1
        return text


def _basic(authorization: str) -> list[tuple[str, str]]:
    """The credentials of an HTTP Basic header, once as sent and once form-decoded: clients do either."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return []
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return []
    return [(client_id, secret), (unquote_plus(client_id), unquote_plus(secret))]


def _granted(application: Application, requested: str, ceiling: str | None) -> list[str]:
    """Everything the application has when nothing is asked for; the obsolete `DomainApi` is let pass (scopes.md)."""
    allowed = application.scope.split()
    for scope in requested.split():
        if scope != _LEGACY and (scope in _INTERACTIVE or scope not in allowed):
            raise OAuthError("invalid_scope", f"Invalid scope: {scope}")
    wanted = [scope for scope in requested.split() if scope in allowed] or allowed
    return wanted if ceiling is None else [scope for scope in wanted if scope in ceiling.split()]


def openid_configuration(issuer: str) -> dict[str, object]:
    """The OpenID configuration; `scopes_supported` lacks `read`, as the published sample does."""
    return {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/.well-known/openid-configuration/jwks",
        "authorization_endpoint": f"{issuer}/connect/authorize",
        "token_endpoint": f"{issuer}/connect/token",
        "end_session_endpoint": f"{issuer}/connect/endsession",
        "scopes_supported": ["openid", "profile", "offline_access", "update"],
        "response_types_supported": ["code", "token", "id_token", "code id_token"],
        "grant_types_supported": ["authorization_code", "client_credentials", "refresh_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }


def jwks() -> dict[str, object]:
    """The public half of the signing key."""
    return {"keys": [signing_key().as_dict(private=False)]}
