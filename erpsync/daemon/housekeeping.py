"""Once an hour: forgetting, as [daemon] retention says, and another generation for the state."""

import asyncio
from collections.abc import Callable

from erpsync.config.configuration import Retention
from erpsync.core.background import guarded
from erpsync.core.clock import Clock
from erpsync.core.errors import StoreError
from erpsync.core.event import Emit
from erpsync.store.installation import renew_generation
from erpsync.store.retention import BATCH, forget_runs
from erpsync.store.run_log import RunLog
from erpsync.store.state import Store

_FIRST = 60.0  # seconds after the start, when what was missed has begun
_EVERY = 3600.0
_BREATH = 0.5  # seconds between two transactions of it


async def keep_house(
    retention: Callable[[], Retention], store: Store, logs: RunLog, clock: Clock, emit: Emit
) -> None:
    """Forget once an hour, for ever; what the state refuses is left for the next time."""
    await clock.sleep(_FIRST)
    while True:
        with guarded("housekeeping"):
            await tidy(retention(), store, logs, clock, emit)
        await clock.sleep(_EVERY)


async def tidy(retention: Retention, store: Store, logs: RunLog, clock: Clock, emit: Emit) -> None:
    """Forget what is old now, in transactions so small that no claim waits long."""
    now = clock.now()
    runs = 0
    try:
        while forgotten := await store.write(forget_runs, now - retention.runs):
            runs += forgotten
            if forgotten < BATCH:
                break
            await clock.sleep(_BREATH)
        await renew_generation(store)
    except StoreError as error:
        emit("retention.failed", level="warning", error_message=error.message, hint=error.hint)
    files = await asyncio.to_thread(logs.forget, now - retention.logs)
    if runs or files:
        emit("retention.applied", runs=runs, logs=files)
