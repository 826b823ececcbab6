"""What a start finds: runs that a dead owner left running, and runs that have not begun."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from erpsync.core.clock import Clock
from erpsync.core.errors import PluginLoadError
from erpsync.core.job import Job
from erpsync.core.run import Run, State
from erpsync.running.endings import Ended, Endings
from erpsync.running.events import RunEvents
from erpsync.running.preparation import Preparation
from erpsync.running.verdict import lost
from erpsync.store.history import last_attempt_ends, unfinished_runs
from erpsync.store.ledger import Wait, set_waiting
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
    ends, now = await store.read(last_attempt_ends), clock.now()
    waiting = [run for run in runs if run.state is not State.RUNNING]
    drawn = [_as_drawn(run, jobs.get(run.job), ends.get(run.id), now) for run in waiting]
    for before, run in zip(waiting, drawn, strict=True):
        if run is not before:
            store.submit(set_waiting, Wait(run.id, run.waiting_for, run.next_attempt_at, run.reason))
    return [*again, *drawn]


def _as_drawn(run: Run, job: Job | None, ended: datetime | None, now: datetime) -> Run:
    """A run that waits no longer than was drawn when its last attempt ended, by a clock that was ahead."""
    at = run.next_attempt_at
    if job is None or at is None or ended is None or ended <= now:
        return run
    has_been_mended = at <= ended  # by a start before this one
    latest = min(at, now + job.retry.max_backoff) if has_been_mended else now + (at - ended)
    return replace(run, next_attempt_at=latest)


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
