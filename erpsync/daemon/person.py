"""Signing people in and out in this process, beside a daemon that may be running: both respect the drawer's lock."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from erpsync.config.configuration import Configuration
from erpsync.config.seal import seal_keys, seal_problems
from erpsync.core.clock import SystemClock
from erpsync.core.errors import ConfigError, NotAPersonError, SignInError
from erpsync.core.event import Emit
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.daemon.compose import sealed_store
from erpsync.daemon.connections import Connections, InstanceSite
from erpsync.daemon.place import resolver_of
from erpsync.identity.authorization import SignIn, begin, code_in, redeem, sign_out
from erpsync.identity.claims import session_of
from erpsync.identity.client import TokenClient
from erpsync.identity.discovery import ServerMetadata
from erpsync.identity.loopback import ANY_PORT, loopback
from erpsync.identity.sealed import Drawer, StoredToken

PATIENCE = 300.0
"""Seconds that somebody may take to sign in."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person's identity with all that is needed to sign in and out."""

    identity: Identity
    _tokens: TokenClient
    _site: InstanceSite
    _drawer: Drawer

    async def sign_in_here(self, show: Callable[[str], None]) -> tuple[StoredToken, tuple[str, ...]]:
        """By a browser on this machine; `show` is told the address to open. An earlier sign-in is ended if it has
        another session; with what could not be done of that, in words.

        Raises:
            SignInError: refused, or nobody signed in within five minutes (then retryable).
            DiscoveryError, TokenEndpointError, SecretUnavailableError, StoreUnavailableError: as they say.
        """
        server = await self._prepared()
        async with loopback(self.identity.redirect_uri or ANY_PORT) as listener:
            sign_in = self._begin(server, listener.redirect_uri)
            show(sign_in.url)
            try:
                async with asyncio.timeout(PATIENCE):
                    came = await listener.query()
            except TimeoutError as error:
                raise _nobody_came() from error
        return await self._finish(server, sign_in, came)

    async def sign_in_elsewhere(
        self, show: Callable[[str], None], ask: Callable[[], Awaitable[str]]
    ) -> tuple[StoredToken, tuple[str, ...]]:
        """By a browser anywhere: `ask` gives the address at which it ended. Raises as `sign_in_here`."""
        server = await self._prepared()
        sign_in = self._begin(server, self.identity.redirect_uri or ANY_PORT)
        show(sign_in.url)
        try:
            async with asyncio.timeout(PATIENCE):
                came = await ask()
        except TimeoutError as error:
            raise _nobody_came() from error
        return await self._finish(server, sign_in, came)

    async def sign_out(self) -> tuple[str, ...] | None:
        """Nothing is stored any more; None where nothing was, else what the server could not be told.

        Raises:
            StoreUnavailableError: the stored token cannot be taken away.
        """
        async with self._drawer.lock():
            stored = await asyncio.to_thread(self._drawer.load)
            await asyncio.to_thread(self._drawer.clear)
        return None if stored is None else await self._end(stored)

    async def _prepared(self) -> ServerMetadata:
        """What may fail does so before somebody takes the trouble; a refusal may repeat the secret, known by then."""
        await self._tokens.secrets()
        return await self._tokens.metadata()

    def _begin(self, server: ServerMetadata, redirect_uri: str) -> SignIn:
        consent = self._site.instance.kind != "erpnet"  # ERP.net knows no such prompt, and needs none
        return begin(self.identity, server, redirect_uri, consent=consent)

    async def _finish(
        self, server: ServerMetadata, sign_in: SignIn, came: str
    ) -> tuple[StoredToken, tuple[str, ...]]:
        code = code_in(came, sign_in, server)
        stored = await redeem(self._tokens, self._site.client, sign_in, code)
        undone: tuple[str, ...] = ()
        async with self._drawer.lock():
            before = await asyncio.to_thread(self._drawer.load)
            if before is not None and _is_another(before, stored):
                await asyncio.to_thread(self._drawer.clear)  # from here on nobody uses what is being ended
                undone = await self._end(before)
            await asyncio.to_thread(self._drawer.save, stored)
        return stored, undone

    async def _end(self, stored: StoredToken) -> tuple[str, ...]:
        """End a sign-in that is in the drawer no more: else its session holds a licence slot for another while."""
        done = await sign_out(self._tokens, self._site.client, stored)
        if done.session:
            await asyncio.to_thread(self._drawer.note_ended, done.session)
        return done.undone


def _is_another(before: StoredToken, now: StoredToken) -> bool:
    """Whether two sign-ins are two sessions, as far as their tokens tell."""
    old, new = (session_of(each.access_token) or session_of(each.id_token or "") for each in (before, now))
    return old != new or before.subject != now.subject


@asynccontextmanager
async def person(
    configuration: Configuration, redactor: Redactor, identity: Identity, emit: Emit
) -> AsyncIterator[Person]:
    """The identity, ready to sign in and out.

    Raises:
        NotAPersonError: it is a service's.
        ConfigError: there is no seal key to keep a sign-in with.
    """
    if identity.grant != "authorization_code":
        raise NotAPersonError(
            f'{identity.name} is no person: its grant is "{identity.grant}"',
            hint='people have grant = "authorization_code"; a service needs no login and has no logout',
        )
    resolver, clock = resolver_of(configuration, redactor), SystemClock()
    store = sealed_store(configuration, resolver, emit)
    if store is None:
        problems = [*seal_keys(configuration, resolver)[1], *seal_problems(configuration, None)]
        raise ConfigError([problem for problem in problems if problem.severity == "error"])
    connections = Connections(configuration, resolver, clock, emit, redactor, store)
    try:
        site = connections.site(identity.instance)
        drawer = connections.drawer(identity)
        assert drawer is not None  # there is a store
        yield Person(identity, connections.token_client(identity, site), site, drawer)
    finally:
        await connections.close()


def _nobody_came() -> SignInError:
    return SignInError(
        f"nobody has signed in within {PATIENCE / 60:.0f} minutes",
        hint="begin anew; a page that speaks of redirect_uri wants the way back to be registered with the client",
        retryable=True,
    )
