"""How an identity stands, for people."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from erpsync.core.clock import Clock
from erpsync.core.errors import ErpsyncError, LoginRequiredError
from erpsync.core.instance import GrantKind, Identity
from erpsync.core.run import RunFailure, utc_text
from erpsync.core.token import NEVER
from erpsync.identity.life import Failure, HeldToken, Phase
from erpsync.identity.source import SourceFacts


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
    LOGIN_REQUIRED = "login_required"
    """No token; a person must sign in. Seen at once."""


@dataclass(frozen=True, slots=True)
class IdentityStatus:
    """One identity. `secret_in_use` is the index of the secret that the server took last; requests count since start.

    `clock_skew_seconds` is the server's clock minus ours; instants are aware UTC. `survives_seconds` is how long it
    works on while its identity server is away, None where it needs none. `expires_at` is None where nobody knows it.
    """

    identity: str
    state: TokenState
    instance: str = ""
    grant: GrantKind = "client_credentials"
    fingerprint: str | None = None
    scope: tuple[str, ...] = ()
    asked_scope: tuple[str, ...] = ()
    expires_at: datetime | None = None
    next_renewal_at: datetime | None = None
    survives_seconds: float | None = 0.0
    last_error: RunFailure | None = None
    requests: int = 0
    clock_skew_seconds: float | None = None
    secret_in_use: int | None = None
    token_endpoint: str | None = None
    warnings: tuple[str, ...] = ()

    def document(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "identity": self.identity,
            "instance": self.instance,
            "grant": self.grant,
            "state": self.state.value,
            "fingerprint": self.fingerprint,
            "scope": list(self.scope),
            "asked_scope": list(self.asked_scope),
            "expires_at": utc_text(self.expires_at),
            "next_renewal_at": utc_text(self.next_renewal_at),
            "survives_seconds": self.survives_seconds,
            "last_error": self.last_error.document() if self.last_error else None,
            "requests": self.requests,
            "clock_skew_seconds": self.clock_skew_seconds,
            "secret_in_use": self.secret_in_use,
            "token_endpoint": self.token_endpoint,
            "warnings": list(self.warnings),
        }


def status_of(
    identity: Identity,
    held: HeldToken | None,
    failed: Failure | None,
    facts: SourceFacts,
    clock: Clock,
    *,
    fetching: bool,
    trouble: ErpsyncError | None = None,
) -> IdentityStatus:
    """How things stand now with the token `held`, the last renewal's failure and the `trouble` of one under way."""
    left = held.left(clock) if held else 0.0
    phase = held.phase(left) if held else Phase.EXPIRED
    token = held.token if held and left > 0 else None
    error = failed.error if failed else trouble if fetching else None
    needs_none = identity.grant == "reference_token"
    return IdentityStatus(
        identity=identity.name,
        instance=identity.instance,
        grant=identity.grant,
        state=_state(held, phase, failed, fetching=fetching),
        fingerprint=token.fingerprint if token else None,
        scope=token.scope if token else (),
        asked_scope=identity.scope,
        expires_at=token.expires_at if token and token.expires_at != NEVER else identity.token_expires,
        next_renewal_at=_next_renewal(held, phase, failed, clock),
        survives_seconds=None if needs_none else round(max(left - held.windows.spare, 0.0)) if held else 0,
        last_error=RunFailure(type(error).__name__, error.message, error.hint) if error else None,
        requests=facts.requests,
        clock_skew_seconds=facts.skew,
        secret_in_use=facts.secret_index,
        token_endpoint=facts.endpoint,
        warnings=facts.warnings,
    )


def _state(held: HeldToken | None, phase: Phase, failed: Failure | None, *, fetching: bool) -> TokenState:
    if held is not None and phase is not Phase.EXPIRED:
        return TokenState.FRESH if held.fixed else TokenState(phase.value)
    if fetching:
        return TokenState.FETCHING
    if failed is None:
        return TokenState.EXPIRED if held else TokenState.ABSENT
    if isinstance(failed.error, LoginRequiredError):
        return TokenState.LOGIN_REQUIRED
    return TokenState.BACKOFF if failed.error.retryable else TokenState.REJECTED


def _next_renewal(
    held: HeldToken | None, phase: Phase, failed: Failure | None, clock: Clock
) -> datetime | None:
    if failed is not None and isinstance(failed.error, LoginRequiredError):
        return None  # a person decides when
    if failed is not None:
        return clock.now() + timedelta(seconds=max(failed.next_try(phase) - clock.boot(), 0.0))
    if held is None or held.fixed or phase is Phase.EXPIRED:
        return None
    return held.token.expires_at - timedelta(seconds=held.windows.soft)
