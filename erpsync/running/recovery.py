"""What a start finds: runs that a dead owner left running, and runs that have not begun."""

import asyncio
from collections.abc import Mapping

from erpsync.core.clock import Clock
from erpsync.core.errors import PluginLoadError
from erpsync.core.event import Emit
from erpsync.core.job import Job
from erpsync.core.run import Run, State
from erpsync.running.preparation import Preparation
from erpsync.running.verdict import lost
from erpsync.store.ledger import end_attempts, unfinished_runs
from erpsync.store.state import Store


async def recover(
    store: Store, jobs: Mapping[str, Job], preparation: Preparation, clock: Clock, emit: Emit
) -> list[Run]:
    """Close every attempt whose owner died; the runs as they now are, finished ones included.

    Only the owner of the state may call this, before it starts anything itself.
    """
    runs = await store.read(unfinished_runs)
    return list(
        await asyncio.gather(
            *(
                _recover(run, store, jobs, preparation, clock, emit)
                if run.state is State.RUNNING
                else _as_is(run)
                for run in runs
            )
        )
    )


async def _recover(
    run: Run, store: Store, jobs: Mapping[str, Job], preparation: Preparation, clock: Clock, emit: Emit
) -> Run:
    job = jobs.get(run.job)
    repeatable = job is not None and await asyncio.to_thread(_may_repeat, job, preparation)
    after = await store.write(end_attempts, lost(job, run, repeatable=repeatable, now=clock.now()))
    emit(
        "run.recovered",
        level="warning",
        run_id=run.id,
        job=run.job,
        instance=run.instance,
        identity=run.identity,
        attempt=run.attempts,
        losses=after.losses,
        owner=run.owner,
        state=after.state.value,
        outcome=after.outcome.value if after.outcome else None,
    )
    return after


async def _as_is(run: Run) -> Run:
    return run


def _may_repeat(job: Job, preparation: Preparation) -> bool:
    try:
        return preparation.repeatable(job)
    except PluginLoadError:
        return (
            True  # it cannot run twice while it cannot be loaded: its next attempt says what is wrong with it
        )
