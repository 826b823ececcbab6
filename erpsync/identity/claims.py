"""What a token says of itself (RFC 7519, RFC 9068; ERP.net: auth/tokens/access-tokens.md), without its signature."""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

_SHOWN = (
    *("iss", "aud", "client_id", "sub", "name", "scope", "iat", "exp"),
    *("client_system_user", "client_system_user_type", "client_db", "db", "user_type"),
)


def claims_of(token: str) -> Mapping[str, Any]:
    """The claims of a JWT, unverified: the API is its judge; empty for an opaque token."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def session_of(token: str) -> str:
    """The fingerprint of the session that a person's token belongs to (claim `sid`); empty where it names none."""
    sid = claims_of(token).get("sid")
    return "ses_" + hashlib.sha256(sid.encode()).hexdigest()[:8] if isinstance(sid, str) and sid else ""


def shown_claims(token: str) -> dict[str, object]:
    """The claims that help people: for whom, by whom, as whom, where, how long; none that lets anybody in."""
    claims = claims_of(token)
    return {name: claims[name] for name in _SHOWN if name in claims}
