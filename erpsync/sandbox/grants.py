"""The token endpoint's decisions: who may have which tokens for what.

Source: auth/flows (client-credentials, auth-code); RFC 6749 sections 4.1.3, 4.4 and 6.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from erpsync.sandbox.applications import Application, Applications, OAuthError
from erpsync.sandbox.behaviour import Behaviour
from erpsync.sandbox.sign_in import LEGACY_SCOPE, PROTOCOL_SCOPES, SignIns
from erpsync.sandbox.tokens import Family, Grant, Tokens

_FOR_PEOPLE: Final = frozenset({*PROTOCOL_SCOPES, "offline_access"})
GRANT_TYPES: Final = ("authorization_code", "client_credentials", "refresh_token")


class Grants:
    """Turns what a client shows into tokens."""

    def __init__(self, applications: Applications, tokens: Tokens, sign_ins: SignIns) -> None:
        self._applications = applications
        self._tokens = tokens
        self._sign_ins = sign_ins
        self.proofs: list[str] = []
        """The verifiers and assertions that clients have shown."""

    def token(
        self, form: Mapping[str, str], authorization: str, issuer: str, behaviour: Behaviour
    ) -> dict[str, Any]:
        """The answer to a token request. Raises OAuthError in the order in which the checks are made."""
        if not form.get("grant_type"):
            raise OAuthError("invalid_request", "The grant_type is missing.")
        self.proofs += [form[name] for name in ("code_verifier", "client_assertion") if name in form]
        application = self._applications.authenticate(
            form, authorization, behaviour, (f"{issuer}/connect/token", issuer)
        )
        match form["grant_type"]:
            case "client_credentials":
                grant = _service(application, form.get("scope", ""))
                return self._answer(application, grant, issuer, behaviour)
            case "authorization_code":
                return self._by_code(application, form, issuer, behaviour)
            case "refresh_token":
                return self._by_refresh(application, form, issuer, behaviour)
            case other:
                raise OAuthError("unsupported_grant_type", f"The grant type '{other}' is not supported.")

    def _by_code(
        self, application: Application, form: Mapping[str, str], issuer: str, behaviour: Behaviour
    ) -> dict[str, Any]:
        """A code is good once; when it comes again, all that came of it ends (RFC 6749 section 4.1.2)."""
        code = self._sign_ins.code(form.get("code", ""), application.client_id)
        if code.tokens is not None:
            access, family = code.tokens
            self._tokens.forget(access)
            family.alive = False
            raise OAuthError("invalid_grant", "The authorization code was used before.")
        code.check(form.get("redirect_uri"), form.get("code_verifier"))
        family = Family(code.grant)
        answer = self._answer(application, code.grant, issuer, behaviour)
        code.tokens = answer["access_token"], family
        if "offline_access" in code.grant.scopes:
            answer["refresh_token"] = self._tokens.refresh(application, family, behaviour)
        return answer

    def _by_refresh(
        self, application: Application, form: Mapping[str, str], issuer: str, behaviour: Behaviour
    ) -> dict[str, Any]:
        """The session stays the same. Scopes may be fewer this time, never more (RFC 6749 section 6)."""
        wanted = form.get("scope", "").split()
        family = self._tokens.redeem(form.get("refresh_token", ""), application, wanted, behaviour)
        grant = replace(family.grant, scopes=tuple(wanted) or family.grant.scopes, nonce=None)
        answer = self._answer(application, grant, issuer, behaviour)
        if behaviour.rotate_refresh:
            answer["refresh_token"] = self._tokens.refresh(application, family, behaviour)
        return answer

    def _answer(
        self, application: Application, grant: Grant, issuer: str, behaviour: Behaviour
    ) -> dict[str, Any]:
        if behaviour.granted_scope is not None:
            ceiling = {*behaviour.granted_scope.split(), *_FOR_PEOPLE}
            grant = replace(grant, scopes=tuple(scope for scope in grant.scopes if scope in ceiling))
        access = self._tokens.access(application, grant, issuer, behaviour.token_ttl)
        answer: dict[str, Any] = {
            "access_token": access,
            "expires_in": behaviour.token_ttl,
            "token_type": "Bearer",
            "scope": " ".join(grant.scopes),
        }
        if grant.sign_in is not None and "openid" in grant.scopes:
            answer["id_token"] = self._tokens.id_token(grant, grant.sign_in, issuer, access)
        return answer


def _service(application: Application, requested: str) -> Grant:
    """Everything the application has when nothing is asked for."""
    if application.is_public or not (application.system_user_allowed and application.system_user):
        raise OAuthError("unauthorized_client", "The application has no system user.")
    allowed = [scope for scope in application.scopes if scope not in _FOR_PEOPLE]
    for scope in requested.split():
        if scope != LEGACY_SCOPE and scope not in allowed:
            raise OAuthError("invalid_scope", f"Invalid scope: {scope}")
    wanted = [scope for scope in requested.split() if scope in allowed]
    return Grant(application.client_id, tuple(wanted or allowed))
