"""Judging the answer of a token endpoint (RFC 6749 section 5): a grant, or an error that says if waiting helps."""

import base64
import json
import math
from collections.abc import Callable
from dataclasses import dataclass

from erpsync.core.address import host_of
from erpsync.core.errors import TokenEndpointError
from erpsync.core.instance import Identity
from erpsync.identity.exchange import Answer
from erpsync.identity.source import Grant

DEFAULT_LIFETIME = 300.0
LONGEST_LIFETIME = 86400.0
_LARGEST_KEPT = 16 * 1024  # of what goes into no header
# no scope of the access token at some servers
ABOUT_PEOPLE = frozenset({"openid", "profile", "offline_access"})
_TRANSIENT = frozenset({408, 425, 429, *range(500, 600)})


@dataclass(frozen=True, slots=True)
class _Meaning:
    """An error code of RFC 6749 section 5.2 in plain words, with what a person can do (ERP.net's own field names)."""

    says: str
    hint: str = ""
    credentials: bool = False
    retryable: bool = False


_MEANINGS = {
    "invalid_client": _Meaning(
        "refuses the credentials of",
        "check client_id and client_secret; on ERP.net the Trusted Application needs IsEnabled, ClientType = "
        "Confidential and an ApplicationSecretHash that fits the secret",
        credentials=True,
    ),
    "unauthorized_client": _Meaning(
        "does not allow the grant to",
        "on ERP.net set SystemUserAllowed and SystemUser of the Trusted Application",
    ),
    "invalid_scope": _Meaning(
        "does not give the scope asked for to",
        "on ERP.net add it to the field Scope of the Trusted Application, or ask for less in `scope`",
    ),
    "invalid_grant": _Meaning(
        "calls the grant invalid for", "check client_id, client_secret and auth_method"
    ),
    "invalid_target": _Meaning("does not know the audience asked for by", "check `audience` and `resource`"),
    "unsupported_grant_type": _Meaning(
        "does not offer Client Credentials to", "the server must allow the grant client_credentials"
    ),
    "invalid_request": _Meaning(
        "cannot read the request of",
        "check client_id, client_secret, auth_method and basic_encoding",
    ),
    "server_error": _Meaning("failed for", retryable=True),
    "temporarily_unavailable": _Meaning("is not available for", retryable=True),
    "slow_down": _Meaning("asks for patience from", retryable=True),
}
_STATUS_MEANINGS = {
    401: _Meaning("refuses (401)", _MEANINGS["invalid_client"].hint, credentials=True),
    403: _Meaning(
        "refuses without a reason (403)", _MEANINGS["invalid_client"].hint + "; check `scope` too", True
    ),
    404: _Meaning("has no token endpoint there (404) for", "check the issuer of the instance"),
    405: _Meaning("has no token endpoint there (405) for", "check the issuer of the instance"),
    407: _Meaning("is behind a proxy that refuses (407)", "check `proxy` of the instance"),
}


def read_grant(answer: Answer, identity: Identity, redact: Callable[[str], str]) -> Grant:
    """The token in `answer`, strictly checked.

    Raises:
        TokenEndpointError: with the server's own words, redacted and shortened; an answer of 2xx without a
            usable token is retryable, it says nothing about our request.
    """
    if 300 <= answer.status < 400:
        raise _redirected(answer)
    fields = _fields(answer)
    if answer.status in _TRANSIENT or "error" in fields or not 200 <= answer.status < 300:
        raise _refusal(answer, fields, identity, redact)
    doubts: list[str] = []
    token = _token(answer, fields, identity)
    _check_type(answer, fields, doubts)
    lifetime = _lifetime(fields, token, doubts)
    scope = _scope(fields, identity, doubts)
    persons = (_kept(fields.get(name)) for name in ("refresh_token", "id_token"))
    return Grant(token, lifetime, scope, tuple(doubts), *persons)


def _fields(answer: Answer) -> dict[str, object]:
    """The JSON object of the body; an empty one where a refusal has none."""
    try:
        fields = json.loads(answer.body.decode("utf-8-sig"), object_pairs_hook=_one_token)
    except (ValueError, RecursionError) as error:
        if 200 <= answer.status < 300:
            raise _malformed(answer, "is not JSON that can be trusted") from error
        return {}
    return fields if isinstance(fields, dict) else {}


def _one_token(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if sum(name == "access_token" for name, _ in pairs) > 1:
        raise ValueError("two access tokens")
    return dict(pairs)


def _token(answer: Answer, fields: dict[str, object], identity: Identity) -> str:
    token = fields.get("access_token")
    if not isinstance(token, str) or not token:
        raise _malformed(answer, "holds no access token")
    if wrong := token_fault(token, identity.largest_token):
        raise _malformed(answer, f"holds an access token of {len(token)} characters{wrong}")
    return token


def _kept(value: object) -> str | None:
    """What is kept of a person's sign-in, where it is what RFC 6749 lets it be (appendix A.17: printable ASCII)."""
    if not isinstance(value, str) or not 0 < len(value) <= _LARGEST_KEPT:
        return None
    return value if value.isascii() and value.isprintable() else None


def token_fault(token: str, largest: int) -> str:
    """Why a token cannot be sent, as it goes into a header (RFC 6750 section 2.1); empty where it can."""
    if len(token) > largest:
        return f"; {largest} is the limit (`largest_token`)"
    return "" if all("!" <= char <= "~" for char in token) else " with forbidden ones"


def _check_type(answer: Answer, fields: dict[str, object], doubts: list[str]) -> None:
    kind = fields.get("token_type")
    if kind is None:
        doubts.append("the answer has no token_type; taken for Bearer")
    elif not isinstance(kind, str) or kind.strip().lower() != "bearer":
        raise TokenEndpointError(
            "the identity server gives tokens of another type than Bearer",
            status=answer.status,
            hint="set the client to plain Bearer tokens at the server",
        )


def _lifetime(fields: dict[str, object], token: str, doubts: list[str]) -> float:
    told, within = _seconds(fields.get("expires_in")), _jwt_seconds(token)
    known = [seconds for seconds in (told, within) if seconds is not None]
    if told is None:
        doubts.append("the answer does not say how long the token lives (expires_in)")
    lifetime = min(known, default=DEFAULT_LIFETIME)
    if lifetime < 60:
        doubts.append(f"tokens live only {lifetime:.0f} s")
    return min(lifetime, LONGEST_LIFETIME)


def _seconds(value: object) -> float | None:
    """Whole seconds from a number or its text; None for what cannot be a lifetime."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None if isinstance(value, str) else LONGEST_LIFETIME
    if math.isnan(seconds) or seconds < 1:
        return None
    return float(math.floor(min(seconds, 1e12)))


def _jwt_seconds(token: str) -> float | None:
    """exp - iat of a JWT (RFC 9068), a second witness of the lifetime; the signature is the API's business."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return _seconds(claims["exp"] - claims["iat"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _scope(fields: dict[str, object], identity: Identity, doubts: list[str]) -> tuple[str, ...]:
    told = fields.get("scope")
    if isinstance(told, list):
        told = " ".join(str(part) for part in told)
    if not isinstance(told, str):
        return identity.scope
    granted = tuple(told.split())
    if missing := sorted(set(identity.scope) - set(granted) - ABOUT_PEOPLE):
        doubts.append(f"the server did not grant the scope {' '.join(missing)}")
    return granted


def _refusal(
    answer: Answer, fields: dict[str, object], identity: Identity, redact: Callable[[str], str]
) -> TokenEndpointError:
    error, description = (_words(fields.get(name), redact) for name in ("error", "error_description"))
    wait = answer.retry_after
    meaning = _meaning(answer.status, error, waits=wait is not None)
    words = ": ".join(part for part in (error, description) if part)
    asked = f" (asked: {' '.join(identity.scope)})" if error == "invalid_scope" else ""
    return TokenEndpointError(
        f'the identity server {meaning.says} the client "{identity.client_id}"'
        + (f" ({words})" if words else "")
        + asked,
        error=error,
        description=description,
        status=answer.status,
        retryable=meaning.retryable,
        credentials=meaning.credentials,
        retry_after=wait,
        hint=meaning.hint,
    )


def _meaning(status: int, error: str, *, waits: bool) -> _Meaning:
    if status == 429:
        return _Meaning("has had too many requests (429) from", retryable=True)
    if status in _TRANSIENT:
        return _Meaning(f"fails ({status}) for", "the server is in trouble; we keep trying", retryable=True)
    if error in _MEANINGS:
        return _MEANINGS[error]
    if waits:
        return _Meaning(f"asks to wait ({status}) before it serves", retryable=True)
    unknown = _Meaning(f"refuses ({status})", "look into the log of the identity server")
    return unknown if error else _STATUS_MEANINGS.get(status, unknown)


def _redirected(answer: Answer) -> TokenEndpointError:
    target = host_of(answer.headers.get("location", "")) or "another page"
    return TokenEndpointError(
        f"the token endpoint redirects ({answer.status}) to {target}",
        status=answer.status,
        hint="a token endpoint never redirects: check the issuer, and proxies that ask people to sign in",
    )


def _malformed(answer: Answer, what: str) -> TokenEndpointError:
    html = answer.body.lstrip()[:1] == b"<"
    return TokenEndpointError(
        f"the answer of the token endpoint ({answer.status}) {what}"
        + (": it is an HTML page" if html else ""),
        status=answer.status,
        retryable=True,
        retry_after=answer.retry_after,
        hint="something else than the identity server answers there: check the issuer and proxies"
        if html
        else "",
    )


def _words(value: object, redact: Callable[[str], str]) -> str:
    """A foreign string as one short line."""
    return redact(" ".join(value.split()))[:300] if isinstance(value, str) else ""
