"""What people may see of identities and ask of them, over the connections of one process; never a token."""

from collections.abc import Iterable, Mapping

from erpsync.config.configuration import Configuration
from erpsync.config.secrets import SecretResolver
from erpsync.control.selection import find_named
from erpsync.core.clock import Clock
from erpsync.core.event import Emit
from erpsync.core.redaction import Redactor
from erpsync.core.token import AccessToken
from erpsync.daemon.connections import Connections
from erpsync.daemon.doctor import Doctor
from erpsync.identity.claims import shown_claims

Document = dict[str, object]


class IdentityDesk:
    """Documents for `identities`, `token` and `doctor`. Secrets and tokens are in none of them."""

    def __init__(
        self,
        configuration: Configuration,
        connections: Connections,
        resolver: SecretResolver,
        *,
        clock: Clock,
        emit: Emit,
        redactor: Redactor,
    ) -> None:
        self._identities = configuration.identities
        self._instances = configuration.instances
        self._connections = connections
        self._redactor = redactor
        self._doctor = Doctor(configuration, connections, resolver, clock=clock, emit=emit, redactor=redactor)

    def identities(self, names: Iterable[str] | None = None) -> list[Document]:
        """How identities stand, by name: all that are configured, used or not, where none are named."""
        return [self._document(name) for name in sorted(self._identities if names is None else names)]

    def identity(self, name: str) -> Document:
        """One identity, and what its token says of itself. Raises UnknownNameError."""
        name = find_named(self._identities, name, "identity").name
        return self._with_claims(name, self._connections.held(name))

    async def fetch(self, name: str) -> Document:
        """The same after a real token request; `fetched` is about what came of it.

        Raises:
            UnknownNameError, IdentityError, SecretUnavailableError.
        """
        name = find_named(self._identities, name, "identity").name
        token = await self._connections.probe(name)
        fetched = {"fingerprint": token.fingerprint, "scope": [*token.scope]}
        return self._with_claims(name, token) | {"fetched": fetched}

    async def examine(self, instance: str, *, api: bool) -> list[Document]:
        """The findings at one instance, see `Doctor`. Raises UnknownNameError."""
        name = find_named(self._instances, instance, "instance").name
        return [finding.document() for finding in await self._doctor.examine(name, api=api)]

    def licenses(self) -> list[Document]:
        """How the licence slots of the instances in use stand, by name."""
        return []

    def _document(self, name: str) -> Document:
        return self._connections.status(name).document()

    def _with_claims(self, name: str, token: AccessToken | None) -> Document:
        claims: Mapping[str, object] = shown_claims(token.value) if token else {}
        return self._document(name) | {"claims": self._cleaned(claims)}

    def _cleaned(self, value: object) -> object:
        """A server may put anything into its claims, a secret too."""
        if isinstance(value, str):
            return self._redactor(value)
        if isinstance(value, Mapping):
            return {self._redactor(str(key)): self._cleaned(inner) for key, inner in value.items()}
        return [self._cleaned(inner) for inner in value] if isinstance(value, list) else value
