"""Getting a token of one identity: from the process before, or from the source, several times if need be."""

import math
import random
from collections.abc import Callable
from datetime import timedelta

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from erpsync.core.clock import Clock
from erpsync.core.errors import ErpsyncError, TokenEndpointError
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.core.token import NEVER, AccessToken
from erpsync.identity.claims import session_of
from erpsync.identity.life import HeldToken, Phase, Renewal, reading_windows, windows
from erpsync.identity.source import Fetched, Keeper, TokenSource

_COLD_TRIES = 5
_COLD_SECONDS = 60.0
_full_jitter = wait_random_exponential(multiplier=1, max=30)

Tell = Callable[[ErpsyncError, float], None]
"""Hears of an attempt that failed, and how many seconds later the next one follows."""


class Acquisition:
    """Turns what `source` fetches into tokens with versions, windows and an end on both clocks.

    The token of the process before, which `keeper` has, is looked for once, before the source is asked.
    """

    def __init__(
        self,
        identity: Identity,
        source: TokenSource,
        *,
        keeper: Keeper | None,
        clock: Clock,
        redactor: Redactor,
        renewal: Renewal,
    ) -> None:
        self._name = identity.name
        self._scheme = identity.token_scheme
        self._source = source
        self._keeper = keeper
        self._clock = clock
        self._redactor = redactor
        self._renewal: Renewal = renewal
        self._recalled = keeper is None
        self._version = 0

    def change_source(self, source: TokenSource, keeper: Keeper | None) -> None:
        """From now on tokens come from here."""
        self._source, self._keeper = source, keeper

    async def patiently(self, tell: Tell) -> HeldToken:
        """A token after up to five tries within a minute, for who has nothing to go on with.

        Raises:
            ErpsyncError: what the last attempt ran into.
        """
        end = self._clock.boot() + _COLD_SECONDS

        def enough(state: RetryCallState) -> bool:
            return state.attempt_number >= _COLD_TRIES or self._clock.boot() + state.upcoming_sleep > end

        def told(state: RetryCallState) -> None:
            error = _error(state)
            assert isinstance(error, ErpsyncError)
            tell(error, state.upcoming_sleep)

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, ErpsyncError) and error.retryable),
            wait=_polite_wait,
            stop=enough,
            sleep=self._clock.sleep,
            before_sleep=told,
            reraise=True,
        )
        return await retrying(self.once)

    async def once(self) -> HeldToken:
        """A token by one exchange at most. Raises ErpsyncErrors."""
        recalled = await self.recall()
        return recalled if recalled and self._lives(recalled) else await self.fresh()

    async def recall(self) -> HeldToken | None:
        """The token of the process before, alive or not, the first time somebody wants it.

        Raises:
            LoginRequiredError, SecretUnavailableError: as `Keeper.recall`.
        """
        if self._recalled or self._keeper is None:
            return None
        fetched = await self._keeper.recall()
        self._recalled = True
        return self._held(fetched) if fetched else None

    async def fresh(self, *, keep: bool = True, anew: bool = False) -> HeldToken:
        """A token from the source, `anew` whatever is stored; kept for the next process if it will be used."""
        fetched = await self._source.fetch(anew=anew)
        held = self._held(fetched)
        if not self._lives(held):
            raise TokenEndpointError("the token was over before it arrived", retryable=True)
        if keep and self._keeper is not None:
            await self._keeper.keep(fetched)
        return held

    def _lives(self, held: HeldToken) -> bool:
        return held.phase(held.left(self._clock)) is not Phase.EXPIRED

    def _held(self, fetched: Fetched) -> HeldToken:
        grant = fetched.grant
        self._redactor.learn_passing(f"access token of {self._name}", grant.access_token)
        life = min(grant.lifetime, (NEVER - fetched.sent_at).total_seconds())
        ends = fetched.sent_boot + life
        if fetched.origin == "fixed":
            leads, promise = reading_windows(life), 0.0
        else:
            leads = windows(life, self._renewal, jitter=random.random())  # noqa: S311 - a spread
            promise = ends - self._clock.boot() - leads.hard
        return HeldToken(self._token(fetched), fetched.sent_boot, ends, leads, promise, fetched.origin)

    def _token(self, fetched: Fetched) -> AccessToken:
        grant = fetched.grant
        endless = math.isinf(grant.lifetime)
        expires_at = NEVER if endless else fetched.sent_at + timedelta(seconds=grant.lifetime)
        self._version += 1
        return AccessToken(
            grant.access_token,
            self._version,
            fetched.sent_at,
            expires_at,
            grant.scope,
            self._scheme,
            session_of(grant.access_token),
            fetched.sent_boot,
        )


def _polite_wait(state: RetryCallState) -> float:
    """Full jitter, and never less than the server asks for."""
    asked = getattr(_error(state), "retry_after", None)
    seconds = asked.total_seconds() * random.uniform(1.0, 1.1) if asked else 0.0  # noqa: S311 - a spread
    return max(_full_jitter(state), seconds)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
