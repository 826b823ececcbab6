"""The switches of the sandbox: what the documentation leaves open, and what a test may want otherwise."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import msgspec


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the instance behaves just now; replaced as a whole by `Sandbox.behave` or `POST /_sandbox/behaviour`."""

    license_slots: int = 5
    token_ttl: int = 3600
    """Seconds, both as `expires_in` and as `exp - iat`."""
    granted_scope: str | None = None
    """When set, tokens get no scope outside this list: a grant narrower than the request."""
    strict_401: bool = False
    """`invalid_client` answers 401 (RFC 6749 section 5.2) in place of 400."""
    basic_auth: Literal["either", "rfc6749", "raw", "off"] = "either"
    """How client credentials by HTTP Basic are read: form-decoded (RFC 6749 section 2.3.1), as sent, or not."""
    code_ttl: float = 60
    """Seconds that an authorization code is good for."""
    refresh_ttl: float | None = None
    """Seconds that a refresh token is good for; a day for public applications and 30 for others unless given."""
    rotate_refresh: bool = True
    """Each use gives the next refresh token; otherwise one serves till its end, and answers to it bring none."""
    refresh_reuse_seconds: float = 0
    """For how long a refresh token may be used again, as after a lost answer, without ending its family."""
    api_status: Literal["Working", "NotWorking", "Unknown", "absent"] = "Working"
    """What auto-discovery says about the Domain API site."""
    login_redirect: bool = False
    """Requests without credentials are redirected to a login page, as for a browser."""
    session_key: Literal["token", "client"] = "token"
    """Whether a new token opens a new session, or the application has one session for all its tokens."""
    license_status: int = 500
    parallel_token_grace: float = 1.0
    """Seconds for which requests under an older token may still follow those under the newest one."""
    error_wrapper: bool = True
    """`{"error": {…}}`, or the bare object."""
    date_time_filter: Literal["exact", "truncate"] = "exact"
    """Whether date-time literals of `$filter` are cut to their date (filter.md) or taken as they are."""
    next_links: Literal["absolute", "relative"] = "absolute"
    next_link_origin: str | None = None
    """Another origin to put into next links; a client must not follow it."""
    version_conflict_status: int = 500
    renamed_status: int = 404
    latency_ms: int = 0

    def changed(self, changes: dict[str, Any]) -> "Behaviour":
        """A copy with `changes`. Raises ValueError for an unknown key or a value of the wrong type."""
        unknown = set(changes) - {field.name for field in fields(self)}
        if unknown:
            raise ValueError(f"unknown behaviour: {', '.join(sorted(unknown))}")
        try:
            return msgspec.convert(msgspec.to_builtins(replace(self, **changes)), Behaviour)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error
