"""The token source for reference tokens (ERP.net's PAT and SAT): made by hand, read, and sent as they are."""

import asyncio
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from erpsync.core.background import guarded
from erpsync.core.clock import Clock
from erpsync.core.errors import IdentityError, SecretUnavailableError
from erpsync.core.event import Emit
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.identity.answer import token_fault
from erpsync.identity.client import digest
from erpsync.identity.source import Fetched, Grant, SourceFacts

_WARNINGS = (14, 7, 1)  # days before the configured end
_LOOK_SECONDS = 3600.0


class ReferenceTokenSource:
    """Reads the token of one identity; no server is ever asked. A `TokenSource`.

    `read` gives the token (one element) and is called in a thread. The configured end is told when it is 14, 7 and 1
    days ahead, once each as `token.expiry_neared`.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        read: Callable[[], Sequence[str]],
        clock: Clock,
        emit: Emit,
        redactor: Redactor,
    ) -> None:
        self._identity = identity
        self._read = read
        self._clock = clock
        self._emit = emit
        self._redactor = redactor
        self._digest = ""
        self._warned = math.inf

    async def fetch(self, *, anew: bool = False) -> Fetched:
        """The token as it is now.

        Raises:
            SecretUnavailableError: it cannot be read, or is none.
            IdentityError: its configured end has passed.
        """
        value = await self._value()
        if wrong := token_fault(value, self._identity.largest_token):
            raise SecretUnavailableError(
                f"the reference token of {self._identity.name} cannot be one: {len(value)} characters{wrong}",
                hint="the file must hold the token alone, like enrt_…",
            )
        now, boot = self._clock.now(), self._clock.boot()
        end = self._identity.token_expires
        self.tell_end()
        if end is not None and end <= now:
            raise IdentityError(
                f"the reference token of {self._identity.name} expired at {end:%Y-%m-%d %H:%M} UTC (token_expires)",
                hint="make a new one, write it where `token` says, and change token_expires",
            )
        lifetime = (end - now).total_seconds() if end else math.inf
        return Fetched(Grant(value, lifetime, ()), now, boot, origin="fixed")

    async def changed(self) -> bool:
        """Whether the token read now is another than the one read last."""
        before = self._digest
        await self._value()
        return self._digest != before

    def withdrawn(self) -> bool:
        """Only the API can take it back."""
        return False

    def facts(self) -> SourceFacts:
        """Its end, when that is near."""
        return SourceFacts(warnings=end_warnings(self._identity, self._clock.now()))

    def tell_end(self) -> None:
        """Tell that the configured end is near, once for each of the days before it."""
        end = self._identity.token_expires
        left = end - self._clock.now() if end else timedelta.max
        days = min((days for days in _WARNINGS if left <= timedelta(days=days)), default=math.inf)
        if days < self._warned:
            self._warned = days
            self._emit(
                "token.expiry_neared",
                level="warning",
                identity=self._identity.name,
                expires_at=end,
                days=max(math.ceil(left / timedelta(days=1)), 0),
                hint="make a new one in time and write it where `token` says",
            )

    async def _value(self) -> str:
        self._digest = ""
        (value,) = await asyncio.to_thread(self._read)
        self._redactor.learn(value)
        self._digest = digest(value)
        return value


async def watch_ends(by_hand: Callable[[], Sequence[ReferenceTokenSource]], clock: Clock) -> None:
    """Tell in time that tokens end which nobody uses now, until cancelled."""
    while True:
        with guarded("looking after tokens made by hand"):
            for source in by_hand():
                source.tell_end()
        await clock.sleep(_LOOK_SECONDS)


def end_warnings(identity: Identity, now: datetime) -> tuple[str, ...]:
    """What people are told of the configured end of a reference token, when it is near or over."""
    end = identity.token_expires
    if end is None or end - now > timedelta(days=_WARNINGS[0]):
        return ()
    return (f"the token {'expires' if end > now else 'expired'} at {end:%Y-%m-%d %H:%M} UTC",)
