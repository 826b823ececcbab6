"""Tokens: signed access and identity tokens, reference tokens, and refresh tokens that rotate.

Source: auth/tokens (access-tokens, token-lifetime, reference-access-tokens), RFC 9068, RFC 9700 section 4.14.2.
"""

import hashlib
import secrets
import uuid
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeyParameters, RSAKey

from erpsync.sandbox.applications import Application, OAuthError
from erpsync.sandbox.behaviour import Behaviour
from erpsync.sandbox.people import Person
from erpsync.sandbox.sessions import Clock

_AUDIENCES: Final = ("DomainAPI", "TableAPI", "OLAP", "AppServer")
_ID_TOKEN_SECONDS: Final = 300
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class SignIn:
    """A person at a browser. Every token that comes of it shares its session, so one licence slot (prompts.md)."""

    sid: str
    person: Person
    at: float
    """Seconds since 1970 as the instance believes."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What somebody allowed an application; the tokens made of it say so."""

    client_id: str
    scopes: tuple[str, ...]
    sign_in: SignIn | None = None
    """None for the application's own system user."""
    nonce: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """What is known about an access token that was issued. `deadline` is a reading of `Clock.lifetime`."""

    token_id: str
    client_id: str
    user: str
    scopes: frozenset[str]
    deadline: float
    sign_in: SignIn | None = None
    claims: Mapping[str, Any] | None = None
    """Those of a signed token; a reference token has none."""


@dataclass(slots=True)
class Family:
    """The refresh tokens that came of one grant, of which one is good at a time."""

    grant: Grant
    alive: bool = True


@dataclass(slots=True)
class _Refresh:
    family: Family
    deadline: float
    used_at: float | None = None


@cache
def signing_key() -> RSAKey:
    """One key for each process: making it takes longer than starting a sandbox."""
    parameters: KeyParameters = {"kid": uuid.uuid4().hex.upper(), "use": "sig", "alg": "RS256"}
    return RSAKey.generate_key(2048, parameters)


class Tokens:
    """All tokens of an instance. Only those issued here and not revoked are accepted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._access: dict[str, Token] = {}
        self._refresh: dict[str, _Refresh] = {}
        self.issued: Counter[str] = Counter()
        self._record: list[str] = []

    def lookup(self, text: str) -> Token | None:
        """The access or reference token behind `text` while it is valid."""
        token = self._access.get(text)
        return token if token is not None and token.deadline > self._clock.lifetime() else None

    def texts(self) -> list[str]:
        """Every token ever issued, those over and revoked, refresh tokens and id_tokens included."""
        return [*self._record]

    def _recorded(self, text: str) -> str:
        self._record.append(text)
        return text

    def revoke_all(self) -> None:
        """From now on no token issued so far is accepted."""
        self._access.clear()
        self._refresh.clear()

    def reference(self, application: Application, person: Person | None, days: float | None) -> str:
        """Mints a reference token for a person or the system user; it is good for ever unless `days` are given."""
        text = self._recorded(f"enrt_{secrets.token_hex(32).upper()}")
        deadline = float("inf") if days is None else self._clock.lifetime() + days * _DAY
        sign_in = None if person is None else SignIn(text[-8:], person, self._clock.wall())
        user = application.system_user if person is None else person.login
        scopes = frozenset(application.scopes)
        self._access[text] = Token(text[-8:], application.client_id, user, scopes, deadline, sign_in)
        return text

    def access(self, application: Application, grant: Grant, issuer: str, ttl: int) -> str:
        """Issues an `at+jwt`. One of a service has no subject and no session (access-tokens.md)."""
        now = int(self._clock.wall())
        claims: dict[str, Any] = {
            "nbf": now,
            "exp": now + ttl,
            "iss": issuer,
            "aud": [*_AUDIENCES, f"{issuer}/resources"],
            "client_id": application.client_id,
            "client_db": "SANDBOX",
            "jti": uuid.uuid4().hex.upper(),
            "iat": now,
            "scope": list(grant.scopes),
        }
        user, sign_in = application.system_user, grant.sign_in
        if sign_in is None:
            claims |= {"client_system_user": user, "client_system_user_type": "InternalUser"}
        else:
            user, person = sign_in.person.login, sign_in.person
            claims |= {"sub": user, "id": person.user_id, "db": "SANDBOX", "idp": "local"}
            claims |= {"sid": sign_in.sid, "auth_time": int(sign_in.at), **person.claims()}
        text, deadline = self._recorded(_signed("at+jwt", claims)), self._clock.lifetime() + ttl
        scopes = frozenset(grant.scopes)
        self._access[text] = Token(
            claims["jti"], application.client_id, user, scopes, deadline, sign_in, claims
        )
        self.issued[application.client_id] += 1
        return text

    def id_token(self, grant: Grant, sign_in: SignIn, issuer: str, access: str) -> str:
        """Says to the application who signed in (OpenID Connect Core section 2)."""
        now, half = int(self._clock.wall()), hashlib.sha256(access.encode()).digest()[:16]
        claims = {
            "iss": issuer,
            "sub": sign_in.person.login,
            "aud": grant.client_id,
            "exp": now + _ID_TOKEN_SECONDS,
            "iat": now,
            "auth_time": int(sign_in.at),
            "sid": sign_in.sid,
            "at_hash": urlsafe_b64encode(half).decode().rstrip("="),
            **({"nonce": grant.nonce} if grant.nonce is not None else {}),
            **(sign_in.person.claims() if "profile" in grant.scopes else {}),
        }
        return self._recorded(_signed("JWT", claims))

    def refresh(self, application: Application, family: Family, behaviour: Behaviour) -> str:
        """The next refresh token of a family. Those of public applications live a day (auth/faq)."""
        text = self._recorded(secrets.token_urlsafe(32))
        ttl = behaviour.refresh_ttl or (_DAY if application.is_public else 30 * _DAY)
        self._refresh[text] = _Refresh(family, self._clock.lifetime() + ttl)
        return text

    def redeem(self, text: str, application: Application, wanted: list[str], behaviour: Behaviour) -> Family:
        """Takes a refresh token, once; a second use ends its family unless it comes very soon. Raises OAuthError."""
        now, token = self._clock.lifetime(), self._refresh.get(text)
        refused = OAuthError("invalid_grant", "The refresh token is expired or invalid.")
        if token is None or token.family.grant.client_id != application.client_id:
            raise refused
        if token.used_at is not None and now - token.used_at >= behaviour.refresh_reuse_seconds:
            token.family.alive = False
        if not token.family.alive or now >= token.deadline:
            raise refused
        if not set(wanted) <= set(token.family.grant.scopes):
            raise OAuthError("invalid_scope", "More scopes than were granted.")
        if behaviour.rotate_refresh and token.used_at is None:
            token.used_at = now
        return token.family

    def end_families(self, ended: Callable[[SignIn], bool]) -> None:
        """What signing out or a new password does to refresh tokens; access tokens live on (session-revocation)."""
        for token in self._refresh.values():
            sign_in = token.family.grant.sign_in
            if sign_in is not None and ended(sign_in):
                token.family.alive = False

    def forget(self, text: str) -> None:
        """Revokes one access token; unknown ones are none of our business."""
        self._access.pop(text, None)

    def revoke(self, text: str, client_id: str) -> None:
        """What RFC 7009 asks for: the token, or all of its family. Raises OAuthError for another's token."""
        refresh, access = self._refresh.get(text), self._access.get(text)
        owner = refresh.family.grant.client_id if refresh else access.client_id if access else client_id
        if owner != client_id:
            raise OAuthError("invalid_grant", "The token was issued to another client.")
        if refresh is not None:
            refresh.family.alive = False
        self.forget(text)

    def introspect(self, text: str, client_id: str) -> dict[str, Any]:
        """What RFC 7662 tells an application about a token of its own."""
        refresh, access = self._refresh.get(text), self.lookup(text)
        if access is not None and access.client_id == client_id:
            told = {"token_type": "Bearer", "username": access.user, "client_id": client_id}
            told["scope"] = " ".join(sorted(access.scopes))
            return {"active": True, **(access.claims or {}), **told}
        if refresh is not None and refresh.family.grant.client_id == client_id:
            fresh = refresh.used_at is None and refresh.deadline > self._clock.lifetime()
            if fresh and refresh.family.alive:
                scope = " ".join(refresh.family.grant.scopes)
                return {"active": True, "client_id": client_id, "scope": scope}
        return {"active": False}


def _signed(kind: str, claims: dict[str, Any]) -> str:
    key = signing_key()
    return jwt.encode({"alg": "RS256", "kid": key.kid, "typ": kind}, claims, key)


def own_claims(text: str) -> Mapping[str, Any]:
    """What one of our signed tokens says, whether it is over or not; nothing when it is not ours."""
    try:
        return jwt.decode(text, signing_key(), ["RS256"]).claims
    except (JoseError, ValueError):
        return {}
