"""The token manager: one valid token of one identity for everybody who asks, or an error.

Nothing runs by itself: a renewal begins when somebody asks for a token and the one held is near its end, so an
identity that nobody uses asks for nothing. The renewal is a task of the manager (a flight): callers wait for it,
share its result, and may go away without harm.
"""

import asyncio
import contextvars
import copy
import random
from datetime import datetime, timedelta
from typing import NoReturn

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from erpsync.core.clock import Clock
from erpsync.core.errors import ErpsyncError, IdentityError, TokenEndpointError
from erpsync.core.event import Emit, Level
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.core.run import RunFailure
from erpsync.core.token import AccessToken
from erpsync.identity.life import Failure, HeldToken, Phase, Renewal, failure, windows
from erpsync.identity.source import Fetched, TokenSource
from erpsync.identity.status import IdentityStatus, TokenState

_ZERO = timedelta(0)
_COLD_PATIENCE = 30.0
_EXPIRING_PATIENCE = 5.0
_COLD_TRIES = 5
_COLD_SECONDS = 60.0
_FORCED_APART = 60.0
_SECRET_LOOK_APART = 5.0
_full_jitter = wait_random_exponential(multiplier=1, max=30)


class TokenManager:
    """Gives tokens of one identity to any number of tasks; an `Auth` of `core`.

    `source` gets them. All exceptions that `token` raises are ErpsyncErrors.
    """

    def __init__(
        self,
        identity: Identity,
        source: TokenSource,
        *,
        clock: Clock,
        emit: Emit,
        redactor: Redactor,
        renewal: Renewal = "late",
    ) -> None:
        self._identity = identity
        self._name = identity.name
        self._source = source
        self._clock = clock
        self._emit = emit
        self._redactor = redactor
        self._renewal: Renewal = renewal
        self._held: HeldToken | None = None
        self._flight: asyncio.Task[None] | None = None
        self._failure: Failure | None = None
        self._version = 0
        self._forced_at: float | None = None
        self._refused_version = 0
        self._secret_looked_at = 0.0
        self._in_trouble = False

    async def token(self, *, min_valid: timedelta = _ZERO, max_age: timedelta | None = None) -> AccessToken:
        """A token that can be used now; see `Auth.token`. A fresh one costs neither a lock nor a switch of tasks.

        Raises:
            IdentityError: retryable where waiting can help.
            SecretUnavailableError: the secret cannot be read.
        """
        held = self._held
        if held is not None and not self._is_older(held, max_age):
            enough = max(held.windows.soft, min(min_valid.total_seconds(), held.promise))
            if held.left(self._clock) > enough:
                return held.token
        return await self._token_near_its_end(min_valid, max_age)

    def invalidate(self, version: int, reason: str) -> None:
        """See `Auth.invalidate`. A second renewal within a minute is not made: then it is not the token's fault."""
        held = self._held
        if held is None or held.token.version != version:
            return
        now = self._clock.boot()
        renewed = self._forced_at is None or now - self._forced_at >= _FORCED_APART
        if renewed:
            self._held, self._forced_at = None, now
        elif self._refused_version == version:
            return
        self._refused_version = version
        fingerprint = held.token.fingerprint
        self._emit(
            "token.invalidated",
            level="warning",
            identity=self._name,
            version=version,
            fingerprint=fingerprint,
            reason=reason,
            renewed=renewed,
        )

    @property
    def held(self) -> AccessToken | None:
        """The token that serves now; None where none does."""
        held = self._held
        return held.token if held and held.phase(held.left(self._clock)) is not Phase.EXPIRED else None

    async def probe(self) -> AccessToken:
        """A token by a real request now, whatever is held or was refused before: somebody wants to know.

        It is kept where none is held that can be used, else thrown away: a second token could open a second session.

        Raises:
            IdentityError: retryable where waiting can help.
            SecretUnavailableError: the secret cannot be read.
        """
        fresh, held = self._hold(await self._source.fetch()), self._held
        if held is None or held.phase(held.left(self._clock)) is Phase.EXPIRED:
            self._held, self._failure = fresh, None
            self._refused_version, self._in_trouble = 0, False
        return fresh.token

    def status(self) -> IdentityStatus:
        """How things stand now."""
        held, failed = self._held, self._failure
        left = held.left(self._clock) if held else 0.0
        state = self._state(held, left)
        alive = held is not None and left > 0
        error = failed.error if failed else None
        facts = self._source.facts()
        return IdentityStatus(
            identity=self._name,
            state=state,
            fingerprint=held.token.fingerprint if held and alive else None,
            scope=held.token.scope if held and alive else (),
            expires_at=held.token.expires_at if held and alive else None,
            next_renewal_at=self._next_renewal(held if alive else None, left),
            last_error=RunFailure(type(error).__name__, error.message, error.hint) if error else None,
            requests=facts.requests,
            clock_skew_seconds=facts.skew,
            secret_in_use=facts.secret_index,
            token_endpoint=facts.endpoint,
        )

    async def close(self) -> None:
        """End a renewal under way; closing twice is fine."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.gather(self._flight, return_exceptions=True)

    # -- callers ---------------------------------------------------------------------------------------------------

    async def _token_near_its_end(self, min_valid: timedelta, max_age: timedelta | None) -> AccessToken:
        """Start or join the renewal; wait for it as long as the phase of the held token demands."""
        until = self._clock.boot() + _COLD_PATIENCE
        while True:
            held = self._held
            left = held.left(self._clock) if held else 0.0
            phase = held.phase(left) if held else Phase.EXPIRED
            wanted = min(min_valid.total_seconds(), held.promise) if held else 0.0
            old = held is not None and self._is_older(held, max_age)
            flight = self._start(phase, old or left <= wanted)
            if held is not None and not old and phase is Phase.AGING and left > wanted:
                return held.token
            if flight is not None:
                soon = self._clock.boot() + _EXPIRING_PATIENCE
                await self._wait(flight, min(until, soon) if phase is Phase.EXPIRING else until)
            held = self._held
            alive = held is not None and held.phase(held.left(self._clock)) is not Phase.EXPIRED
            if held is not None and alive and not self._is_older(held, max_age):
                return held.token
            if flight is None or self._clock.boot() >= until or (flight.done() and self._failure is not None):
                self._raise_failure()

    def _is_older(self, held: HeldToken, max_age: timedelta | None) -> bool:
        return max_age is not None and self._clock.now() - held.token.obtained_at > max_age

    async def _wait(self, flight: asyncio.Task[None], until: float) -> None:
        """Wait for the flight without being able to harm it."""
        alarm = asyncio.ensure_future(self._clock.sleep(until - self._clock.boot()))
        try:
            await asyncio.wait({flight, alarm}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
        if flight.done():
            if flight.cancelled():
                raise IdentityError(f"identity {self._name} is closed")
            flight.result()  # a fault of ours is everybody's

    def _raise_failure(self) -> NoReturn:
        if self._failure is None:
            raise TokenEndpointError(
                f"no token for {self._name} yet: the identity server takes its time", retryable=True
            )
        raise copy.copy(self._failure.error) from self._failure.error.__cause__

    # -- the flight ------------------------------------------------------------------------------------------------

    def _start(self, phase: Phase, short: bool) -> asyncio.Task[None] | None:
        """The flight under way, or a new one; None where it is too early after a failure."""
        if self._flight is not None and not self._flight.done():
            return self._flight
        now, failed = self._clock.boot(), self._failure
        only_if_new = False
        if failed is not None and now < failed.next_try(phase):
            only_if_new = not failed.error.retryable and now - self._secret_looked_at >= _SECRET_LOOK_APART
            if not only_if_new:
                return None
        self._flight = asyncio.create_task(
            self._renew(self._trigger(phase, short), phase, only_if_new),
            context=contextvars.Context(),  # it is nobody's run
        )
        return self._flight

    def _trigger(self, phase: Phase, short: bool) -> str:
        if self._failure is not None and not self._failure.error.retryable:
            return "probe"
        if self._held is None:
            return "refused" if self._refused_version else "cold"
        if phase is Phase.EXPIRED:
            return "expired"
        return "run" if short and phase is not Phase.EXPIRING else phase.value

    async def _renew(self, trigger: str, phase: Phase, only_if_new: bool) -> None:
        """The flight: get a token and hold it, or note why there is none."""
        self._secret_looked_at = self._clock.boot()
        try:
            if only_if_new and not await self._source.changed():
                return
            held = await self._obtain(trigger, patient=phase is Phase.EXPIRED)
        except ErpsyncError as error:
            self._note(error, trigger)
            return
        self._held, self._failure = held, None
        self._refused_version, self._in_trouble = 0, False
        token = held.token
        self._emit(
            "token.renewed",
            identity=self._name,
            version=token.version,
            fingerprint=token.fingerprint,
            expires_in=round(held.left(self._clock)),
            expires_at=token.expires_at,
            scope=" ".join(token.scope),
            trigger=trigger,
        )

    async def _obtain(self, trigger: str, *, patient: bool) -> HeldToken:
        """One exchange; with nothing to serve meanwhile, several."""
        began = self._clock.boot()

        def enough(state: RetryCallState) -> bool:
            late = self._clock.boot() - began + state.upcoming_sleep > _COLD_SECONDS
            return not patient or late or state.attempt_number >= _COLD_TRIES

        def tell(state: RetryCallState) -> None:
            self._tell_failed(_error(state), trigger, state.upcoming_sleep)

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, ErpsyncError) and error.retryable),
            wait=_polite_wait,
            stop=enough,
            sleep=self._clock.sleep,
            before_sleep=tell,
            reraise=True,
        )
        return await retrying(self._fetch)

    async def _fetch(self) -> HeldToken:
        """One token, its life counted from the moment the request was sent."""
        fetched = await self._source.fetch()
        held = self._hold(fetched)
        if held.phase(held.left(self._clock)) is Phase.EXPIRED:
            raise TokenEndpointError("the token was over before it arrived", retryable=True)
        return held

    def _hold(self, fetched: Fetched) -> HeldToken:
        value, lifetime = fetched.grant.access_token, fetched.grant.lifetime
        if self._redactor(value) == value:
            self._redactor.learn(value)  # opaque: no shape gives it away
        self._version += 1
        expires_at = fetched.sent_at + timedelta(seconds=lifetime)
        token = AccessToken(value, self._version, fetched.sent_at, expires_at, fetched.grant.scope)
        leads = windows(lifetime, self._renewal, jitter=random.random())  # noqa: S311 - a spread
        ends = fetched.sent_boot + lifetime
        return HeldToken(token, ends, leads, promise=ends - self._clock.boot() - leads.hard)

    # -- what is told ----------------------------------------------------------------------------------------------

    def _note(self, error: ErpsyncError, trigger: str) -> None:
        """Remember the failure; a person hears of it once."""
        before = self._failure
        self._failure = now = failure(error, self._clock.boot(), before.count + 1 if before else 1)
        wait = now.next_try(Phase.EXPIRED) - now.at
        if error.retryable or (before is not None and before.error.message == error.message):
            self._tell_failed(error, trigger, wait)
        else:
            self._emit("token.rejected", level="error", **self._about(error, trigger, wait))

    def _tell_failed(self, error: BaseException | None, trigger: str, wait: float) -> None:
        level: Level = "debug" if self._in_trouble else "warning"
        self._in_trouble = True
        self._emit("token.renewal_failed", level=level, **self._about(error, trigger, wait))

    def _about(self, error: BaseException | None, trigger: str, wait: float) -> dict[str, object]:
        return {
            "identity": self._name,
            "trigger": trigger,
            "error_type": type(error).__name__,
            "error_message": str(error),
            "hint": getattr(error, "hint", ""),
            "status": getattr(error, "status", None),
            "retry_seconds": round(wait, 1),
        }

    def _state(self, held: HeldToken | None, left: float) -> TokenState:
        phase = held.phase(left) if held else Phase.EXPIRED
        if phase is not Phase.EXPIRED:
            return TokenState(phase.value)
        if self._flight is not None and not self._flight.done():
            return TokenState.FETCHING
        if self._failure is not None:
            return TokenState.BACKOFF if self._failure.error.retryable else TokenState.REJECTED
        return TokenState.EXPIRED if held else TokenState.ABSENT

    def _next_renewal(self, held: HeldToken | None, left: float) -> datetime | None:
        if self._failure is not None:
            due = self._failure.next_try(held.phase(left) if held else Phase.EXPIRED)
            return self._clock.now() + timedelta(seconds=max(due - self._clock.boot(), 0.0))
        return held.token.expires_at - timedelta(seconds=held.windows.soft) if held else None


def _polite_wait(state: RetryCallState) -> float:
    """Full jitter, and never less than the server asks for."""
    asked = getattr(_error(state), "retry_after", None)
    seconds = asked.total_seconds() * random.uniform(1.0, 1.1) if asked else 0.0  # noqa: S311 - a spread
    return max(_full_jitter(state), seconds)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
