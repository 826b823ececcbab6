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
    basic_auth: bool = True
    """The token endpoint accepts client credentials by HTTP Basic too."""
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
