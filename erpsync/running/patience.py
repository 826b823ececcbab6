"""Writing what must be written, for as long as the state database may come back."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from erpsync.core.clock import Clock
from erpsync.core.errors import StoreError
from erpsync.core.run import Run
from erpsync.running.events import RunEvents
from erpsync.store.state import Store

PAUSE = 1.0  # seconds between two tries; doubled up to
_LONGEST_PAUSE = 30.0


class PatientWriter:
    """Tries again while the state refuses, for `patience`; None: for ever, as a daemon must."""

    def __init__(self, store: Store, clock: Clock, events: RunEvents, patience: timedelta | None) -> None:
        self._store = store
        self._clock = clock
        self._events = events
        self._patience = patience

    async def write(self, operation: Callable[..., Any], item: object, run: Run) -> Any:
        """The operation's answer, once it is durable: the end of a run is not lost lightly.

        Raises:
            StoreError: the state will not come back by itself or in time, or the run is not ours any more.
        """
        pause, waited = PAUSE, 0.0
        while True:
            try:
                return await self._store.write(operation, item)
            except StoreError as error:
                if not error.retryable:
                    raise
                self._events.unwritten(run, error)
                failed = error
            await self._clock.sleep(pause)
            waited += pause
            if self._patience is not None and waited >= self._patience.total_seconds():
                raise failed
            pause = min(2 * pause, _LONGEST_PAUSE)
