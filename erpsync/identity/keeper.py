"""A service's token kept over a restart: at ERP.net its session is still open, another would take a second slot."""

import asyncio
from datetime import timedelta

from erpsync.core.errors import StoreUnavailableError
from erpsync.core.event import Emit
from erpsync.identity.client import TokenClient
from erpsync.identity.sealed import Drawer, StoredToken
from erpsync.identity.source import Fetched, Grant

_WORTH = 60.0  # seconds of life: below, its successor would be asked for at once


class TokenKeeper:
    """Puts the token of one service identity into its drawer, and takes it out again. A `Keeper`."""

    def __init__(self, client: TokenClient, drawer: Drawer, emit: Emit) -> None:
        self._client = client
        self._drawer = drawer
        self._emit = emit

    async def recall(self) -> Fetched | None:
        """What the process before has left, if it lives and is what would be asked for now.

        Raises:
            SecretUnavailableError: whether it is, cannot be told.
        """
        token = await asyncio.to_thread(self._drawer.load)
        if token is None:
            return None
        clock = self._client.clock
        age = clock.now() - token.sent_at
        if age < timedelta(0) or token.lifetime - age.total_seconds() < min(_WORTH, token.lifetime / 10):
            return None
        if not await self._client.recognises(token.basis):
            return None
        grant = Grant(token.access_token, token.lifetime, token.scope)
        sent_boot = clock.boot() - age.total_seconds()
        return Fetched(grant, token.sent_at, sent_boot, basis=token.basis, origin="stored")

    async def keep(self, fetched: Fetched) -> None:
        """Durable when it returns. A disk that refuses costs the next process a session, and this one nothing."""
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
