"""A person's tokens by refresh token (RFC 6749 section 6): one that rotates is never lost, and never used twice.

A server that rotates takes a refresh token once; whoever shows it again may lose the whole sign-in (RFC 9700 section
4.14). So all of it happens under the drawer's lock, which other processes respect: read what is stored, note the
attempt, ask, store the answer, and only then use it.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from erpsync.core.errors import LoginRequiredError, TokenEndpointError
from erpsync.identity.client import TokenClient
from erpsync.identity.sealed import Attempt, Drawer, StoredToken, fingerprint
from erpsync.identity.source import Fetched, Grant, SourceFacts

T = TypeVar("T")

_SAME_AGAIN_SECONDS = 10.0  # servers that forgive a repeated refresh token do so for about as long
_WORTH_SECONDS = 60.0  # of life that an access token must have to be taken over from somebody else
_LIFE_PUBLIC = timedelta(hours=24)
_LIFE_CONFIDENTIAL = timedelta(days=30)


class RefreshSource:
    """Fetches tokens for a person who has signed in, and keeps them itself: a `TokenSource` and its `Keeper`.

    Without `drawer` nobody can have signed in.
    """

    def __init__(self, client: TokenClient, drawer: Drawer | None) -> None:
        self._client = client
        self._drawer = drawer
        self._name = client.identity.name
        life = _LIFE_PUBLIC if client.identity.auth_method == "none" else _LIFE_CONFIDENTIAL
        self.keep_alive_after = life * (2 / 3)
        """Without a renewal for so long a refresh token is used, lest it ends (ERP.net: token-lifetime)."""
        self.is_unseen = True
        """Nobody has looked yet whether somebody is signed in."""
        self._refreshed_at: datetime | None = None  # as long as there is something to keep alive
        self._given: str | None = None  # the access token that the manager has from here
        self._signed_out = False
        # the token that was given is void: with the lock held nobody was signed in any more
        self._void = False
        self._unsaved: StoredToken | None = None  # came from the server, and the disk has refused it

    async def fetch(self, *, anew: bool = False) -> Fetched:
        """What another process has stored, if it is news and will do; else a token from the server, stored before it
        is used.

        Raises:
            LoginRequiredError: nobody has signed in, or the server does not take the refresh token any more.
            DiscoveryError, TokenEndpointError, SecretUnavailableError: as `TokenClient.request`.
            StoreUnavailableError: what came cannot be stored; it is stored and given next time.
        """
        drawer = self._required_drawer()
        async with drawer.lock():
            await self._save_unsaved(drawer)
            news = drawer.changed()
            stored = await self._looked(drawer)
            self._void = self._void or news
            news = news or stored.access_token != self._given
            if news and not anew and self._serves(stored):
                return self._take_over(stored)
            return await _to_its_end(self._renew(drawer, stored, self._refresh_token(stored)))

    async def recall(self) -> Fetched | None:
        """What is stored, while it lives or can be renewed."""
        stored = await self._looked(self._required_drawer())
        if not self._serves(stored):
            self._refresh_token(stored)
        return self._take_over(stored)

    async def keep(self, fetched: Fetched) -> None:
        """Nothing: what `fetch` gives is stored."""

    async def changed(self) -> bool:
        """Whether somebody has signed in or out, or the secrets are others than those read last."""
        return self.is_changed_elsewhere() or (not self._signed_out and await self._client.changed())

    def is_changed_elsewhere(self) -> bool:
        """Whether another process has written what is stored; cheap."""
        return self._drawer is not None and self._drawer.changed()

    def withdrawn(self) -> bool:
        """Whether another process has signed in, out or renewed since a token was given."""
        return self._void or self.is_changed_elsewhere()

    def has_nobody(self) -> bool:
        """Whether surely nobody is signed in; cheap."""
        return self._drawer is None or self._drawer.is_empty()

    def is_due(self) -> bool:
        """Whether the refresh token has to be used now, whoever needs a token."""
        since = self._refreshed_at
        return since is not None and self._client.clock.now() - since >= self.keep_alive_after

    def facts(self) -> SourceFacts:
        """What it has seen."""
        return self._client.facts()

    def _required_drawer(self) -> Drawer:
        self.is_unseen = False
        if self._drawer is None:
            raise LoginRequiredError(
                f"{self._name} is a person, and there is no seal_key to keep a sign-in with",
                hint=f"set seal_key in [daemon], then erpsync login {self._name}",
            )
        return self._drawer

    async def _looked(self, drawer: Drawer) -> StoredToken:
        """What is stored. Raises LoginRequiredError."""
        self._signed_out = False
        stored = await asyncio.to_thread(drawer.load)
        alive = stored is not None and stored.refresh_token and not stored.refused
        self._refreshed_at = stored.refreshed_at if stored and alive else None
        if stored is None:
            self._signed_out = self._void = True
            raise LoginRequiredError(f"nobody has signed in as {self._name}", hint=self._hint)
        return stored

    def _refresh_token(self, stored: StoredToken) -> str:
        """What to renew it with. Raises LoginRequiredError."""
        if stored.refresh_token is None:
            raise self._refused("it has given no refresh token")
        if stored.refused:
            raise self._refused(stored.refused)
        return stored.refresh_token

    def _serves(self, stored: StoredToken) -> bool:
        """Whether its access token lives long enough to be used."""
        left = stored.lifetime - self._age(stored)
        return left > min(_WORTH_SECONDS, stored.lifetime / 2)

    async def _renew(self, drawer: Drawer, stored: StoredToken, token: str) -> Fetched:
        clock = self._client.clock
        await self._client.metadata()  # nothing is noted while not even the address is known
        noted = replace(stored, attempt=Attempt(fingerprint(token), clock.now()))
        await asyncio.to_thread(drawer.save, noted)
        try:
            fetched = await self._ask(token)
        except TokenEndpointError as error:
            if error.error != "invalid_grant":
                raise
            if drawer.changed():  # a lock that did not hold, as on some network file systems
                raise TokenEndpointError(f"{self._name} was renewed elsewhere", retryable=True) from error
            why = _why(error, stored.attempt)
            await asyncio.to_thread(drawer.save, replace(stored, refused=why))
            self._refreshed_at = None
            raise self._refused(why) from error
        self._unsaved = _renewed(stored, fetched)
        await self._save_unsaved(drawer)
        self._given, self._refreshed_at, self._void = fetched.grant.access_token, fetched.sent_at, False
        return fetched

    async def _ask(self, token: str) -> Fetched:
        """The exchange; where the answer was lost the same refresh token is shown once more, at once."""
        clock = self._client.clock
        began = clock.boot()
        self._client.learn_tokens(refresh_token=token)
        try:
            return await self._client.request("refresh_token", refresh_token=token)
        except TokenEndpointError as error:
            lost = error.retryable and (error.status is None or error.status < 300)
            if not lost or clock.boot() - began > _SAME_AGAIN_SECONDS:
                raise
        return await self._client.request("refresh_token", refresh_token=token)

    async def _save_unsaved(self, drawer: Drawer) -> None:
        """Store what came from the server, unless somebody has signed in or out meanwhile."""
        token = self._unsaved
        if token is not None and not drawer.changed():
            await asyncio.to_thread(drawer.save, token)
        self._unsaved = None

    def _take_over(self, stored: StoredToken) -> Fetched:
        clock = self._client.clock
        self._given, self._void = stored.access_token, False
        self._client.learn_tokens(refresh_token=stored.refresh_token, id_token=stored.id_token)
        grant = Grant(stored.access_token, stored.lifetime, stored.scope)
        return Fetched(
            grant, stored.sent_at, clock.boot() - self._age(stored), basis=stored.basis, origin="stored"
        )

    def _age(self, stored: StoredToken) -> float:
        return max((self._client.clock.now() - stored.sent_at).total_seconds(), 0.0)

    def _refused(self, why: str) -> LoginRequiredError:
        self._signed_out = True
        return LoginRequiredError(
            f"{self._name} is not signed in any more: the identity server does not renew its tokens ({why})",
            hint=self._hint,
        )

    @property
    def _hint(self) -> str:
        return f"erpsync login {self._name}"


def _why(error: TokenEndpointError, before: Attempt | None) -> str:
    words = error.description or error.error
    return f"{words}; an attempt at {before.at:%Y-%m-%d %H:%M:%S} UTC had no answer" if before else words


def _renewed(stored: StoredToken, fetched: Fetched) -> StoredToken:
    """An answer without a refresh token, or without an id_token, leaves the one before in force."""
    grant = fetched.grant
    return replace(
        stored,
        access_token=grant.access_token,
        sent_at=fetched.sent_at,
        lifetime=grant.lifetime,
        scope=grant.scope,
        basis=fetched.basis,
        refresh_token=grant.refresh_token or stored.refresh_token,
        refreshed_at=fetched.sent_at,
        id_token=grant.id_token or stored.id_token,
        attempt=None,
        refused="",
    )


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which goes on when the caller is cancelled: a rotated token must not be lost. It is
    bounded by the time-outs of the exchange."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # it was nobody's any more
        raise
