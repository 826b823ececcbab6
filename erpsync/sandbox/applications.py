"""Trusted applications, and how a client proves to be one of them.

Source: auth/configuration/trusted-apps-access; RFC 6749 section 2.3, RFC 7523 (private_key_jwt), RFC 8252 s. 7.3.
"""

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import unquote_plus, urlsplit

import msgspec
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from erpsync.sandbox.behaviour import Behaviour

ASSERTION_ALGORITHMS: Final = (
    *(f"{family}{size}" for family in ("RS", "PS", "ES") for size in (256, 384, 512)),
    "EdDSA",
)
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class OAuthError(Exception):
    """A refusal (RFC 6749 sections 4.1.2.1 and 5.2)."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description


def _no_client() -> OAuthError:
    return OAuthError("invalid_client", "The client is unknown or disabled, or its credentials are wrong.")


def secret_hash(secret: str) -> str:
    """The form in which ERP.net keeps secrets: base64 of the SHA-256."""
    return base64.b64encode(hashlib.sha256(secret.encode()).digest()).decode()


@dataclass(frozen=True, slots=True)
class Application:
    """A trusted application (Systems.Security.TrustedApplications)."""

    client_id: str
    secret_hash: str | None = field(default=None, repr=False)
    scope: str = "read update"
    name: str = ""
    is_enabled: bool = True
    client_type: str = "Confidential"
    system_user_allowed: bool = True
    system_user: str = "SYSTEM_APPLICATION_USER"
    public_key: str | None = None
    """PEM; with it the application authenticates by private_key_jwt."""
    redirect_uris: tuple[str, ...] = ()
    """Where people may be sent back to after they signed in (ImpersonateLoginUrl): exact, case included."""
    any_loopback_port: bool = False
    """The port of a loopback redirect URI may be any, as RFC 8252 demands for native applications."""
    logout_uris: tuple[str, ...] = ()
    """Where people may be sent back to after they signed out (ImpersonateLogoutUrl)."""

    @property
    def is_public(self) -> bool:
        """It cannot keep a secret, and proves by PKCE that it is the one that began a sign-in."""
        return self.client_type == "Public"

    @property
    def scopes(self) -> list[str]:
        """What it may ask for."""
        return self.scope.split()

    def accepts(self, secret: str) -> bool:
        """Whether it may authenticate with this secret."""
        right = secrets.compare_digest(self.secret_hash or "", secret_hash(secret))
        return right and self.is_enabled and not self.is_public

    def redirects_to(self, uri: str) -> bool:
        """Whether people may be sent there."""
        return self._lists(uri, self.redirect_uris)

    def leads_out_to(self, uri: str) -> bool:
        """Whether people may be sent there after they signed out."""
        return self._lists(uri, self.logout_uris)

    def serves(self, origin: str) -> bool:
        """Whether pages of this origin belong to it, so that they may read answers (CORS)."""
        parts = map(urlsplit, self.redirect_uris)
        return self._lists(origin, (f"{part.scheme}://{part.netloc}" for part in parts))

    def _lists(self, uri: str, registered: Iterable[str]) -> bool:
        if self.any_loopback_port:
            return _without_port(uri) in map(_without_port, registered)
        return uri in registered


def _without_port(uri: str) -> object:
    """The URI but for the port of a loopback address; any other stays whole."""
    try:
        parts = urlsplit(uri)
        if parts.scheme != "http" or parts.hostname not in _LOOPBACK or "@" in parts.netloc:
            return uri
        return parts._replace(netloc=f"{parts.hostname}:any" if parts.port != 0 else "")
    except ValueError:  # a port that is no number
        return uri


class Applications:
    """The trusted applications of an instance. `now` gives the seconds since 1970 as the instance believes."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._known: dict[str, Application] = {}
        self._used_assertions: set[tuple[str, str]] = set()

    def register(self, client_id: str, secret: str | None = None, **fields: Any) -> None:
        """Adds or replaces one. Raises TypeError for an unknown field, ValueError for one that nobody could be."""
        for name in {"redirect_uris", "logout_uris"} & set(fields):
            fields[name] = tuple(fields[name])
        hashed = None if secret is None else secret_hash(secret)
        application = Application(client_id, hashed, **fields)
        if hashed is None and application.public_key is None and not application.is_public:
            raise ValueError("a confidential application needs a secret or a public_key")
        if application.public_key is not None:
            _public_key(application.public_key)
        self._known[client_id] = application

    def set_secret(self, client_id: str, secret: str) -> None:
        """Rotates a secret."""
        self._known[client_id] = replace(self._known[client_id], secret_hash=secret_hash(secret))

    def __getitem__(self, client_id: str) -> Application:
        return self._known[client_id]

    def enabled(self, client_id: str) -> Application | None:
        """The application, unless it is unknown or switched off."""
        application = self._known.get(client_id)
        return application if application is not None and application.is_enabled else None

    def serve(self, origin: str) -> bool:
        """Whether pages of this origin belong to an application."""
        return any(application.serves(origin) for application in self._known.values())

    def named(self, form: Mapping[str, str], authorization: str) -> str:
        """The client id in a request, however it authenticates; "(unknown)" when none of ours is named."""
        claimed = _claims(form.get("client_assertion", "")).get("sub")
        names = [form.get("client_id"), claimed, *(client_id for client_id, _ in _basic(authorization))]
        return next((name for name in names if isinstance(name, str) and name in self._known), "(unknown)")

    def authenticate(
        self, form: Mapping[str, str], authorization: str, behaviour: Behaviour, audiences: Iterable[str]
    ) -> Application:
        """The application that asks. Raises OAuthError."""
        if "client_assertion" in form:
            return self._by_assertion(form, audiences)
        candidates = _basic(authorization, behaviour.basic_auth)
        if {"client_id", "client_secret"} <= set(form):
            candidates = [(form["client_id"], form["client_secret"])]
        elif not candidates:
            return self._public(form.get("client_id", ""))
        for client_id, secret in candidates:
            application = self._known.get(client_id)
            if application is not None and application.accepts(secret):
                return application
        raise _no_client()

    def _public(self, client_id: str) -> Application:
        application = self.enabled(client_id)
        if application is None or not application.is_public:
            raise OAuthError("invalid_request", "The client_id or client_secret is missing.")
        return application

    def _by_assertion(self, form: Mapping[str, str], audiences: Iterable[str]) -> Application:
        """Each assertion is taken once (RFC 7523 section 3); the instance's clock decides whether it is over."""
        assertion = form["client_assertion"]
        client_id = _claims(assertion).get("iss", "")
        application = self.enabled(client_id) if isinstance(client_id, str) else None
        if (
            application is None
            or application.public_key is None
            or form.get("client_assertion_type") != _ASSERTION_TYPE
            or form.get("client_id", client_id) != client_id
        ):
            raise _no_client()
        rules = jwt.JWTClaimsRegistry(
            now=lambda: int(self._now()),
            leeway=30,
            sub={"essential": True, "value": client_id},
            aud={"essential": True, "values": list(audiences)},
            exp={"essential": True},
            jti={"essential": True},
        )
        try:
            token = jwt.decode(assertion, _public_key(application.public_key), list(ASSERTION_ALGORITHMS))
            rules.validate(token.claims)
        except (JoseError, ValueError) as error:
            raise OAuthError("invalid_client", f"The client assertion is not valid: {error}") from error
        use = client_id, str(token.claims["jti"])
        if use in self._used_assertions:
            raise OAuthError("invalid_client", "The client assertion was used before.")
        self._used_assertions.add(use)
        return application


def _public_key(pem: str) -> RSAKey | ECKey | OKPKey:
    """The key of whatever kind. Raises ValueError for text that is none."""
    for kind in (RSAKey, ECKey, OKPKey):
        with suppress(JoseError, ValueError):
            return kind.import_key(pem)
    raise ValueError("public_key is not a PEM that we can read")


def _claims(token: str) -> dict[str, Any]:
    """What a JWT says, believed by nobody yet; nothing when it is none."""
    try:
        return msgspec.json.decode(jws.extract_compact(token.encode()).payload, type=dict[str, Any])
    except (JoseError, ValueError):
        return {}


def _basic(authorization: str, decoding: str = "either") -> list[tuple[str, str]]:
    """The credentials of an HTTP Basic header, form-decoded (RFC 6749 section 2.3.1), as sent, or either."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return []
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return []
    forms = {"raw": (client_id, secret), "rfc6749": (unquote_plus(client_id), unquote_plus(secret))}
    return [pair for name, pair in forms.items() if decoding in ("either", name)]
