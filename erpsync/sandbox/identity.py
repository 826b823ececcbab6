"""The identity server of an instance: what it knows at first, and its parts in one place.

`CLIENT_ID`, `SIGNED`, `WEB` and `NATIVE` name the trusted applications of every new sandbox.
"""

from collections import Counter
from functools import cache
from typing import Any, Final

from joserfc.jwk import ECKey

from erpsync.sandbox.applications import ASSERTION_ALGORITHMS, Applications
from erpsync.sandbox.data import Database
from erpsync.sandbox.grants import GRANT_TYPES, Grants
from erpsync.sandbox.people import PASSWORD, PEOPLE, People
from erpsync.sandbox.sessions import Clock, Sessions
from erpsync.sandbox.sign_in import SignIns
from erpsync.sandbox.tokens import Tokens, signing_key

CLIENT_ID: Final = "erpsync.sandbox/service"
CLIENT_SECRET: Final = "sandbox-secret"  # noqa: S105 - published, opens nothing but a sandbox
SIGNED: Final = "erpsync.sandbox/signed"
WEB: Final = "erpsync.sandbox/web"
NATIVE: Final = "erpsync.sandbox/native"
_LOOPBACK_URIS: Final = ("http://127.0.0.1/callback", "http://127.0.0.1/", "http://localhost/callback")


@cache
def private_key() -> str:
    """PEM of the key with which `SIGNED` authenticates; another one in each process, so that none is published."""
    return ECKey.generate_key("P-256").as_pem(private=True).decode()


def _seeds() -> dict[str, dict[str, Any]]:
    people = {
        "scope": "read update offline_access",
        "redirect_uris": _LOOPBACK_URIS,
        "any_loopback_port": True,
    }
    people |= {"logout_uris": _LOOPBACK_URIS}
    public_key = ECKey.import_key(private_key()).as_pem(private=False).decode()
    return {
        CLIENT_ID: {"secret": CLIENT_SECRET, "name": "Service"},
        SIGNED: {"public_key": public_key, "name": "Service with a key"},
        WEB: {"secret": CLIENT_SECRET, "name": "Web application", **people},
        NATIVE: {
            "client_type": "Public",
            "system_user_allowed": False,
            "name": "Native application",
            **people,
        },
    }


def guide(url: str) -> list[str]:
    """What somebody needs to sign in, a line each."""
    return [
        f"{CLIENT_ID}  a service: secret {CLIENT_SECRET}",
        f"{SIGNED}   a service: private_key_jwt, key at {url}/_sandbox/private-key",
        f"{WEB}      for people: secret {CLIENT_SECRET}, back to http://127.0.0.1:<any port>/callback",
        f"{NATIVE}   for people: no secret but PKCE, back to the same place",
        f"people: {', '.join(PEOPLE)}; password {PASSWORD}",
    ]


class Identity:
    """Trusted applications, people, and what was issued to them."""

    def __init__(self, clock: Clock, database: Database, sessions: Sessions) -> None:
        self._sessions = sessions
        self.requests: Counter[str] = Counter()
        self.applications = Applications(clock.wall)
        self.people = People(database)
        self.sign_ins = SignIns(clock)
        self.tokens = Tokens(clock)
        self.grants = Grants(self.applications, self.tokens, self.sign_ins)
        for client_id, fields in _seeds().items():
            self.applications.register(client_id, **fields)

    def reference_token(self, client_id: str, login: str | None = None, days: float | None = None) -> str:
        """Mints a reference token (auth/tokens/reference-access-tokens). Raises KeyError for unknown ones."""
        person = None if login is None else self.people.person(login)
        if login is not None and person is None:
            raise KeyError(login)
        return self.tokens.reference(self.applications[client_id], person, days)

    def set_password(self, login: str, password: str) -> None:
        """Changes a password, which ends the person's refresh tokens. Raises KeyError."""
        self.people.set_password(login, password)
        self.tokens.end_families(lambda sign_in: sign_in.person.login == login)

    def sign_out(self, sid: str) -> None:
        """Ends the session of a person: cookie, licence slot, refresh tokens (auth/sessions/session-revocation)."""
        self.sign_ins.leave(sid)
        self._sessions.sign_out(sid)
        self.tokens.end_families(lambda sign_in: sign_in.sid == sid)


def openid_configuration(issuer: str) -> dict[str, object]:
    """What there is. `scopes_supported` lacks `read`, as the published sample does."""
    methods = ["client_secret_post", "client_secret_basic", "private_key_jwt"]
    return {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/.well-known/openid-configuration/jwks",
        "authorization_endpoint": f"{issuer}/connect/authorize",
        "token_endpoint": f"{issuer}/connect/token",
        "userinfo_endpoint": f"{issuer}/connect/userinfo",
        "end_session_endpoint": f"{issuer}/connect/endsession",
        "revocation_endpoint": f"{issuer}/connect/revocation",
        "introspection_endpoint": f"{issuer}/connect/introspect",
        "scopes_supported": ["openid", "profile", "offline_access", "update"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": GRANT_TYPES,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": [*methods, "none"],
        "token_endpoint_auth_signing_alg_values_supported": ASSERTION_ALGORITHMS,
        "revocation_endpoint_auth_methods_supported": [*methods, "none"],
        "introspection_endpoint_auth_methods_supported": methods,
        "code_challenge_methods_supported": ["S256"],
        "prompt_values_supported": ["none", "login"],
        "authorization_response_iss_parameter_supported": True,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }


def jwks() -> dict[str, object]:
    """The public half of the signing key."""
    return {"keys": [signing_key().as_dict(private=False)]}
