"""Runs without a daemon: the same composition in this process, for as long as the runs take."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from erpsync.config.configuration import Configuration
from erpsync.control.listener import user_name
from erpsync.core.clock import SystemClock
from erpsync.core.event import Emit
from erpsync.core.redaction import Redactor
from erpsync.core.run import Run, State
from erpsync.daemon.compose import compose
from erpsync.daemon.controls import DaemonControls
from erpsync.daemon.process_exit import URGENT, Signals
from erpsync.running.loop_watch import LoopWatch
from erpsync.running.runner import Runner
from erpsync.store.installation import require_released

_LOOK = 0.2  # seconds between two looks at the progress

Watch = Callable[[Mapping[str, object]], object]
"""Hears of a run that goes on: its document, with `progress` {done, total} or None."""
Claim = Callable[[DaemonControls, str], Awaitable[Sequence[Run]]]
"""Claims the runs that are wanted, on behalf of somebody."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the runs ended. `refused` names identities whose credentials were; `signal` is what cut the runs short."""

    runs: Sequence[Run]
    refused: frozenset[str]
    signal: int | None


async def run_jobs(
    configuration: Configuration,
    jobs: Sequence[str],
    claim: Claim,
    *,
    redactor: Redactor,
    emit: Emit,
    watch: Watch,
) -> Ended:
    """Claim runs of these jobs and see each to its recorded end; the caller owns the state.

    What a dead owner left unfinished of these jobs is brought to its end first; other jobs' runs are closed where
    they were running, and wait for a daemon. SIGINT and SIGTERM cancel the runs; the second
    one leaves behind what does not end.
    """
    async with AsyncExitStack() as stack:
        composition = compose(configuration, redactor, SystemClock(), emit, alone=True)
        stack.push_async_callback(composition.close)
        stack.push_async_callback(composition.runner.stop)
        watch_loop = LoopWatch(emit)
        watch_loop.start()
        stack.callback(watch_loop.stop)
        await require_released(composition.store, composition.clock.now())
        controls = DaemonControls(composition)
        requested_by = user_name(os.getuid())
        await composition.engine.adopt_former()
        left = [run for run in await composition.runner.recover() if run.job in jobs]
        cancelling = _Cancelling(composition.runner, [run.id for run in left], requested_by)
        listening = asyncio.create_task(cancelling.listen(stack.enter_context(Signals())), name="signals")
        stack.callback(listening.cancel)
        composition.runner.offer(left)
        for run in left:
            await composition.runner.wait(run.id)
        runs = await claim(controls, requested_by) if cancelling.first is None else []
        cancelling.cancels(run.id for run in runs)
        watching = asyncio.create_task(_watch(controls, [run.id for run in runs], watch))
        stack.callback(watching.cancel)
        ended = [await composition.runner.wait(run.id) for run in runs]
        return Ended(ended, controls.refused(), cancelling.first)


class _Cancelling:
    """Cancels the runs at the first signal, and waits for nothing at the second."""

    def __init__(self, runner: Runner, run_ids: Sequence[str], requested_by: str) -> None:
        self.first: int | None = None
        self._runner = runner
        self._run_ids = run_ids
        self._requested_by = requested_by

    def cancels(self, run_ids: Iterable[str]) -> None:
        """From now on it is about these runs."""
        self._run_ids = list(run_ids)

    async def listen(self, signals: Signals) -> None:
        """To be cancelled when the runs have ended."""
        self.first = await signals.next()
        for run_id in self._run_ids:
            await self._runner.cancel(run_id, self._requested_by)
        await signals.next()
        await self._runner.stop(URGENT)


async def _watch(controls: DaemonControls, run_ids: Sequence[str], watch: Watch) -> None:
    while True:
        for run_id in run_ids:
            run, progress = await controls.find(run_id, 0)
            if run.state is not State.FINISHED:
                shown = None if progress is None else {"done": progress[0], "total": progress[1]}
                watch(run.document() | {"progress": shown})
        await asyncio.sleep(_LOOK)
