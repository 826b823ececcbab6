"""The way of each job to its instance: pools of connections, addresses, one token manager an identity."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx2

from erpsync.config.configuration import Configuration
from erpsync.config.secrets import SecretResolver
from erpsync.core.background import guarded
from erpsync.core.clock import Clock
from erpsync.core.errors import ErpsyncError, SecretUnavailableError
from erpsync.core.event import Emit
from erpsync.core.instance import Identity, Instance
from erpsync.core.job import Job
from erpsync.core.redaction import Redactor
from erpsync.core.secret import SecretReference
from erpsync.core.session import SlotUse
from erpsync.core.token import AccessToken
from erpsync.erpnet.gate import SessionGate
from erpsync.erpnet.pace import Pace
from erpsync.erpnet.proxy import direct_or_proxied
from erpsync.erpnet.sites import SiteDirectory
from erpsync.erpnet.slots import SlotBook
from erpsync.erpnet.transport import AuthorizedTransport, Origins
from erpsync.identity.client import TokenClient
from erpsync.identity.client_credentials import ClientCredentialsSource
from erpsync.identity.gate import ServerGates
from erpsync.identity.keeper import TokenKeeper
from erpsync.identity.manager import TokenManager
from erpsync.identity.metadata import MetadataSource
from erpsync.identity.reference import ReferenceTokenSource, end_warnings
from erpsync.identity.refresh import RefreshSource
from erpsync.identity.sealed import Drawer, SealedStore
from erpsync.identity.source import Keeper, TokenSource
from erpsync.identity.status import IdentityStatus, TokenState
from erpsync.running.connection import Connection
from erpsync.store.sessions import read_sessions
from erpsync.store.state import Store

_NOWHERE = Instance("", "oidc")  # for jobs without an instance: any address, never a token


class InstanceSite:
    """One instance: connections with verified TLS, its addresses, its pace."""

    def __init__(self, instance: Instance, trust: ssl.SSLContext, clock: Clock, memory: Path) -> None:
        """`memory` is a folder for what identity servers say about themselves."""
        self.instance = instance
        self.pace = Pace(instance.rate, clock) if instance.rate else None
        reading, connecting = instance.read_timeout.total_seconds(), instance.connect_timeout.total_seconds()
        self.timeout = httpx2.Timeout(reading, connect=connecting)
        # Runs are limited, not requests: a pool that waits for a free connection would look like a dead server.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
        self.base = direct_or_proxied(instance.proxy, trust, limits)
        self.client = httpx2.AsyncClient(transport=self.base, timeout=self.timeout)
        self._directory = SiteDirectory(self.client, instance.url, clock=clock) if instance.url else None
        self.metadata = MetadataSource(self.client, self.issuer, clock=clock, memory=memory)

    async def issuer(self) -> str:
        """The identity server. Raises DiscoveryError."""
        if self.instance.issuer is not None:
            return self.instance.issuer
        assert self._directory is not None  # the configuration asks for one of the two
        return await self._directory.identity_url()

    def doubt(self) -> None:
        """Nobody listens where requests go: the addresses are asked for again."""
        if self._directory is not None:
            self._directory.doubt()

    @property
    def root(self) -> Callable[[], Awaitable[str]] | None:
        """Gives the root of the Domain API; None for a server that is not ERP.net."""
        return self._directory.odata_root if self._directory and self.instance.kind == "erpnet" else None

    @property
    def origins(self) -> Origins:
        """The only origins that get tokens of this instance."""
        if self._directory is not None and self.instance.kind == "erpnet":
            return self._directory.origins
        return frozenset(self.instance.api)


class Connections:
    """Makes each connection when its first job needs it, and keeps it. To be used in one event loop.

    `books` holds the licence slots of each ERP.net instance. Without `store` there is no ledger of sessions, and
    nothing may call an API that opens some.
    """

    def __init__(
        self,
        configuration: Configuration,
        resolver: SecretResolver,
        clock: Clock,
        emit: Emit,
        redactor: Redactor,
        sealed: SealedStore | None = None,
        store: Store | None = None,
    ) -> None:
        self._configuration = configuration
        self._resolver = resolver
        self._clock = clock
        self._emit = emit
        self._redactor = redactor
        self._store = store
        self._sealed = sealed
        self.books: dict[str, SlotBook] = {}
        self._sessions: dict[str, SessionGate] = {}
        self._retired_gates: list[SessionGate] = []
        self._trust: dict[Path | None, ssl.SSLContext] = {}
        self._sites: dict[str, InstanceSite] = {}
        self._gates = ServerGates(clock)
        self._people: dict[str, RefreshSource] = {}
        self._by_hand: dict[str, ReferenceTokenSource] = {}
        self._tokens: dict[str, TokenManager] = {}
        self._retired: list[TokenManager] = []
        self._retired_sites: list[InstanceSite] = []
        self._connections: dict[tuple[str | None, str | None], Connection] = {}
        self._drawers: dict[str, Drawer | None] = {}  # by identity, for a look at what was ended
        self._open_books()

    def of_job(self, job: Job) -> Connection:
        """The connection that all jobs of this identity at this instance share."""
        return self.between(job.instance, job.identity)

    def between(self, instance: str | None, identity: str | None) -> Connection:
        """The way of an identity to an instance."""
        key = (instance, identity)
        if key not in self._connections:
            self._connections[key] = self._connection(instance, identity)
        return self._connections[key]

    def identities(self) -> list[IdentityStatus]:
        """How each identity in use stands, by name."""
        return [self._tokens[name].status() for name in sorted(self._tokens)]

    def in_use(self) -> list[str]:
        """The names of the identities that somebody has used or looked after, the process before included."""
        return sorted(self._tokens)

    def status(self, name: str) -> IdentityStatus:
        """How one identity stands, used or not."""
        manager = self._tokens.get(name)
        if manager is not None:
            return manager.status()
        of = self._configuration.identities[name]
        return IdentityStatus(
            name,
            TokenState.ABSENT,
            of.instance,
            of.grant,
            asked_scope=of.scope,
            expires_at=of.token_expires,
            survives_seconds=None if of.grant == "reference_token" else 0.0,
            warnings=end_warnings(of, self._clock.now()),
        )

    def held(self, identity: str) -> AccessToken | None:
        """The token of an identity that serves now."""
        manager = self._tokens.get(identity)
        return manager.held if manager is not None else None

    async def prepare(self, identity: str) -> None:
        """Have a token ready for a run that is about to start. Never raises."""
        site = self.site(self._configuration.identities[identity].instance)
        await self._auth(identity, site).prepare()

    async def recall(self, identity: str) -> None:
        """Take up the token that a process before left, without asking for one."""
        await self._manager_of(identity).recall()

    async def recall_services(self) -> None:
        """Take up what services left that the process before used, so that they are seen before their next use."""
        services = [
            name
            for name, identity in self._configuration.identities.items()
            if identity.grant == "client_credentials" and self._has_left(identity)
        ]
        await asyncio.gather(*(self._recall_service(name) for name in services))

    async def _recall_service(self, name: str) -> None:
        with guarded("recalling the token of a service"), suppress(ErpsyncError):
            await self.recall(name)

    def _has_left(self, identity: Identity) -> bool:
        drawer = self.drawer(identity)
        return drawer is not None and not drawer.is_empty()

    async def probe(self, identity: str) -> AccessToken:
        """A token by a real request, see `TokenManager.probe`. Raises IdentityError, SecretUnavailableError."""
        return await self._manager_of(identity).probe()

    def adopt(self, configuration: Configuration) -> None:
        """Go on with another configuration: what changed is made anew when a job needs it, and nothing else is.

        What runs keeps the old ways, which end with the process. A service that still asks for the same tokens keeps
        the one it has, and by that its session, however it shows from now on who it is.
        """
        before, self._configuration = self._configuration, configuration
        self._drawers.clear()
        self._open_books()
        changed = {
            name for name in self._sites if before.instances.get(name) != configuration.instances.get(name)
        } - {_NOWHERE.name}
        moved = {name for name in changed if not self._follow(name, before)}
        others = {
            name
            for name in self._tokens
            if before.identities[name] != configuration.identities.get(name)
            or before.identities[name].instance in moved
        }
        others = {name for name in others if not self._goes_on(name, before)}
        self._retired += [self._tokens.pop(name) for name in others]
        self._retired_gates += [self._sessions.pop(name) for name in others if name in self._sessions]
        self._connections = {
            key: connection
            for key, connection in self._connections.items()
            if key[0] not in changed and key[1] not in others
        }

    def _follow(self, name: str, before: Configuration) -> bool:
        """Whether the connections to a changed instance can stay; else they are retired."""
        after, site = self._configuration.instances.get(name), self._sites[name]
        if after is None or _wiring(before.instances[name]) != _wiring(after):
            self._retired_sites.append(self._sites.pop(name))
            return False
        if after.rate != site.instance.rate:
            site.pace = Pace(after.rate, self._clock) if after.rate else None
        site.instance = after
        return True

    def _goes_on(self, name: str, before: Configuration) -> bool:
        """Whether the token of a changed identity is good still; then only where the next one comes from changes."""
        was, identity = before.identities[name], self._configuration.identities.get(name)
        if identity is None or identity.grant != "client_credentials" or _asking(was) != _asking(identity):
            return False
        if _server(before.instances[was.instance]) != _server(self._configuration.instances[was.instance]):
            return False
        source, keeper = self._source(identity, self.site(identity.instance))
        self._tokens[name].change_source(identity, source, keeper)
        return True

    def people(self) -> list[tuple[TokenManager, RefreshSource]]:
        """Everybody who may have signed in, whether a job uses the identity or not."""
        names = [
            name
            for name, identity in self._configuration.identities.items()
            if identity.grant == "authorization_code"
        ]
        return [(self._manager_of(name), self._people[name]) for name in names]

    def has_nobody(self, job: Job) -> bool:
        """Whether a job's identity is a person who has to sign in first."""
        identity = self._configuration.identities.get(job.identity or "")
        if identity is None or identity.grant != "authorization_code":
            return False
        manager = self._manager_of(identity.name)
        return self._people[identity.name].has_nobody() or manager.status().state is TokenState.LOGIN_REQUIRED

    def by_hand(self) -> list[ReferenceTokenSource]:
        """The reference tokens of which the end is known, whether a job uses them or not."""
        names = [name for name, identity in self._configuration.identities.items() if identity.token_expires]
        for name in names:
            self._manager_of(name)
        return [self._by_hand[name] for name in names]

    def slots(self) -> list[SlotUse]:
        """How the licence slots of each ERP.net instance stand, by name."""
        return [self.books[name].use() for name in sorted(self.books)]

    async def close(self) -> None:
        """End renewals under way and close all connections."""
        await asyncio.gather(*(gate.close() for gate in (*self._sessions.values(), *self._retired_gates)))
        await asyncio.gather(*(manager.close() for manager in (*self._tokens.values(), *self._retired)))
        sites = (*self._sites.values(), *self._retired_sites)
        await asyncio.gather(*(site.metadata.close() for site in sites))
        await asyncio.gather(*(site.client.aclose() for site in sites))

    def _connection(self, name: str | None, identity: str | None) -> Connection:
        site = self.site(name)
        instance = site.instance
        transport = AuthorizedTransport(
            base=site.base,
            auth=self._auth(identity, site) if identity else None,
            origins=site.origins,
            access=instance.access,
            rate=site.pace,
            clock=self._clock,
            emit=self._emit,
            instance=instance.name,
            doubt=site.doubt,
        )
        outliving = granted = None
        if identity:
            granted = partial(_granted, self._manager(identity, site))
            if instance.kind == "oidc":  # at ERP.net tokens change with sessions, not with runs
                outliving = partial(_outliving, self._manager(identity, site))
        return Connection(transport, site.root, identity, name, site.timeout, outliving, granted)

    def site(self, name: str | None) -> InstanceSite:
        """The instance of this name; None is nowhere in particular."""
        instance = self._configuration.instances[name] if name else _NOWHERE
        if instance.name not in self._sites:
            trust, memory = self._trusted(instance.ca_file), self._configuration.daemon.data / "servers"
            self._sites[instance.name] = InstanceSite(instance, trust, self._clock, memory)
        return self._sites[instance.name]

    def _open_books(self) -> None:
        """A book of licence slots for each ERP.net instance, with the sessions that a former life left open."""
        left = None
        for name, instance in self._configuration.instances.items():
            if instance.kind != "erpnet" or self._store is None:
                continue
            if name not in self.books:
                left = self._store.read_now(read_sessions) if left is None else left
                self.books[name] = SlotBook(
                    name, instance.license_slots, self._clock, self._emit, self._is_ended
                )
                self.books[name].load(session for session in left if session.instance == name)
            self.books[name].slots = instance.license_slots

    def _is_ended(self, identity: str, fingerprint: str) -> bool:
        """Whether a person has signed out of this session, and the server has ended it."""
        if identity not in self._drawers:
            found = self._configuration.identities.get(identity)
            self._drawers[identity] = self.drawer(found) if found else None
        drawer = self._drawers[identity]
        return drawer is not None and fingerprint in drawer.ended()

    def _auth(self, name: str, site: InstanceSite) -> TokenManager | SessionGate:
        """What lets calls pass: at an ERP.net instance a gate, for there they open sessions."""
        manager, book = self._manager(name, site), self.books.get(site.instance.name)
        if book is None or self._store is None:
            return manager
        if name not in self._sessions:
            grant = self._configuration.identities[name].grant
            self._sessions[name] = SessionGate(
                name, grant, manager, book, store=self._store, clock=self._clock, emit=self._emit
            )
        return self._sessions[name]

    def _manager_of(self, identity: str) -> TokenManager:
        return self._manager(identity, self.site(self._configuration.identities[identity].instance))

    def _manager(self, name: str, site: InstanceSite) -> TokenManager:
        if name not in self._tokens:
            self._tokens[name] = self._new_manager(self._configuration.identities[name], site)
        return self._tokens[name]

    def _new_manager(self, identity: Identity, site: InstanceSite) -> TokenManager:
        source, keeper = self._source(identity, site)
        return TokenManager(
            identity,
            source,
            clock=self._clock,
            emit=self._emit,
            redactor=self._redactor,
            renewal="late" if site.instance.kind == "erpnet" else "early",
            keeper=keeper,
        )

    def _source(self, identity: Identity, site: InstanceSite) -> tuple[TokenSource, Keeper | None]:
        """Where its tokens come from, and what carries them over a restart."""
        drawer = self.drawer(identity)
        if identity.grant == "reference_token":

            def read() -> list[str]:
                return [self._resolver.resolve(each) for each in identity.secrets]

            reference = ReferenceTokenSource(
                identity, read=read, clock=self._clock, emit=self._emit, redactor=self._redactor
            )
            self._by_hand[identity.name] = reference
            return reference, None
        client = self.token_client(identity, site)
        if identity.grant == "authorization_code":
            person = self._people[identity.name] = RefreshSource(client, drawer)
            return person, person
        return ClientCredentialsSource(client), TokenKeeper(client, drawer, self._emit) if drawer else None

    def token_client(self, identity: Identity, site: InstanceSite) -> TokenClient:
        """What makes token requests for the identity."""
        return TokenClient(
            identity,
            metadata=site.metadata,
            secrets=self._secrets(identity),
            client=site.client,
            gates=self._gates,
            clock=self._clock,
            emit=self._emit,
            redactor=self._redactor,
        )

    def _secrets(self, identity: Identity) -> Callable[[], list[str | None]]:
        return partial(_resolve_all, self._resolver, identity.secrets)

    def drawer(self, identity: Identity) -> Drawer | None:
        """Where tokens of this identity are kept; None where none are."""
        instance = self._configuration.instances[identity.instance]
        server = instance.issuer or instance.url or ""
        return self._sealed.drawer(identity, server) if self._sealed else None

    def _trusted(self, ca_file: Path | None) -> ssl.SSLContext:
        """Certificates take milliseconds to read: once for all instances that trust the same."""
        if ca_file not in self._trust:
            context = httpx2.create_ssl_context()
            if ca_file is not None:
                context.load_verify_locations(ca_file)
            self._trust[ca_file] = context
        return self._trust[ca_file]


def _wiring(instance: Instance) -> Instance:
    """What connections are built from: without what others read from the instance when they need it."""
    return replace(
        instance,
        tags=frozenset(),
        timezone=None,
        license_slots=1,
        max_runs=None,
        access="full",
        rate=None,
        vars={},
    )


def _server(instance: Instance) -> tuple[object, ...]:
    return instance.kind, instance.url, instance.issuer, instance.api


def _asking(identity: Identity) -> Identity:
    """What tokens an identity asks for: without what it shows to get them."""
    shown = Identity(identity.name, identity.instance)
    ways = ("client_secret", "auth_method", "basic_encoding", "private_key", "key_id", "largest_token")
    return replace(identity, **{name: getattr(shown, name) for name in ways})


async def _granted(manager: TokenManager) -> tuple[str, ...] | None:
    token = manager.held or await manager.token()
    return token.scope or None


async def _outliving(manager: TokenManager, lasting: timedelta) -> None:
    await manager.token(min_valid=lasting)


def _resolve_all(resolver: SecretResolver, references: tuple[SecretReference, ...]) -> list[str | None]:
    """The secrets, at least one, None for those missing: while one is replaced by another, either may be."""
    values: list[str | None] = []
    missing = None
    for reference in references:
        try:
            values.append(resolver.resolve(reference))
        except SecretUnavailableError as error:
            missing = missing or error
            values.append(None)
    if missing is not None and not any(values):
        raise missing
    return values
