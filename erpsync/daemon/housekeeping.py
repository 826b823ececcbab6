"""Once an hour: a look at the whole state, forgetting, as [daemon] retention says, and another generation."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from erpsync.config.configuration import Retention
from erpsync.core.background import guarded
from erpsync.core.clock import Clock
from erpsync.core.errors import StoreError
from erpsync.core.event import Emit
from erpsync.store.dead_letters import DeadLetters, open_letters
from erpsync.store.installation import renew_generation
from erpsync.store.retention import BATCH, Forget, forget_runs, forgotten
from erpsync.store.run_log import RunLog
from erpsync.store.state import Store

_FIRST = 60.0  # seconds after the start, when what was missed has begun
_EVERY = 3600.0
_BREATH = 0.5  # seconds between two transactions of it


async def keep_house(
    retention: Callable[[], Retention], store: Store, logs: RunLog, data: Path, clock: Clock, emit: Emit
) -> None:
    """Forget once an hour, for ever; what the state refuses is left for the next time."""
    await clock.sleep(_FIRST)
    while True:
        with guarded("housekeeping"):
            await tidy(retention(), store, logs, data, clock, emit)
        await clock.sleep(_EVERY)


async def tidy(
    retention: Retention, store: Store, logs: RunLog, data: Path, clock: Clock, emit: Emit
) -> None:
    """Forget what is old now, in transactions so small that no claim waits long; dead letters and artifacts go with
    their runs."""
    now = clock.now()
    runs = 0
    try:
        await store.look_through()  # nothing is forgotten of a state that is damaged
        letters = DeadLetters(data / "dead")
        left = await asyncio.to_thread(letters.run_ids)
        open_ = await store.read(open_letters, left)
        spare = frozenset(run_id for run_ids in open_.values() for run_id in run_ids)
        while number := await store.write(forget_runs, Forget(now - retention.runs, spare)):
            runs += number
            if number < BATCH:
                break
            await clock.sleep(_BREATH)
        await _remove_files(retention, store, letters, left, data / "artifacts", now)
        await renew_generation(store)
    except (StoreError, OSError) as error:
        emit("retention.failed", level="warning", error_message=str(error), hint=getattr(error, "hint", ""))
    files = await asyncio.to_thread(logs.forget, now - retention.logs)
    if runs or files:
        emit("retention.applied", runs=runs, logs=files)


async def _remove_files(
    retention: Retention,
    store: Store,
    letters: DeadLetters,
    left: Sequence[str],
    artifacts: Path,
    now: datetime,
) -> None:
    """Of runs that the ledger has forgotten."""
    kept = await asyncio.to_thread(lambda: [path.name for path in artifacts.glob("*")])
    gone = {*await store.read(forgotten, [*left, *kept], now - retention.runs)}
    await asyncio.to_thread(letters.remove, gone.intersection(left))
    for run_id in gone.intersection(kept):
        await asyncio.to_thread(shutil.rmtree, artifacts / run_id, ignore_errors=True)
