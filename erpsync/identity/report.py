"""What is told of one identity's tokens: each success, and of each trouble its beginning."""

from erpsync.core.clock import Clock
from erpsync.core.errors import LoginRequiredError
from erpsync.core.event import Emit, Level
from erpsync.core.token import NEVER
from erpsync.identity.life import Failure, HeldToken, Phase


class TokenReport:
    """Turns what happens to the tokens of an identity into events."""

    def __init__(self, identity: str, emit: Emit, clock: Clock) -> None:
        self._identity = identity
        self._emit = emit
        self._clock = clock
        self._in_trouble = False

    def held(self, held: HeldToken, trigger: str) -> None:
        """There is a new token."""
        self._in_trouble = False
        token = held.token
        endless = token.expires_at == NEVER
        event = {"issued": "token.renewed", "stored": "token.restored", "fixed": "token.read"}[held.origin]
        self._emit(
            event,
            identity=self._identity,
            version=token.version,
            fingerprint=token.fingerprint,
            expires_in=None if endless else round(held.left(self._clock)),
            expires_at=None if endless else token.expires_at,
            scope=" ".join(token.scope),
            trigger=trigger,
        )

    def invalidated(self, held: HeldToken, reason: str, *, renewed: bool) -> None:
        """The API has refused the token."""
        self._emit(
            "token.invalidated",
            level="warning",
            identity=self._identity,
            version=held.token.version,
            fingerprint=held.token.fingerprint,
            reason=reason,
            renewed=renewed,
        )

    def failed(self, now: Failure, before: Failure | None, trigger: str) -> None:
        """A renewal has failed; what a person must mend is told once."""
        wait = now.next_try(Phase.EXPIRED) - now.at
        known = before is not None and before.error.message == now.error.message
        if now.error.retryable or known:
            self.trying_again(now.error, trigger, wait)
            return
        signed_out = isinstance(now.error, LoginRequiredError)
        event = "token.login_required" if signed_out else "token.rejected"
        self._emit(event, level="error", **self._about(now.error, trigger, wait))

    def trying_again(self, error: BaseException | None, trigger: str, wait: float) -> None:
        """An attempt has failed and another follows."""
        level: Level = "debug" if self._in_trouble else "warning"
        self._in_trouble = True
        self._emit("token.renewal_failed", level=level, **self._about(error, trigger, wait))

    def _about(self, error: BaseException | None, trigger: str, wait: float) -> dict[str, object]:
        return {
            "identity": self._identity,
            "trigger": trigger,
            "error_type": type(error).__name__,
            "error_message": str(error),
            "hint": getattr(error, "hint", ""),
            "status": getattr(error, "status", None),
            "retry_seconds": None if isinstance(error, LoginRequiredError) else round(wait, 1),
        }
