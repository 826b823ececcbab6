"""People stay signed in: refresh tokens are used before they end; who signs in or out elsewhere is noticed."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from erpsync.core.background import guarded
from erpsync.core.clock import Clock
from erpsync.core.errors import ErpsyncError
from erpsync.identity.manager import TokenManager
from erpsync.identity.refresh import RefreshSource

LOOK_SECONDS = 1.0
"""Between two looks; one costs no more than asking the file system about a file."""
_NOBODY_SECONDS = 10.0  # where no identity is a person's: a reload may bring one


async def keep_signed_in(
    people: Callable[[], Sequence[tuple[TokenManager, RefreshSource]]], clock: Clock
) -> None:
    """Look after everybody there is until cancelled; what goes wrong the manager tells."""
    while True:
        everybody = people()
        await asyncio.gather(*(_look_after(manager, source) for manager, source in everybody))
        await clock.sleep(LOOK_SECONDS if everybody else _NOBODY_SECONDS)


async def look_for(people: Sequence[tuple[TokenManager, RefreshSource]]) -> None:
    """Find out who is signed in; no server is asked."""
    await asyncio.gather(*(manager.recall() for manager, _ in people))


async def _look_after(manager: TokenManager, source: RefreshSource) -> None:
    with guarded("looking after who is signed in"), suppress(ErpsyncError):
        if source.is_unseen:
            await manager.recall()
        elif source.is_changed_elsewhere():
            await manager.token()
        elif source.is_due():
            await manager.token(max_age=source.keep_alive_after)
