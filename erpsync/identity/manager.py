"""The token manager: one valid token of one identity for everybody who asks, or an error.

Nothing runs by itself: a renewal begins when somebody asks for a token and the one held is near its end, so an
identity that nobody uses asks for nothing. The renewal is a task of the manager (a flight): callers wait for it,
share its result, and may go away without harm.
"""

import asyncio
import contextvars
import copy
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any, NoReturn

from erpsync.core.clock import Clock
from erpsync.core.errors import (
    ErpsyncError,
    IdentityError,
    LoginRequiredError,
    SecretUnavailableError,
    TokenEndpointError,
)
from erpsync.core.event import Emit
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.core.token import AccessToken
from erpsync.identity.acquisition import Acquisition
from erpsync.identity.life import Failure, HeldToken, Next, Phase, Renewal, failure, next_step
from erpsync.identity.report import TokenReport
from erpsync.identity.source import Keeper, TokenSource
from erpsync.identity.status import IdentityStatus, status_of

_ZERO = timedelta(0)
_COLD_PATIENCE = 30.0
_EXPIRING_PATIENCE = 5.0
_FORCED_APART = 60.0


class TokenManager:
    """Gives tokens of one identity to any number of tasks; an `Auth` of `core`.

    `source` gets them, `keeper` carries them over a restart. All exceptions that `token` raises are ErpsyncErrors.
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
        keeper: Keeper | None = None,
    ) -> None:
        self._identity = identity
        self._source = source
        self._clock = clock
        self._report = TokenReport(identity.name, emit, clock)
        self._acquisition = Acquisition(
            identity, source, keeper=keeper, clock=clock, redactor=redactor, renewal=renewal
        )
        self._held: HeldToken | None = None
        self._flight: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[AccessToken] | None = None
        self._failure: Failure | None = None
        self._trouble: ErpsyncError | None = None  # of the flight under way, which goes on
        self._looked_at = 0.0
        self._refused: AccessToken | None = None
        self._forced_at: float | None = None

    async def token(self, *, min_valid: timedelta = _ZERO, max_age: timedelta | None = None) -> AccessToken:
        """A token that can be used now; see `Auth.token`. A fresh one costs neither a lock nor a switch of tasks.

        Raises:
            IdentityError: retryable where waiting can help.
            SecretUnavailableError: the secret cannot be read.
        """
        self._let_go_of_withdrawn()
        held = self._held
        if held is not None and (max_age is None or not held.is_older(max_age, self._clock)):
            enough = held.windows.soft
            if min_valid:
                enough = max(enough, min(min_valid.total_seconds(), held.promise))
            if held.left(self._clock) > enough:
                return held.token
        return await self._token_near_its_end(min_valid, max_age)

    async def prepare(self) -> None:
        """A run will need a token within a minute: have one ready. Never raises; what goes wrong is told once."""
        held = self._held
        phase = held.phase(held.left(self._clock)) if held else Phase.EXPIRED
        flight = self._start(phase, short=False) if phase is not Phase.FRESH else None
        if flight is not None:
            await asyncio.wait({flight})

    def invalidate(self, version: int, reason: str) -> None:
        """See `Auth.invalidate`. A second renewal within a minute is not made: then it is not the token's fault."""
        held = self._held
        if held is None or held.token.version != version:
            return
        now = self._clock.boot()
        renewed = self._forced_at is None or now - self._forced_at >= _FORCED_APART
        if renewed:
            self._held, self._forced_at = None, now
        elif self._refused is held.token:
            return
        self._refused = held.token
        self._report.invalidated(held, reason, renewed=renewed)

    def change_source(self, identity: Identity, source: TokenSource, keeper: Keeper | None) -> None:
        """The next token comes from another source; the one held stays. What failed before is tried again."""
        self._identity, self._source = identity, source
        self._acquisition.change_source(source, keeper)
        self._failure, self._trouble = None, None

    @property
    def held(self) -> AccessToken | None:
        """The token that serves now; None where none does."""
        self._let_go_of_withdrawn()
        held = self._held
        return held.token if held and held.phase(held.left(self._clock)) is not Phase.EXPIRED else None

    async def recall(self) -> None:
        """Hold what the process before left, if it can be used: to show it, and not to ask for another."""
        await self._landed()
        if self._held is None:
            await self._landed_well(self._fly(self._take_up()))

    async def probe(self) -> AccessToken:
        """A token by a real request now, whatever was refused before: somebody wants to know. Those who ask meanwhile
        share it.

        While the token of a service serves, the other one is thrown away: its use could open a second session.

        Raises:
            IdentityError: retryable where waiting can help.
            SecretUnavailableError: the secret cannot be read.
        """
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._asked_now(), context=contextvars.Context())
        probing = self._probing
        await asyncio.wait({probing})
        if probing.cancelled():
            raise self._closed()
        error = probing.exception()
        if error is not None:
            raise copy.copy(error) from error.__cause__
        return probing.result()

    def status(self) -> IdentityStatus:
        """How things stand now."""
        return status_of(
            self._identity,
            self._held,
            self._failure,
            self._source.facts(),
            self._clock,
            fetching=self._flight is not None and not self._flight.done(),
            trouble=self._trouble,
        )

    async def close(self) -> None:
        """End a renewal under way; closing twice is fine."""
        tasks = [task for task in (self._flight, self._probing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _let_go_of_withdrawn(self) -> None:
        """Somebody has signed in or out: not one more call with the token from before, however new that is."""
        if (held := self._held) is not None and self._source.withdrawn():
            self._held = self._failure = self._refused = self._forced_at = None
            self._report.invalidated(held, "somebody has signed in or out", renewed=True)

    # -- callers ---------------------------------------------------------------------------------------------------

    async def _token_near_its_end(self, min_valid: timedelta, max_age: timedelta | None) -> AccessToken:
        """Start or join the renewal; wait for it as long as the phase of the held token demands."""
        asked = self._clock.boot()
        until = asked + _COLD_PATIENCE
        while True:
            held = self._held
            left = held.left(self._clock) if held else 0.0
            phase = held.phase(left) if held else Phase.EXPIRED
            wanted = min(min_valid.total_seconds(), held.promise) if held else 0.0
            old = held is not None and self._is_older(held, max_age, asked)
            flight = self._start(phase, short=old or left <= wanted)
            if held is not None and not old and phase is Phase.AGING and left > wanted:
                return held.token
            if flight is not None:
                soon = self._clock.boot() + _EXPIRING_PATIENCE
                await self._wait(flight, min(until, soon) if phase is Phase.EXPIRING else until)
            held = self._held
            alive = held is not None and held.phase(held.left(self._clock)) is not Phase.EXPIRED
            if held is not None and alive and not self._is_older(held, max_age, asked):
                return held.token
            if flight is None or self._clock.boot() >= until or (flight.done() and self._failure is not None):
                self._raise_failure()

    def _is_older(self, held: HeldToken, max_age: timedelta | None, asked: float) -> bool:
        """What was requested after the caller `asked` is young enough, however long it took."""
        return max_age is not None and held.sent_at_boot < asked and held.is_older(max_age, self._clock)

    async def _wait(self, flight: asyncio.Task[None], until: float) -> None:
        """Wait for the flight without being able to harm it."""
        alarm = asyncio.ensure_future(self._clock.sleep(until - self._clock.boot()))
        try:
            await asyncio.wait({flight, alarm}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
        if flight.done():
            self._require_well(flight)

    def _require_well(self, flight: asyncio.Task[None]) -> None:
        if flight.cancelled():
            raise self._closed()
        flight.result()  # a fault of ours is everybody's

    def _closed(self) -> IdentityError:
        return IdentityError(f"identity {self._identity.name} is closed")

    def _raise_failure(self) -> NoReturn:
        """What stands in the way, for this caller alone."""
        error = self._failure.error if self._failure else self._trouble
        if error is None:
            raise TokenEndpointError(
                f"no token for {self._identity.name} yet: the identity server takes its time", retryable=True
            )
        raise copy.copy(error) from error.__cause__

    # -- the flight ------------------------------------------------------------------------------------------------

    def _start(self, phase: Phase, *, short: bool) -> asyncio.Task[None] | None:
        """The flight under way, or a new one; None where it is too early after a failure."""
        if self._flight is not None and not self._flight.done():
            return self._flight
        step = next_step(self._failure, phase, self._clock.boot(), self._looked_at)
        if step is Next.WAIT:
            return None
        trigger = self._trigger(phase, short=short)
        patient = phase is Phase.EXPIRED
        return self._fly(self._renew(trigger, patient=patient, only_if_new=step is Next.LOOK))

    def _fly(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """The one flight: only where none is under way."""
        self._flight = asyncio.create_task(work, context=contextvars.Context())  # it is nobody's run
        return self._flight

    def _trigger(self, phase: Phase, *, short: bool) -> str:
        if self._failure is not None and not self._failure.error.retryable:
            return "probe"
        if self._held is None:
            return "refused" if self._refused else "cold"
        if phase is Phase.EXPIRED:
            return "expired"
        return "run" if short and phase is not Phase.EXPIRING else phase.value

    async def _landed(self) -> None:
        """No flight is under way, up to the next `await`."""
        while self._flight is not None and not self._flight.done():
            await asyncio.wait({self._flight})

    async def _landed_well(self, flight: asyncio.Task[None]) -> None:
        await asyncio.wait({flight})
        self._require_well(flight)

    async def _take_up(self) -> None:
        """A flight that asks nobody: hold what is kept, or note that somebody has to sign in."""
        try:
            recalled = await self._acquisition.recall()
        except LoginRequiredError as error:
            self._note(error, "cold")
        except SecretUnavailableError:
            return  # whoever needs the secret will say so
        else:
            if recalled is not None and recalled.phase(recalled.left(self._clock)) is Phase.EXPIRED:
                self._held = recalled  # to be shown
            elif recalled is not None:
                self._take(recalled, "cold")

    async def _asked_now(self) -> AccessToken:
        """What a probe gives: by a flight, unless a service's token is in use and has to stay."""
        before = self._held
        await self.recall()
        await self._landed()
        held, serves = self._held, self.held
        if held is not None and serves is not None and held is not before and held.origin != "stored":
            return serves  # it came while we waited
        if serves is not None and self._identity.grant == "client_credentials":
            other = await self._acquisition.fresh(keep=False)
            return other.token
        await self._landed_well(self._fly(self._renew("asked")))
        if self._failure is not None or self._held is None:
            self._raise_failure()
        return self._held.token

    async def _renew(self, trigger: str, *, patient: bool = False, only_if_new: bool = False) -> None:
        """The flight: get a token and hold it, or note why there is none."""
        self._looked_at, self._trouble = self._clock.boot(), None

        def tell(error: ErpsyncError, wait: float) -> None:
            self._trouble = error
            self._report.trying_again(error, trigger, wait)

        try:
            if only_if_new and not await self._source.changed():
                return
            if trigger == "asked":
                held = await self._acquisition.fresh(anew=True)
            else:
                held = await (self._acquisition.patiently(tell) if patient else self._acquisition.once())
            self._require_other(held, trigger)
        except ErpsyncError as error:
            self._note(error, trigger)
        else:
            self._take(held, trigger)

    def _note(self, error: ErpsyncError, trigger: str) -> None:
        """There is no other token, and why."""
        failed = self._failure
        self._failure = failure(error, self._clock.boot(), failed.count + 1 if failed else 1)
        self._report.failed(self._failure, failed, trigger)

    def _require_other(self, held: HeldToken, trigger: str) -> None:
        """A token made by hand that the API has refused stays refused until it is replaced, or is probed again."""
        if held.fixed and self._refused and self._refused.value == held.token.value and trigger != "probe":
            raise IdentityError(
                f"the API refuses the reference token of {self._identity.name}",
                hint="it was revoked or has expired: make a new one and write it where `token` says",
            )

    def _take(self, held: HeldToken, trigger: str) -> None:
        """From now on this is the token. One made by hand stays what it was until it is another."""
        before = self._held
        same = before is not None and held.fixed and before.token.value == held.token.value
        if before is not None and same:
            held = replace(held, token=before.token)
        self._held, self._failure, self._refused = held, None, None
        if not same:
            self._report.held(held, trigger)
