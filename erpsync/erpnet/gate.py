"""The gate of one identity at an ERP.net instance: which token a call carries, and when a new session is opened.

The first call with a token opens a session, which holds a licence slot until the server ends it. So tokens change at
planned seams: near a session's end calls pause, and the first one after the end opens the next session with a token
obtained right before. What may be open is written down before the call that opens it.
"""

import asyncio
import contextvars
import copy
from contextlib import suppress
from datetime import timedelta
from enum import Enum
from math import inf
from typing import TypeVar

from erpsync.core.clock import Clock
from erpsync.core.errors import ErpsyncError, IdentityError, LicenseExhaustedError
from erpsync.core.event import Emit
from erpsync.core.instance import GrantKind
from erpsync.core.session import Session, SessionKind
from erpsync.core.token import AccessToken, Auth
from erpsync.erpnet.slots import PROMISE, Lease, SlotBook, session_key
from erpsync.store.sessions import remove_sessions, write_sessions
from erpsync.store.state import Store

T = TypeVar("T")
_KINDS: dict[GrantKind, SessionKind] = {
    "client_credentials": "service",
    "reference_token": "reference",
    "authorization_code": "person",
}
_MAX_AGE = timedelta(seconds=60)
_PATIENCE = 125.0
"""Seconds a call waits at most: the longest seam, that of a token which was a minute old when it was first used."""
_AHEAD = 10.0  # seconds before the slot is free when the successor token is asked for
_LOOK = 5.0  # seconds between two looks: a slot may be freed sooner than expected
_SOON = 40.0  # seconds from a `prepare` to the start of its run, at most
_PROVIDE_APART = 30.0  # seconds between two tries to have a successor
_LONGEST_UNKNOWN = 60.0
_HINT = "raise license_slots if the instance has more licences for erpsync"
_HINTS = {
    "full": "idle sessions end after 20 minutes; reserve a slot for the system user or plan fewer at once",
    "given up": "the API refused the token of the open session twice (401), and the session holds its slot until it "
    "is over; with one more slot there is no wait",
    "lost": f"with [daemon] seal_key a restart, or the next run, goes on in the open session; else {_HINT}",
}


class Seen(Enum):
    """What a call says about its session."""

    OPEN = "open"
    """It is open."""
    ANSWER = "answer"
    """Somebody answered; whether it came as far as the session is not sure."""
    NOTHING = "nothing"
    """It has surely opened none."""
    UNKNOWN = "unknown"


class SessionGate:
    """Lets calls of one identity pass, each with its session and token; for any number of tasks of one event loop.

    `auth` gives the identity's tokens and knows nothing of sessions.
    """

    def __init__(
        self,
        identity: str,
        grant: GrantKind,
        auth: Auth,
        book: SlotBook,
        *,
        store: Store,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._identity = identity
        self._auth = auth
        self._book = book
        self._store = store
        self._clock = clock
        self._emit = emit
        self._kind = _KINDS[grant]
        self._lease: Lease | None = None
        self._given_up: Lease | None = None  # for a 401
        self._flight: asyncio.Task[Lease] | None = None
        self._promise: asyncio.Task[None] | None = None
        self._successor: asyncio.Task[None] | None = None

    async def enter(self, lasting: float = 0.0, *, within: bool = False) -> tuple[Lease, AccessToken]:
        """The session and the token of a call that needs them for `lasting` seconds; `within` an API transaction.

        In an open session it costs neither a write nor a switch of tasks, but for one write a minute.

        Raises:
            LicenseExhaustedError: no slot soon; `retry_after` says when.
            IdentityError: no token.
            StoreError: the session cannot be written down, so it is not opened.
        """
        lease, now = self._lease, self._clock.boot()
        if lease is None or not lease.takes(now, lasting, within=within):
            lease, now = await self._joined(lasting), self._clock.boot()
        elif self._kind != "service":
            lease = await self._followed(lease)
        if now >= lease.ahead:
            self._provide(lease, now)
        if now >= lease.promised:
            await self._renew_promise(lease)
        token = lease.token
        return (lease, token) if token is not None else await self.enter(lasting, within=within)

    async def prepare(self) -> None:
        """A run is about to start: where it will open a session, have a token ready that is young enough then.

        Nothing is asked for where a session will be open then: its token serves. Never raises.
        """
        now = self._clock.boot()
        own = (lease for lease in self._book.leases if lease.identity == self._identity)
        is_open = any(lease.is_present and now + _SOON < lease.ends(now) for lease in own)
        age = None if is_open or self._kind != "service" else _MAX_AGE / 3
        with suppress(ErpsyncError):  # it is told, and the run will meet it
            await self._auth.token(max_age=age)

    def sent(self, lease: Lease) -> float:
        """A call goes out; give the answer of this to `answered`."""
        lease.in_flight += 1
        return self._clock.boot()

    def answered(self, lease: Lease, sent: float, seen: Seen) -> None:
        """A call has come back, or will not."""
        lease.in_flight -= 1
        if seen is Seen.NOTHING:
            if lease.opened is None and not lease.doubtful and not lease.in_flight:
                self._drop(lease, "not opened")
            return
        lease.used = max(lease.used, self._clock.boot())
        lease.doubtful = lease.doubtful or seen is not Seen.OPEN
        if seen is not Seen.UNKNOWN:
            lease.sure = max(lease.sure, sent)
        if seen is Seen.OPEN and lease.opened is None:
            self._book.opened(lease)
            self._store.submit(write_sessions, self._promised(lease))

    def refused(self, lease: Lease, where: str) -> LicenseExhaustedError:
        """The server says that no slot is free: the session is not there, whatever we believed. What to raise."""
        lease.token = None
        if lease.opened is not None:
            self._drop(lease, "refused")
        wait = self._book.refuse()
        return LicenseExhaustedError(
            f"{where}: every licence slot of {self._book.instance} is taken",
            where=where,
            hint=_HINTS["full"],
            retry_after=timedelta(seconds=wait),
        )

    def invalidate(self, version: int, reason: str) -> None:
        """The API refused the token of this version. A service's session cannot be used any more but still counts."""
        lease = self._lease
        if lease is not None and lease.token is not None and lease.token.version == version:
            lease.token, self._given_up = None, lease
        self._auth.invalidate(version, reason)

    async def close(self) -> None:
        """End what is under way; closing twice is fine."""
        tasks = [task for task in (self._flight, self._promise, self._successor) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- sessions that are there -----------------------------------------------------------------------------------

    async def _followed(self, lease: Lease) -> Lease:
        """A person's token is refreshed within the session; another reference token is another session."""
        token = await self._auth.token()
        if self._fits(lease, token):
            lease.token = token
            return lease
        lease.token = None
        return await self._joined(0.0)

    async def _renew_promise(self, lease: Lease) -> None:
        """Write ahead that the session is used, so that after a crash its end is not reckoned too early."""
        if self._promise is None or self._promise.done():
            self._promise = _nobodys(asyncio.create_task(self._note(lease), context=contextvars.Context()))
        await asyncio.shield(self._promise)

    async def _note(self, lease: Lease) -> None:
        promised = self._clock.boot() + PROMISE
        await self._store.write(write_sessions, self._promised(lease, promised))
        lease.promised = promised

    def _provide(self, lease: Lease, now: float) -> None:
        """Fetch a token ahead of the seam, at no cost: should the identity server be away then, it serves."""
        lease.ahead = now + _PROVIDE_APART
        if self._successor is None or self._successor.done():
            fetching = self._fetch_successor(lease, lease.over - now)
            self._successor = _nobodys(asyncio.create_task(fetching, context=contextvars.Context()))

    async def _fetch_successor(self, lease: Lease, left: float) -> None:
        with suppress(IdentityError):  # it is told, and tried again
            await self._auth.token(max_age=timedelta(seconds=left))  # the one in use is older than that
            lease.ahead = inf

    # -- the next session ------------------------------------------------------------------------------------------

    async def _joined(self, lasting: float) -> Lease:
        """The session that is being opened; callers may go away without harm."""
        if self._flight is None or self._flight.done():
            opening = self._next(_PATIENCE + lasting)
            self._flight = _nobodys(asyncio.create_task(opening, context=contextvars.Context()))
        try:
            return await asyncio.shield(self._flight)
        except ErpsyncError as error:
            raise copy.copy(error) from error.__cause__

    async def _next(self, patience: float) -> Lease:
        """Go on in the session that fits the token at hand, else open one."""
        if await self._at_hand():
            assert self._lease is not None
            return self._lease
        await self._slot(patience)
        lease = Lease(self._identity, self._kind, self._clock.boot())
        self._book.add(lease)  # from here on the slot is ours
        try:
            await self._open(lease)
        except BaseException:
            self._book.remove(lease, "not opened")
            raise
        self._lease = lease
        return lease

    async def _at_hand(self) -> bool:
        """Whether the token at hand goes on in one of our sessions; those of a former life without one cannot."""
        own = [lease for lease in self._book.leases if lease.identity == self._identity]
        if self._kind == "service" and not any(lease.former for lease in own):
            return False
        token, now = await self._auth.token(), self._clock.boot()
        for lease in own:
            if self._fits(lease, token) and (lease.former or self._kind != "service"):
                lease.take(token, now, self._clock.now())
                if lease.takes(now):
                    self._lease = lease
            lease.former = False
        return self._lease is not None and self._lease.takes(now)

    def _fits(self, lease: Lease, token: AccessToken) -> bool:
        """A person's token is refreshed within the session that it names, if it names one; another token of a service
        is another session."""
        if self._kind == "person" and not token.session:
            return True
        return lease.fingerprint == session_key(self._kind, token)

    async def _slot(self, patience: float) -> None:
        """Wait for a slot: at a seam, until the old session is over; the successor token is ready by then."""
        until = self._clock.boot() + patience
        told = False
        while (wait := self._wait()) > 0:
            if self._clock.boot() + wait > until or self._book.is_refused:
                self._tell_waiting(wait)
                raise self._exhausted(wait)
            if wait > _LOOK and not told:
                self._tell_waiting(wait)
                told = True
            if wait <= _AHEAD and self._kind == "service":
                await self._prefetch()
                wait = self._wait()
            await self._clock.sleep(min(wait, _LOOK, wait - _AHEAD if wait > _AHEAD else wait))

    def _wait(self) -> float:
        """Seconds until the next session may be opened; an API transaction under way is let end before."""
        wait = self._book.opens_in(self._identity)
        old, now = self._lease, self._clock.boot()
        if wait <= 0 and old is not None and old.transactions and old.takes(now, within=True):
            return min(old.over - 1 - now, 1.0)
        return wait

    async def _prefetch(self) -> None:
        try:
            await self._auth.token(max_age=_MAX_AGE)
        except IdentityError:
            return  # whoever opens the session hears of it

    async def _open(self, lease: Lease) -> None:
        token = await self._fresh()
        key = session_key(self._kind, token)
        for other in [other for other in self._book.leases if other.fingerprint == key]:
            self._drop(other, "continued")  # one token is one session
        now = self._clock.boot()
        lease.take(token, now, self._clock.now())
        lease.used = lease.sure = now
        self._book.entered(lease)
        await self._note(lease)

    async def _fresh(self) -> AccessToken:
        """A token of which the session gets most; while the identity server is away, any that lives."""
        if self._kind != "service":
            return await self._auth.token()
        try:
            return await self._auth.token(max_age=_MAX_AGE)
        except IdentityError as error:
            if not error.retryable:
                raise
            return await self._auth.token()

    # -- what is written and told ----------------------------------------------------------------------------------

    def _promised(self, lease: Lease, until: float | None = None) -> Session:
        """The session as the ledger keeps it: used, and while nothing is proven opened, as late as promised."""
        ahead = copy.copy(lease)
        ahead.used = lease.promised if until is None else until
        return self._book.session(ahead)

    def _drop(self, lease: Lease, reason: str) -> None:
        lease.token = None
        session = self._book.session(lease)
        self._book.remove(lease, reason)
        self._store.submit(remove_sessions, session)

    def _exhausted(self, wait: float) -> LicenseExhaustedError:
        seconds = _LONGEST_UNKNOWN if wait == inf else wait + 1
        return LicenseExhaustedError(
            f"{self._identity} has no licence slot: {self._book.explanation(self._identity)}",
            hint=self._hint(),
            retry_after=timedelta(seconds=seconds),
        )

    def _hint(self) -> str:
        """What would have spared the wait."""
        own = [lease for lease in self._book.leases if lease.identity == self._identity]
        if self._book.is_refused:
            return _HINTS["full"]
        if self._given_up in own:
            return _HINTS["given up"]
        return _HINTS["lost"] if any(lease is not self._lease for lease in own) else _HINT

    def _tell_waiting(self, wait: float) -> None:
        self._emit(
            "license.waiting",
            instance=self._book.instance,
            identity=self._identity,
            wait_seconds=None if wait == inf else round(wait, 1),
            explanation=self._book.explanation(self._identity),
        )


def _nobodys(task: "asyncio.Task[T]") -> "asyncio.Task[T]":
    """A task whose error is not missed if every caller has gone away."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
