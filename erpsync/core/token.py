"""Access tokens and the small interface through which rooms get them."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

NEVER = datetime(9999, 12, 31, tzinfo=UTC)
"""The end of a token whose end nobody knows."""


def fingerprint(token: str) -> str:
    """Eight hexadecimal digits that tell tokens apart and give nothing away."""
    return "tok_" + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A valid access token.

    `version` grows with each token of an identity in this process; `obtained_at` is when the request for it was
    sent and `expires_at` when it is over, counted from there, or NEVER; both are aware UTC. `obtained_boot` is the
    former on the boot-time clock (seconds), which nobody sets; None where it is not known. `scheme` says how it is
    sent. `session` is the fingerprint of the session that the token itself names, as a person's does; empty where it
    names none.
    The value appears in no repr; show `fingerprint` instead.
    """

    value: str = field(repr=False)
    version: int
    obtained_at: datetime
    expires_at: datetime
    scope: tuple[str, ...] = ()
    scheme: Literal["bearer", "x-api-key"] = "bearer"
    session: str = ""
    obtained_boot: float | None = None

    @property
    def header(self) -> tuple[str, str]:
        """Name and value of the one header that carries it (RFC 6750 section 2.1; ERP.net: reference tokens)."""
        if self.scheme == "x-api-key":
            return "X-Api-Key", self.value
        return "Authorization", f"Bearer {self.value}"

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that tell tokens apart and give nothing away."""
        return fingerprint(self.value)


class Auth(Protocol):
    """Gives a valid token of one identity or an error; shared by all jobs of the identity."""

    async def token(
        self, *, min_valid: timedelta = timedelta(0), max_age: timedelta | None = None
    ) -> AccessToken:
        """A token that lives at least `min_valid` longer where the server's lifetimes allow.

        With `max_age` it was obtained no longer ago than that, unless the grant knows no other (a reference token).

        Raises:
            IdentityError: retryable where waiting can help; never after a cancelled caller's fault.
        """
        ...

    def invalidate(self, version: int, reason: str) -> None:
        """The API refused the token of this version: the next `token` gets another. Older versions change nothing."""
        ...
