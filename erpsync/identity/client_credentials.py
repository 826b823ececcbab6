"""The token source for Client Credentials (RFC 6749 section 4.4)."""

import asyncio
from datetime import timedelta

from erpsync.core.errors import StoreUnavailableError
from erpsync.core.event import Emit
from erpsync.identity.client import TokenClient, basis
from erpsync.identity.sealed import Drawer, StoredToken
from erpsync.identity.source import Fetched, Grant, SourceFacts

_WORTH = 60.0  # seconds of life: below, its successor would be asked for at once


class ClientCredentialsSource:
    """Fetches one token at a time for one identity. A `TokenSource`.

    With a `drawer` the token of the process before is used again, as long as it lives and is what would be asked
    for now: at ERP.net its session is still open, and another one would take another licence slot.
    """

    def __init__(self, client: TokenClient, drawer: Drawer | None, emit: Emit) -> None:
        self._client = client
        self._drawer = drawer
        self._emit = emit
        self._looked = drawer is None

    async def fetch(self) -> Fetched:
        """The stored token, once; then tokens from the server, stored before they are used.

        Raises:
            DiscoveryError, TokenEndpointError, SecretUnavailableError: as `TokenClient.request`.
        """
        if not self._looked:
            stored = await self._stored()
            self._looked = True
            if stored is not None:
                return stored
        scope = " ".join(self._client.identity.scope)
        fetched = await self._client.request("client_credentials", **({"scope": scope} if scope else {}))
        await self._store(fetched)
        return fetched

    async def changed(self) -> bool:
        """Whether the secrets read now differ from those read last."""
        return await self._client.changed()

    def facts(self) -> SourceFacts:
        """What it has seen."""
        return self._client.facts()

    async def _stored(self) -> Fetched | None:
        """What the process before has left, if it can still be used."""
        assert self._drawer is not None
        token = await asyncio.to_thread(self._drawer.load)
        if token is None:
            return None
        clock = self._client.clock
        age = clock.now() - token.sent_at
        if age < timedelta(0) or token.lifetime - age.total_seconds() < min(_WORTH, token.lifetime / 10):
            return None
        secrets = await self._client.secrets()
        if token.basis not in {basis(self._client.identity, secret) for secret in secrets}:
            return None
        grant = Grant(token.access_token, token.lifetime, token.scope)
        sent_boot = clock.boot() - age.total_seconds()
        return Fetched(grant, token.sent_at, sent_boot, basis=token.basis, origin="stored")

    async def _store(self, fetched: Fetched) -> None:
        """A disk that refuses costs the next process a session, and this one nothing."""
        if self._drawer is None:
            return
        grant = fetched.grant
        token = StoredToken(
            grant.access_token, fetched.sent_at, grant.lifetime, grant.scope, basis=fetched.basis
        )
        try:
            await asyncio.to_thread(self._drawer.save, token)
        except StoreUnavailableError as error:
            self._emit(
                "token.store_failed",
                level="warning",
                identity=self._client.identity.name,
                error_message=error.message,
                hint=error.hint,
            )
