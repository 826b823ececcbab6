"""Access tokens and the small interface through which rooms get them."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A valid access token: sent as `Authorization: Bearer <value>`.

    `version` grows with each token of an identity in this process; `expires_at` is an aware UTC instant counted
    from the moment the request was sent. The value appears in no repr; show `fingerprint` instead.
    """

    value: str = field(repr=False)
    version: int
    expires_at: datetime
    scope: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that tell tokens apart and give nothing away."""
        return "tok_" + hashlib.sha256(self.value.encode()).hexdigest()[:8]


class Auth(Protocol):
    """Gives a valid token of one identity or an error; shared by all jobs of the identity."""

    async def token(self, *, min_valid: timedelta = timedelta(0)) -> AccessToken:
        """A token that lives at least `min_valid` longer where the server's lifetimes allow.

        Raises:
            IdentityError: retryable where waiting can help; never after a cancelled caller's fault.
        """
        ...

    def invalidate(self, version: int, reason: str) -> None:
        """The API refused the token of this version: the next `token` gets another. Older versions change nothing."""
        ...
