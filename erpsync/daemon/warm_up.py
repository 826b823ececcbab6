"""Identities made ready before their jobs are due, so that no run waits for a token; an idle one asks for nothing."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from erpsync.core.background import guarded
from erpsync.core.clock import Clock
from erpsync.core.job import Job
from erpsync.scheduling.engine import Engine

LOOK = timedelta(seconds=10)
AHEAD = timedelta(seconds=40)
"""How far a look sees: a token obtained then is young enough to open a session with when the job starts."""
_SPREAD = 5.0  # seconds: forty identities of one server do not ask at once


class WarmUp:
    """Calls `prepare` with the name of each identity whose jobs are about to start, once a start.

    `jobs` gives those of the moment.
    """

    def __init__(
        self,
        engine: Engine,
        jobs: Callable[[], Mapping[str, Job]],
        prepare: Callable[[str], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._jobs = jobs
        self._prepare = prepare
        self._clock = clock
        self._prepared: dict[str, datetime] = {}  # for which start
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look ahead until cancelled; then nothing of it is left."""
        try:
            while True:
                with guarded("the look at who is needed next"):
                    self._look()
                await self._clock.sleep(LOOK.total_seconds())
        finally:
            for task in self._tasks:
                task.cancel()

    def _look(self) -> None:
        now = self._clock.now()
        for job, start in self._engine.starting_within(AHEAD):
            identity = self._jobs()[job].identity
            if identity is None or self._prepared.get(identity, now) > now:
                continue
            self._prepared[identity] = start
            task = asyncio.create_task(self._ready(identity))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ready(self, identity: str) -> None:
        await self._clock.sleep(random.uniform(0, _SPREAD))  # noqa: S311 - a spread
        await self._prepare(identity)
