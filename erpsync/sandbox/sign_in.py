"""Signing in: the request that sends a person here, the browsers that are signed in, and the codes they leave with.

Source: auth/flows/auth-code; RFC 6749 section 4.1, RFC 7636, RFC 9207, OpenID Connect Core section 3.1.2.
"""

import hashlib
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from erpsync.sandbox.applications import Application, Applications, OAuthError
from erpsync.sandbox.people import Person
from erpsync.sandbox.sessions import Clock
from erpsync.sandbox.tokens import Family, Grant, SignIn

PROTOCOL_SCOPES: Final = ("openid", "profile")
"""Scopes that every application for people has; they are not configured (auth/concepts/scopes)."""
LEGACY_SCOPE: Final = "DomainApi"
"""Obsolete, still asked for by samples, and let pass without being granted (auth/concepts/scopes)."""
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class ReturnedError(Exception):
    """A refusal that the application learns: the browser is sent back with it."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A request that was checked; whoever signs in goes back to `redirect_uri`."""

    application: Application
    redirect_uri: str
    scopes: tuple[str, ...]
    challenge: str | None
    nonce: str | None
    prompts: frozenset[str]
    max_age: float
    """Seconds since the person gave a password; after them they are asked again."""


@dataclass(slots=True)
class Code:
    """An authorization code. `tokens` is what it was redeemed for: the access token and the family."""

    request: AuthorizationRequest
    sign_in: SignIn
    deadline: float
    tokens: tuple[str, Family] | None = None

    @property
    def grant(self) -> Grant:
        """What the person allowed."""
        return Grant(
            self.request.application.client_id, self.request.scopes, self.sign_in, self.request.nonce
        )

    def check(self, redirect_uri: str | None, verifier: str | None) -> None:
        """Raises OAuthError unless it is redeemed by the one who began (RFC 7636 section 4.6)."""
        if redirect_uri != self.request.redirect_uri:
            raise OAuthError("invalid_grant", "The redirect_uri is not that of the authorization request.")
        digest = hashlib.sha256((verifier or "").encode()).digest()
        challenge = None if verifier is None else urlsafe_b64encode(digest).decode().rstrip("=")
        if challenge != self.request.challenge:
            raise OAuthError("invalid_grant", "PKCE verification failed")


def where_to_return(applications: Applications, parameters: Mapping[str, str]) -> tuple[Application, str]:
    """The application and its redirect URI. Raises OAuthError, which the person at the browser has to be shown."""
    application = applications.enabled(parameters.get("client_id", ""))
    if application is None:
        raise OAuthError("unauthorized_client", "The application is unknown or disabled.")
    redirect_uri = parameters.get("redirect_uri", "")
    if not application.redirects_to(redirect_uri):
        raise OAuthError("invalid_redirect_uri", "The redirect_uri is none of the application's.")
    return application, redirect_uri


def checked(application: Application, uri: str, parameters: Mapping[str, str]) -> AuthorizationRequest:
    """The request, sound and allowed. Raises ReturnedError in the order in which the checks are made."""
    for name in ("request", "request_uri"):
        if name in parameters:
            raise ReturnedError(f"{name}_not_supported", "Request objects are not supported.")
    match parameters.get("response_type"):
        case "code":
            pass
        case None:
            raise ReturnedError("invalid_request", "The response_type is missing.")
        case other:
            raise ReturnedError("unsupported_response_type", f"The response type '{other}' is not supported.")
    if parameters.get("response_mode", "query") != "query":
        raise ReturnedError("invalid_request", "The response_mode is not supported.")
    prompts = frozenset(parameters.get("prompt", "").split())
    max_age = parameters.get("max_age", "inf")
    if (prompts > {"none"}) or not re.fullmatch(r"\d+|inf", max_age):
        raise ReturnedError("invalid_request", "The prompt or max_age cannot be understood.")
    return AuthorizationRequest(
        application,
        uri,
        _scopes(application, parameters.get("scope", "").split()),
        _challenge(application, parameters),
        parameters.get("nonce"),
        prompts,
        float(max_age),
    )


def _scopes(application: Application, requested: list[str]) -> tuple[str, ...]:
    allowed = [*PROTOCOL_SCOPES, *application.scopes]
    for scope in requested:
        if scope not in allowed and scope != LEGACY_SCOPE:
            raise ReturnedError("invalid_scope", f"Invalid scope: {scope}")
    return tuple(scope for scope in requested if scope in allowed) or tuple(application.scopes)


def _challenge(application: Application, parameters: Mapping[str, str]) -> str | None:
    challenge = parameters.get("code_challenge")
    if challenge is None:
        if application.is_public:
            raise ReturnedError("invalid_request", "A code_challenge is required.")
        return None
    if parameters.get("code_challenge_method") != "S256":
        raise ReturnedError("invalid_request", "The code_challenge_method has to be S256.")
    if not _CHALLENGE.fullmatch(challenge):
        raise ReturnedError("invalid_request", "The code_challenge is not an S256 one.")
    return challenge


def way_back(uri: str, issuer: str, **answer: str | None) -> str:
    """The redirect URI with an answer, and with the issuer that gave it (RFC 9207)."""
    given = {name: value for name, value in answer.items() if value is not None}
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode({**given, 'iss': issuer})}"


class SignIns:
    """Browsers that are signed in, by their cookie, and codes not yet forgotten."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._browsers: dict[str, SignIn] = {}
        self._codes: dict[str, Code] = {}

    def of(self, cookie: str) -> SignIn | None:
        """Who is signed in at a browser."""
        return self._browsers.get(cookie)

    def enter(self, cookie: str, person: Person) -> str:
        """A person gave the right password. The same person keeps the session (interactive-apps-prompts)."""
        before = self._browsers.pop(cookie, None)
        kept = before is not None and before.person.login == person.login
        sid = before.sid if before is not None and kept else secrets.token_hex(16).upper()
        cookie = secrets.token_urlsafe(24)
        self._browsers[cookie] = SignIn(sid, person, self._clock.wall())
        return cookie

    def suffices(self, sign_in: SignIn | None, request: AuthorizationRequest) -> bool:
        """Whether nobody has to be asked for a password."""
        if sign_in is None or "login" in request.prompts:
            return False
        return self._clock.wall() - sign_in.at <= request.max_age

    def leave(self, sid: str) -> None:
        """Signs out wherever this session is."""
        self._browsers = {cookie: item for cookie, item in self._browsers.items() if item.sid != sid}

    def issue_code(self, request: AuthorizationRequest, sign_in: SignIn, ttl: float) -> str:
        """A code for the way back."""
        text = secrets.token_urlsafe(24)
        self._codes[text] = Code(request, sign_in, self._clock.lifetime() + ttl)
        return text

    def codes(self) -> list[str]:
        """Every code ever issued."""
        return [*self._codes]

    def code(self, text: str, client_id: str) -> Code:
        """The code when it is this application's and not over; it may have been used. Raises OAuthError."""
        code = self._codes.get(text)
        over = code is None or code.deadline <= self._clock.lifetime()
        if code is None or over or code.request.application.client_id != client_id:
            raise OAuthError("invalid_grant", "The authorization code is expired or invalid.")
        return code
