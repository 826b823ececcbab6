"""The token source for Client Credentials (RFC 6749 section 4.4): where to ask, with which secret, and what came."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import httpx2

from erpsync.core.clock import Clock
from erpsync.core.errors import IdentityError, TokenEndpointError
from erpsync.core.event import Emit
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.identity.answer import read_grant
from erpsync.identity.discovery import MetadataSource
from erpsync.identity.endpoint import request_token
from erpsync.identity.exchange import Answer
from erpsync.identity.source import Fetched, SourceFacts

_MOST_SECRETS_TRIED = 4
_NOTABLE_SKEW = 30.0


class ClientCredentialsSource:
    """Fetches one token at a time for one identity; keeps no token. A `TokenSource`.

    `issuer` yields the issuer's URL (and may raise DiscoveryError); `secrets` reads the client secrets afresh, in
    order of preference, and is called in a thread; `gate` bounds the token requests at one server. Oddities of the
    server are told once each as `token.answer_doubted`.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        issuer: Callable[[], Awaitable[str]],
        secrets: Callable[[], Sequence[str]],
        client: httpx2.AsyncClient,
        gate: asyncio.Semaphore,
        clock: Clock,
        emit: Emit,
        redactor: Redactor,
    ) -> None:
        self._requests = 0
        self._skew: float | None = None
        self._secret_index: int | None = None
        self._endpoint: str | None = None
        self._identity = identity
        self._secrets = secrets
        self._client = client
        self._gate = gate
        self._clock = clock
        self._emit = emit
        self._redactor = redactor
        self._metadata = MetadataSource(client, issuer, clock=clock)
        self._digest = ""
        self._told: set[str] = set()

    async def fetch(self) -> Fetched:
        """A token from the server.

        Raises:
            DiscoveryError: the server's own description cannot be had.
            TokenEndpointError: it refused or failed.
            SecretUnavailableError: the secret cannot be read.
        """
        metadata = await self._metadata.get()
        self._endpoint = metadata.token_endpoint
        host = urlsplit(metadata.token_endpoint).netloc
        if host != urlsplit(metadata.issuer).netloc:
            self._doubt(f"the token endpoint is on another host: {host}")
        try:
            return await self._try_secrets(metadata.token_endpoint)
        except TokenEndpointError as error:
            if error.status in (None, 404, 405):
                self._metadata.doubt()
            raise

    async def changed(self) -> bool:
        """Whether the secrets read now differ from those read last."""
        before = self._digest
        await self._read_secrets()
        return self._digest != before

    def facts(self) -> SourceFacts:
        """What it has seen."""
        return SourceFacts(self._requests, self._skew, self._secret_index, self._endpoint)

    async def _try_secrets(self, url: str) -> Fetched:
        """The secret that worked last, read afresh; when it is refused, read again and try one not tried yet."""
        tried: set[str] = set()
        refused: TokenEndpointError | None = None
        while len(tried) < _MOST_SECRETS_TRIED:
            candidate = self._next_secret(await self._read_secrets(), tried)
            if candidate is None:
                break
            index, secret = candidate
            tried.add(secret)
            try:
                fetched = await self._request(url, secret)
            except TokenEndpointError as error:
                if not error.credentials:
                    raise
                refused = error
            else:
                self._remember(index)
                return fetched
        raise refused or IdentityError(
            f"identity {self._identity.name} has no client secret", hint="set `client_secret` of the identity"
        )

    def _next_secret(self, secrets: Sequence[str], tried: set[str]) -> tuple[int, str] | None:
        first = self._secret_index or 0
        order = sorted(enumerate(secrets), key=lambda item: (item[0] != first, item[0]))
        return next(((index, secret) for index, secret in order if secret not in tried), None)

    async def _read_secrets(self) -> Sequence[str]:
        self._digest = ""
        secrets = await asyncio.to_thread(self._secrets)
        self._redactor.learn(*secrets)
        self._digest = hashlib.sha256("\0".join(secrets).encode()).hexdigest()
        return secrets

    async def _request(self, url: str, secret: str) -> Fetched:
        async with self._gate:
            self._requests += 1
            sent_at, sent_boot = self._clock.now(), self._clock.boot()
            answer = await request_token(self._client, url, self._identity, secret, clock=self._clock)
        self._note_skew(answer)
        grant = read_grant(answer, self._identity, self._redactor)
        for doubt in grant.doubts:
            self._doubt(doubt)
        return Fetched(grant, sent_at, sent_boot)

    def _remember(self, index: int) -> None:
        if index > 0 and index != self._secret_index:
            self._doubt(f"client secret number {index + 1} is in use; those before it are refused")
        self._secret_index = index

    def _note_skew(self, answer: Answer) -> None:
        self._skew = answer.skew
        if answer.skew is not None and abs(answer.skew) > _NOTABLE_SKEW:
            self._doubt("the clock of the identity server and ours differ by more than 30 s")

    def _doubt(self, doubt: str) -> None:
        """Something that works and is not as it should be."""
        if doubt not in self._told:
            self._told.add(doubt)
            self._emit("token.answer_doubted", level="warning", identity=self._identity.name, doubt=doubt)
