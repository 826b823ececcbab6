"""What a start finds: runs that a dead owner left running, and runs that have not begun."""

import asyncio
from collections.abc import Callable, Mapping

from erpsync.core.clock import Clock
from erpsync.core.errors import PluginLoadError
from erpsync.core.job import Job
from erpsync.core.run import Run, State
from erpsync.running.endings import Ended, Endings
from erpsync.running.events import RunEvents
from erpsync.running.preparation import Preparation
from erpsync.running.verdict import lost
from erpsync.store.ledger import unfinished_runs
from erpsync.store.state import Store


async def recover(
    store: Store,
    jobs: Mapping[str, Job],
    preparation: Preparation,
    clock: Clock,
    events: RunEvents,
    endings: Endings,
    *,
    owner: str,
    conclude: Callable[[Ended], object],
) -> list[Run]:
    """Close every attempt whose owner died; the unfinished runs that nobody has begun, the closed ones first.

    Whoever holds the state's lock is `owner`: the attempts of all others are those of the dead. `conclude` hears of
    the runs that ended by that.
    """
    runs = await store.read(unfinished_runs)
    begun = [run for run in runs if run.state is State.RUNNING and run.owner != owner]
    closed = await asyncio.gather(
        *(_recover(run, store, jobs, preparation, clock, events, endings, conclude) for run in begun)
    )
    again = [run for run in closed if run.state is not State.FINISHED]
    return [*again, *(run for run in runs if run.state is not State.RUNNING)]


async def _recover(
    run: Run,
    store: Store,
    jobs: Mapping[str, Job],
    preparation: Preparation,
    clock: Clock,
    events: RunEvents,
    endings: Endings,
    conclude: Callable[[Ended], object],
) -> Run:
    job = jobs.get(run.job)
    repeatable = job is not None and await asyncio.to_thread(_may_repeat, job, preparation)
    ended = await store.write(endings.end, lost(job, run, repeatable=repeatable, now=clock.now()))
    events.recovered(run, ended.run)
    if ended.run.state is State.FINISHED:
        conclude(ended)
    return ended.run


def _may_repeat(job: Job, preparation: Preparation) -> bool:
    try:
        return preparation.repeatable(job)
    except PluginLoadError:
        return True  # it cannot run twice while it cannot be loaded; its next attempt says what is wrong
