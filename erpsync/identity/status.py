"""How an identity stands, for people."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from erpsync.core.run import RunFailure, utc_text


class TokenState(StrEnum):
    """Where an identity's token is."""

    ABSENT = "absent"
    FETCHING = "fetching"
    FRESH = "fresh"
    AGING = "aging"
    EXPIRING = "expiring"
    EXPIRED = "expired"
    BACKOFF = "backoff"
    """No token; the server is asked again soon."""
    REJECTED = "rejected"
    """No token; a person must act. Asked again every 15 minutes, and at once when the secret changes."""


@dataclass(frozen=True, slots=True)
class IdentityStatus:
    """One identity. `secret_in_use` is the index of the secret that the server took last; requests count since start.

    `clock_skew_seconds` is the server's clock minus ours; instants are aware UTC.
    """

    identity: str
    state: TokenState
    fingerprint: str | None = None
    scope: tuple[str, ...] = ()
    expires_at: datetime | None = None
    next_renewal_at: datetime | None = None
    last_error: RunFailure | None = None
    requests: int = 0
    clock_skew_seconds: float | None = None
    secret_in_use: int | None = None
    token_endpoint: str | None = None

    def document(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "identity": self.identity,
            "state": self.state.value,
            "fingerprint": self.fingerprint,
            "scope": list(self.scope),
            "expires_at": utc_text(self.expires_at),
            "next_renewal_at": utc_text(self.next_renewal_at),
            "last_error": self.last_error.document() if self.last_error else None,
            "requests": self.requests,
            "clock_skew_seconds": self.clock_skew_seconds,
            "secret_in_use": self.secret_in_use,
            "token_endpoint": self.token_endpoint,
        }
