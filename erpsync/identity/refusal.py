"""What a refusal of a token endpoint means, in plain words, and what a person can do about it.

The same word (RFC 6749 section 5.2) means other fields of ERP.net's Trusted Application for services than for people,
and other keys of the identity for each way of client authentication.
"""

from dataclasses import dataclass

from erpsync.core.instance import AuthMethod, Identity

TRANSIENT = frozenset({408, 425, 429, *range(500, 600)})

_SHOWN_BY: dict[AuthMethod, str] = {
    "client_secret_post": "client_id and client_secret",
    "client_secret_basic": "client_id, client_secret and basic_encoding",
    "private_key_jwt": "client_id, private_key and key_id",
    "none": "client_id",
}
_CONFIDENTIAL = (
    "on ERP.net the Trusted Application needs IsEnabled, ClientType = Confidential and an ApplicationSecretHash that "
    "fits the secret"
)
_CREDENTIALS: dict[AuthMethod, str] = {
    "client_secret_post": _CONFIDENTIAL,
    "client_secret_basic": _CONFIDENTIAL,
    "private_key_jwt": "the server must have the public key of this client",
    "none": "on ERP.net the Trusted Application needs IsEnabled and ClientType = Public; a confidential one needs "
    "client_secret",
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the server does, with what a person can do; `credentials`: it refuses who we are."""

    says: str
    hint: str = ""
    credentials: bool = False
    retryable: bool = False


def meaning(status: int, error: str, identity: Identity, grant: str, *, waits: bool) -> Meaning:
    """Of an answer of this status with the error code `error`, empty for none, to a request by `grant`; `waits`: it
    says for how long to wait."""
    if status == 429:
        return Meaning("has had too many requests (429) from", retryable=True)
    if status in TRANSIENT:
        return Meaning(f"fails ({status}) for", "the server is in trouble; we keep trying", retryable=True)
    if (known := _of_code(error, identity, grant)) is not None:
        return known
    if waits:
        return Meaning(f"asks to wait ({status}) before it serves", retryable=True)
    bare = None if error else _of_status(status, identity)
    return bare or Meaning(f"refuses ({status})", "look into the log of the identity server")


def _of_code(error: str, identity: Identity, grant: str) -> Meaning | None:
    shown = f"check {_SHOWN_BY[identity.auth_method]}"
    match error:
        case "invalid_client":
            return Meaning("refuses the credentials of", _credentials(identity), credentials=True)
        case "unauthorized_client":
            return Meaning(f"does not allow the grant {grant} to", _allowing(grant))
        case "invalid_scope":
            return Meaning(
                "does not give the scope asked for to",
                "on ERP.net add it to the field Scope of the Trusted Application, or ask for less in `scope`",
            )
        case "invalid_grant" if grant == "authorization_code":
            return Meaning("does not take the code of this sign-in from", f"begin anew: {_login(identity)}")
        case "invalid_grant" if grant == "refresh_token":
            return Meaning("does not take the refresh token from", _login(identity))
        case "invalid_grant":
            return Meaning("calls the grant invalid for", f"{shown}, and auth_method")
        case "invalid_target":
            return Meaning("does not know the audience asked for by", "check `audience` and `resource`")
        case "unsupported_grant_type":
            return Meaning(f"does not offer the grant {grant} to", f"the server must allow the grant {grant}")
        case "invalid_request" if grant == "authorization_code":
            return Meaning("cannot read the request of", f"{shown}, redirect_uri and auth_method")
        case "invalid_request":
            return Meaning("cannot read the request of", f"{shown}, and auth_method")
        case "server_error":
            return Meaning("failed for", retryable=True)
        case "temporarily_unavailable":
            return Meaning("is not available for", retryable=True)
        case "slow_down":
            return Meaning("asks for patience from", retryable=True)
    return None


def _of_status(status: int, identity: Identity) -> Meaning | None:
    match status:
        case 401:
            return Meaning("refuses (401)", _credentials(identity), credentials=True)
        case 403:
            hint = _credentials(identity) + "; check `scope` too"
            return Meaning("refuses without a reason (403)", hint, credentials=True)
        case 404 | 405:
            return Meaning(f"has no token endpoint there ({status}) for", "check the issuer of the instance")
        case 407:
            return Meaning("is behind a proxy that refuses (407)", "check `proxy` of the instance")
    return None


def _credentials(identity: Identity) -> str:
    return f"check {_SHOWN_BY[identity.auth_method]}; {_CREDENTIALS[identity.auth_method]}"


def _allowing(grant: str) -> str:
    if grant == "client_credentials":
        return "on ERP.net set SystemUserAllowed and SystemUser of the Trusted Application"
    return (
        f"on ERP.net check IsEnabled, ImpersonateAsInternalUserAllowed and ImpersonateLoginUrl of the Trusted "
        f"Application; elsewhere allow the grant {grant} to the client"
    )


def _login(identity: Identity) -> str:
    return f"erpsync login {identity.name}"
