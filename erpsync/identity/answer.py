"""Judging the answer of a token endpoint (RFC 6749 section 5): a grant, or an error that says if waiting helps."""

import json
import math

from erpsync.core.address import host_of
from erpsync.core.errors import TokenEndpointError
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.core.token import fingerprint
from erpsync.identity.claims import claims_of
from erpsync.identity.exchange import Answer
from erpsync.identity.refusal import TRANSIENT, meaning
from erpsync.identity.source import Grant

DEFAULT_LIFETIME = 300.0
LONGEST_LIFETIME = 86400.0
_LONG_BEFORE = 60.0  # seconds that answer and clocks may take
_LARGEST_KEPT = 16 * 1024  # of what goes into no header
# no scope of the access token at some servers
ABOUT_PEOPLE = frozenset({"openid", "profile", "offline_access"})


def read_grant(answer: Answer, identity: Identity, redactor: Redactor, *, grant: str, sent: float) -> Grant:
    """The token in the `answer` to a request by `grant`, strictly checked.

    `sent` is when that was, in seconds of the server's clock since 1970 as far as it is known.

    Raises:
        TokenEndpointError: with the server's own words, redacted and shortened; an answer of 2xx without a
            usable token is retryable, it says nothing about our request.
    """
    if 300 <= answer.status < 400:
        raise _redirected(answer)
    fields = _fields(answer)
    if answer.status in TRANSIENT or "error" in fields or not 200 <= answer.status < 300:
        raise _refusal(answer, fields, identity, redactor, grant)
    doubts: list[str] = []
    token = _token(answer, fields, identity)
    _check_type(answer, fields, doubts)
    lifetime = _lifetime(fields, token, sent, doubts)
    scope = _scope(fields, identity, doubts, redactor)
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
        raise _malformed(
            answer, f"holds an access token of {len(token)} characters{wrong} ({fingerprint(token)})"
        )
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


def _lifetime(fields: dict[str, object], token: str, sent: float, doubts: list[str]) -> float:
    told = _seconds(fields.get("expires_in"))
    within = _jwt_seconds(token, sent if told is None else None)
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


def _jwt_seconds(token: str, sent: float | None) -> float | None:
    """exp - iat of a JWT (RFC 9068), a second witness of the lifetime; the signature is the API's business.

    As the only witness, with `sent`, a token that the server had made long before has what is left of its life.
    """
    claims = claims_of(token)
    try:
        whole = _seconds(claims["exp"] - claims["iat"])
        if sent is None or sent - claims["iat"] < _LONG_BEFORE:
            return whole
        return _seconds(claims["exp"] - sent) or whole
    except (TypeError, KeyError, OverflowError):
        return None


def _scope(
    fields: dict[str, object], identity: Identity, doubts: list[str], redactor: Redactor
) -> tuple[str, ...]:
    """What was granted; cleaned as a whole, for a secret with blanks in it is in none of the words."""
    told = fields.get("scope")
    if isinstance(told, list):
        told = " ".join(str(part) for part in told)
    if not isinstance(told, str):
        return identity.scope
    granted = tuple(redactor(told).split())
    if missing := sorted(set(identity.scope) - set(granted) - ABOUT_PEOPLE):
        doubts.append(f"the server did not grant the scope {' '.join(missing)}")
    return granted


def _refusal(
    answer: Answer,
    fields: dict[str, object],
    identity: Identity,
    redactor: Redactor,
    grant: str,
) -> TokenEndpointError:
    error, description = (_words(fields.get(name), redactor) for name in ("error", "error_description"))
    wait = answer.retry_after
    means = meaning(answer.status, error, identity, grant, waits=wait is not None)
    words = ": ".join(part for part in (error, description) if part)
    asked = f" (asked: {' '.join(identity.scope)})" if error == "invalid_scope" else ""
    return TokenEndpointError(
        f'the identity server {means.says} the client "{identity.client_id}"'
        + (f" ({words})" if words else "")
        + asked,
        error=error,
        description=description,
        status=answer.status,
        retryable=means.retryable,
        credentials=means.credentials,
        retry_after=wait,
        hint=means.hint,
    )


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


def _words(value: object, redactor: Redactor) -> str:
    """A foreign string as one short line."""
    return redactor.shortened(" ".join(value.split()), 300) if isinstance(value, str) else ""
