"""What people may see of identities and ask of them, over the connections of one process; never a token."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from erpsync.config.configuration import Configuration
from erpsync.config.secrets import SecretResolver
from erpsync.control.selection import find_named
from erpsync.core.clock import Clock
from erpsync.core.event import Emit
from erpsync.core.redaction import Redactor
from erpsync.core.run import utc_text
from erpsync.core.session import Session, SlotUse
from erpsync.core.token import AccessToken
from erpsync.daemon.connections import Connections
from erpsync.daemon.doctor import Doctor
from erpsync.identity.claims import shown_claims
from erpsync.identity.status import IdentityStatus, TokenState

Document = dict[str, object]


class IdentityDesk:
    """Documents for `identities`, `token` and `doctor`. Secrets and tokens are in none of them."""

    def __init__(
        self,
        configuration: Configuration,
        connections: Connections,
        resolver: SecretResolver,
        *,
        slots: Callable[[], Sequence[SlotUse]],
        clock: Clock,
        emit: Emit,
        redactor: Redactor,
    ) -> None:
        """`slots` tells how the licence slots of the instances stand."""
        self.slots = slots
        self._parts = (resolver, clock, emit)
        self._connections = connections
        self._redactor = redactor
        self.adopt(configuration)

    def adopt(self, configuration: Configuration) -> None:
        """Speak of another configuration from now on."""
        resolver, clock, emit = self._parts
        connections, redactor = self._connections, self._redactor
        self._identities = configuration.identities
        self._instances = configuration.instances
        self._doctor = Doctor(configuration, connections, resolver, clock=clock, emit=emit, redactor=redactor)

    def identities(self, names: Iterable[str] | None = None) -> list[Document]:
        """How identities stand, by name: all that are configured, used or not, where none are named."""
        sessions = self._sessions()
        chosen = sorted(self._identities if names is None else names)
        return [self._document(name, sessions) for name in chosen]

    def identity(self, name: str) -> Document:
        """One identity, and what its token says of itself. Raises UnknownNameError."""
        name = find_named(self._identities, name, "identity").name
        return self._with_claims(name, self._connections.held(name))

    async def recall(self, name: str) -> None:
        """Take up the token that a process before left, so that it is shown. Raises UnknownNameError."""
        await self._connections.recall(find_named(self._identities, name, "identity").name)

    async def fetch(self, name: str) -> Document:
        """The same after a real token request; `fetched` is about what came of it.

        Raises:
            UnknownNameError, IdentityError, SecretUnavailableError.
        """
        name = find_named(self._identities, name, "identity").name
        token = await self._connections.probe(name)
        fetched = {"fingerprint": token.fingerprint, "scope": self._cleaned([*token.scope])}
        return self._with_claims(name, token) | {"fetched": fetched}

    async def examine(self, instance: str, *, api: bool) -> list[Document]:
        """The findings at one instance, see `Doctor`. Raises UnknownNameError."""
        name = find_named(self._instances, instance, "instance").name
        return [finding.document() for finding in await self._doctor.examine(name, api=api)]

    def licenses(self) -> list[Document]:
        """How the licence slots of each ERP.net instance stand."""
        return [_license(use) for use in self.slots()]

    def _document(self, name: str, sessions: Mapping[str, Session]) -> Document:
        """With what the server says cleaned: it may repeat what it was sent."""
        document, session = self._connections.status(name).document(), sessions.get(name)
        said = {
            key: self._cleaned(document[key]) for key in ("scope", "warnings", "last_error") if document[key]
        }
        return document | said | {"session": session and _session(session)}

    def _sessions(self) -> dict[str, Session]:
        """The session of each identity that has one, of several the newest."""
        found = [session for use in self.slots() for session in use.sessions]
        return {session.identity: session for session in sorted(found, key=lambda each: each.opened_at)}

    def _with_claims(self, name: str, token: AccessToken | None) -> Document:
        claims: Mapping[str, object] = shown_claims(token.value) if token else {}
        return self._document(name, self._sessions()) | {"claims": self._cleaned(claims)}

    def _cleaned(self, value: object) -> object:
        """A server may put anything into its claims, a secret too."""
        if isinstance(value, str):
            return self._redactor.shortened(value)
        if isinstance(value, Mapping):
            return {self._redactor(str(key)): self._cleaned(inner) for key, inner in value.items()}
        return [self._cleaned(inner) for inner in value] if isinstance(value, list) else value


def identity_trouble(status: IdentityStatus) -> str:
    """What is not as it should be with an identity, one sentence for people; empty where nothing is."""
    error, name = status.last_error, status.identity
    if error is None:
        return ""
    why = "; ".join(filter(None, (error.message, error.hint)))
    if status.state is TokenState.LOGIN_REQUIRED:
        return f"identity {name} waits for somebody to sign in: {why}"
    if status.state is TokenState.REJECTED:
        return f"identity {name} is refused: {why}"
    if status.fingerprint is None:
        return f"identity {name} has no token: {why}"
    end = f" until {status.expires_at:%Y-%m-%d %H:%M:%S} UTC" if status.expires_at else ""
    if status.grant == "reference_token":
        return f"identity {name} goes on with the token it has{end}, which cannot be read again: {why}"
    return f"identity {name} cannot renew its token, which serves{end}: {why}"


def _session(session: Session) -> Document:
    return {
        "opened_at": utc_text(session.opened_at),
        "used_at": utc_text(session.used_at),
        "ends_at": utc_text(session.ends_at),
    }


def _license(use: SlotUse) -> Document:
    return {
        "instance": use.instance,
        "slots": use.slots,
        "in_use": use.in_use,
        "sessions": [{"identity": each.identity} | _session(each) for each in use.sessions],
        "reserved": [*use.reserved],
        "waiting": [*use.waiting],
    }
