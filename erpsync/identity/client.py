"""The client of one identity at its token endpoint: where to ask, with which secret, and what came."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal
from urllib.parse import urlsplit

import httpx2

from erpsync.core.clock import Clock
from erpsync.core.errors import IdentityError, TokenEndpointError
from erpsync.core.event import Emit
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.core.run import utc_text
from erpsync.identity.answer import read_grant
from erpsync.identity.discovery import ServerMetadata
from erpsync.identity.endpoint import request_token
from erpsync.identity.exchange import Answer
from erpsync.identity.gate import ServerGates
from erpsync.identity.metadata import MetadataSource
from erpsync.identity.source import Fetched, SourceFacts

_MOST_SECRETS_TRIED = 4
_NOTABLE_SKEW = 30.0
_OTHER_SKEW = 5.0  # seconds between what was believed and what is seen; answers take time too


class TokenClient:
    """Makes token requests for one identity, by any grant; keeps no token.

    `metadata` is shared by all identities of an instance, `gates` by all there are. `secrets` reads the client
    secrets, or the private key, afresh, in order of preference, None for one that is missing, and is called in a
    thread. Oddities are told once each as `token.answer_doubted`.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        metadata: MetadataSource,
        secrets: Callable[[], Sequence[str | None]],
        client: httpx2.AsyncClient,
        gates: ServerGates,
        clock: Clock,
        emit: Emit,
        redactor: Redactor,
    ) -> None:
        self.identity = identity
        self.clock = clock
        self.redactor = redactor
        self._secrets = secrets
        self._client = client
        self._gates = gates
        self._emit = emit
        self._metadata = metadata
        self._requests = 0
        self._skew: float | None = None
        self._secret_index: int | None = None
        self._endpoint: str | None = None
        self._digest = ""
        self._doubts: dict[str, tuple[str, ...]] = {}
        self._told: set[str] = set()

    async def metadata(self) -> ServerMetadata:
        """What the server says about itself. Raises DiscoveryError."""
        server = await self._metadata.get()
        self._endpoint = server.token_endpoint
        host = urlsplit(server.token_endpoint).netloc
        elsewhere = host != urlsplit(server.issuer).netloc
        self._doubt("host", *([f"the token endpoint is on another host: {host}"] if elsewhere else ()))
        return server

    async def request(self, grant: str, **fields: str) -> Fetched:
        """A token by the `grant` (RFC 6749), whose own parameters are `fields`.

        The secret that worked last is read afresh; when it is refused, the next one not tried yet follows.

        Raises:
            DiscoveryError: the server's own description cannot be had.
            TokenEndpointError: it refused or failed.
            SecretUnavailableError: the secret cannot be read.
        """
        server = await self.metadata()
        self._doubt("grant", *_unlisted(server, grant))
        try:
            return await self._try_secrets(server, grant, fields)
        except TokenEndpointError as error:
            if error.status in (None, 404, 405):
                self._metadata.doubt()
            raise

    async def changed(self) -> bool:
        """Whether the secrets read now differ from those read last."""
        before = self._digest
        await self.secrets()
        return self._digest != before

    async def secrets(self) -> Sequence[str]:
        """The secrets as they are now. Raises SecretUnavailableError."""
        return [secret for _, secret in await self._numbered()]

    async def recognises(self, asked_with: str) -> bool:
        """Whether a token of this `basis` would be asked for now; the secret is in use then. Raises
        SecretUnavailableError."""
        for index, secret in await self._numbered():
            if basis(self.identity, secret) == asked_with:
                self._remember(index)
                return True
        return False

    async def _numbered(self) -> list[tuple[int, str]]:
        """The secrets that are there, each with its place in the configuration."""
        self._digest = ""
        read = await asyncio.to_thread(self._secrets) if self.identity.auth_method != "none" else [""]
        secrets = [(index, secret) for index, secret in enumerate(read) if secret is not None]
        self.redactor.learn(*(secret for _, secret in secrets))
        self._digest = digest(*(secret for _, secret in secrets))
        return secrets

    def skew(self, server: ServerMetadata) -> float:
        """The server's clock minus ours in seconds, by its last answer; 0 where it has never told its time."""
        return (server.skew if self._skew is None else self._skew) or 0.0

    def learn_tokens(self, *, refresh_token: str | None = None, id_token: str | None = None) -> None:
        """A person's tokens that came or are about to be sent: of each kind the newest are kept out of all text."""
        for kind, token in (("refresh token", refresh_token), ("id_token", id_token)):
            if token is not None:
                self.redactor.learn_passing(f"{kind} of {self.identity.name}", token)

    def facts(self) -> SourceFacts:
        """What it has seen."""
        warnings = tuple(doubt for doubts in self._doubts.values() for doubt in doubts)
        return SourceFacts(self._requests, self._skew, self._secret_index, self._endpoint, warnings)

    async def _try_secrets(self, server: ServerMetadata, grant: str, fields: Mapping[str, str]) -> Fetched:
        tried: set[str] = set()
        refused: TokenEndpointError | None = None
        while len(tried) < _MOST_SECRETS_TRIED:
            candidate = self._next_secret(await self._numbered(), tried)
            if candidate is None:
                break
            index, secret = candidate
            tried.add(secret)
            try:
                fetched = await self._at_their_time(server, secret, grant, fields)
            except TokenEndpointError as error:
                if not error.credentials:
                    raise
                refused = error
            else:
                self._remember(index)
                return fetched
        raise refused or IdentityError(
            f"identity {self.identity.name} has no client secret", hint="set `client_secret` of the identity"
        )

    def _next_secret(self, secrets: Sequence[tuple[int, str]], tried: set[str]) -> tuple[int, str] | None:
        first = self._secret_index or 0
        order = sorted(secrets, key=lambda item: (item[0] != first, item[0]))
        return next(((index, secret) for index, secret in order if secret not in tried), None)

    async def _at_their_time(
        self, server: ServerMetadata, secret: str, grant: str, fields: Mapping[str, str]
    ) -> Fetched:
        """A request; a second one where an assertion was refused that told the server's time wrongly."""
        believed = self.skew(server)
        try:
            return await self._request(server, secret, grant, fields)
        except TokenEndpointError as error:
            timeless = self.identity.auth_method != "private_key_jwt"
            if timeless or not error.credentials or abs(self.skew(server) - believed) < _OTHER_SKEW:
                raise
        return await self._request(server, secret, grant, fields)

    async def _request(
        self, server: ServerMetadata, secret: str, grant: str, fields: Mapping[str, str]
    ) -> Fetched:
        sent_at, sent_boot = self.clock.now(), self.clock.boot()

        async def send() -> Answer:
            nonlocal sent_at, sent_boot
            self._requests += 1
            sent_at, sent_boot = self.clock.now(), self.clock.boot()
            return await request_token(
                self._client,
                server,
                self.identity,
                secret,
                grant,
                fields,
                clock=self.clock,
                skew=self.skew(server),
            )

        before = self._requests
        outcome: Literal["succeeded", "rejected", "failed"] = "failed"
        try:
            answer = await self._gates.at(server.token_endpoint).send(send)
            self._note_skew(answer)
            theirs = sent_at.timestamp() + self.skew(server)
            granted = read_grant(answer, self.identity, self.redactor, grant=grant, sent=theirs)
            self.learn_tokens(refresh_token=granted.refresh_token, id_token=granted.id_token)
            outcome = "succeeded"
        except TokenEndpointError as error:
            outcome = "failed" if error.retryable else "rejected"
            raise
        finally:
            if self._requests > before:  # the gate may have let nothing out
                self._emit("token.requested", level="debug", identity=self.identity.name, outcome=outcome)
        self._doubt("answer", *granted.doubts)
        return Fetched(granted, sent_at, sent_boot, basis=basis(self.identity, secret))

    def _remember(self, index: int) -> None:
        if index != self._secret_index and self.identity.auth_method != "none":
            self._secret_index = index
            since = utc_text(self.clock.now())
            text = f"client secret number {index + 1} is in use since {since}; take out those before it"
            self._doubt("secret", *([text] if index else ()))

    def _note_skew(self, answer: Answer) -> None:
        self._skew = self._skew if answer.skew is None else answer.skew
        notable = self._skew is not None and abs(self._skew) > _NOTABLE_SKEW
        text = "the clock of the identity server and ours differ by more than 30 s"
        self._doubt("skew", *([text] if notable else ()))

    def _doubt(self, topic: str, *doubts: str) -> None:
        """Things that work and are not as they should be; what was said of the topic before is over."""
        self._doubts[topic] = doubts
        for doubt in doubts:
            if doubt not in self._told:
                self._told.add(doubt)
                self._emit("token.answer_doubted", level="warning", identity=self.identity.name, doubt=doubt)


def digest(*values: str) -> str:
    """Tells values apart and gives nothing away that is long enough to be a secret."""
    return hashlib.sha256("\0".join(values).encode("utf-8", "surrogatepass")).hexdigest()


def basis(identity: Identity, secret: str) -> str:
    """Tells with what a token was asked for: another client, scope, audience or secret gives another token."""
    asked = (identity.client_id, *identity.scope, "", identity.audience or "", *identity.resource, "")
    return digest(*asked, *(f"{key}={value}" for key, value in sorted(identity.extra.items())), "", secret)


def _unlisted(server: ServerMetadata, grant: str) -> list[str]:
    """Servers leave out what works, so this is no more than a doubt."""
    if not server.grants or grant in server.grants:
        return []
    return [f"the description of the identity server does not list the grant {grant}"]
