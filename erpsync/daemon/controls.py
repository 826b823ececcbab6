"""What the daemon answers to commands, to Prometheus and to health checks."""

import asyncio
import heapq
import os
from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from erpsync.control.selection import ParkedJobError, UnknownRunError, find_job
from erpsync.core.errors import StoreError
from erpsync.core.run import Run, State, utc_text
from erpsync.daemon.compose import Composition
from erpsync.identity.status import IdentityStatus, TokenState
from erpsync.observe.metrics import Snapshot
from erpsync.store.ledger import find_run, unfinished_runs
from erpsync.version import __version__

_SOON = 10  # fire times that `status` shows


class DaemonControls:
    """The Controls of the control API, over one composition. `lag` is what the service measures."""

    def __init__(self, composition: Composition) -> None:
        self._house = composition
        self._started_at = composition.clock.now()
        self.lag = 0.0
        self.ready = False
        self._claims_fail = ""

    def status(self) -> dict[str, object]:
        """See the `status` command; instants are UTC text."""
        house = self._house
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": utc_text(self._started_at),
            "configuration": str(house.configuration.path.resolve()),
            "fingerprint": house.configuration.fingerprint,
            "state": str(house.configuration.daemon.state),
            "timezone": house.configuration.daemon.timezone,
            "ready": self.ready,
            "problems": self.problems(),
            "parked": [
                {"job": job, "problems": [problem.document() for problem in problems]}
                for job, problems in house.parked.items()
            ],
            "identities": self.identities(),
            "running": [self._with_progress(run) for run in house.runner.running()],
            "waiting": dict(self._waiting()),
            "next": [{"job": job, "at": utc_text(at)} for at, job in heapq.nsmallest(_SOON, self._fires())],
            "loop_lag_seconds": round(self.lag, 4),
        }

    def problems(self) -> list[str]:
        """What is not as it should be, one sentence each; empty on a quiet day."""
        parked = [
            f"job {job} is parked: {problem.message}"
            for job, problems in self._house.parked.items()
            for problem in problems
        ]
        rejected = [
            f"identity {status.identity} is refused: {status.last_error.message if status.last_error else ''}"
            for status in self._rejected()
        ]
        return [*self.unready(), *parked, *rejected]

    def unready(self) -> list[str]:
        """Why nothing could start now."""
        starting = [] if self.ready else ["the daemon is starting or stopping"]
        return starting + ([f"nothing can be claimed: {self._claims_fail}"] if self._claims_fail else [])

    def observe(self, event: str, fields: Mapping[str, object]) -> None:
        """Hear from the engine whether the state takes claims."""
        if event == "claim.failed":
            self._claims_fail = str(fields.get("error_message"))
        elif event == "claim.recovered":
            self._claims_fail = ""

    def identities(self) -> list[dict[str, object]]:
        """The identities that jobs have used since the start."""
        return [status.document() for status in self._house.connections.identities()]

    def refused(self) -> frozenset[str]:
        """The identities whose credentials the server refuses."""
        return frozenset(status.identity for status in self._rejected())

    def _rejected(self) -> list[IdentityStatus]:
        statuses = self._house.connections.identities()
        return [status for status in statuses if status.state is TokenState.REJECTED]

    async def claim(self, job: str, params: Mapping[str, object], requested_by: str) -> Run:
        """A run of a job because somebody asks. ParkedJobError where it cannot run as things are."""
        found = find_job(self._house.configuration.jobs, job)
        if found.name in self._house.parked:
            problem = self._house.parked[found.name][0]
            place = f" ({problem.file}:{problem.line})" if problem.file else ""
            raise ParkedJobError(f"job {found.name} is parked: {problem.message}{place}", hint=problem.help)
        return await self._house.engine.claim_manual(found.name, requested_by, params)

    async def find(self, run_id: str, wait: float) -> tuple[Run, tuple[int, int | None] | None]:
        """The run after its end or after `wait` seconds, and its progress."""
        run = await self._house.store.read(find_run, run_id)
        if run is None:
            raise UnknownRunError(f'there is no run "{run_id}"', hint="erpsync runs")
        if wait and run.state is not State.FINISHED:
            try:
                run = await asyncio.wait_for(self._house.runner.wait(run.id), wait)
            except TimeoutError:
                run = await self._house.store.read(find_run, run.id) or run
        return run, self._house.runner.progress(run.id)

    async def cancel(self, run_id: str, requested_by: str) -> bool:
        """End a run that has not ended."""
        return await self._house.runner.cancel(run_id, requested_by)

    def snapshot(self) -> Snapshot:
        """The gauges of this moment."""
        running = Counter(run.instance or "" for run in self._house.runner.running())
        expiries = {
            status.identity: status.expires_at
            for status in self._house.connections.identities()
            if status.expires_at is not None
        }
        fires = {job: at for at, job in self._fires()}
        return Snapshot(running, self._waiting(), fires, expiries, self.lag)

    def _with_progress(self, run: Run) -> dict[str, object]:
        progress = self._house.runner.progress(run.id)
        shown = None if progress is None else {"done": progress[0], "total": progress[1]}
        return run.document() | {"progress": shown}

    def _waiting(self) -> Counter[str]:
        try:
            runs = self._house.store.read_now(unfinished_runs)
        except (
            StoreError
        ):  # what is wrong with the state is told elsewhere, and is no reason to say nothing at all
            return Counter()
        return Counter(run.waiting_for or "pending" for run in runs if run.state is not State.RUNNING)

    def _fires(self) -> list[tuple[datetime, str]]:
        house = self._house
        jobs = (name for name in house.configuration.jobs if name not in house.parked)
        return [(at, job) for job in jobs if (at := house.engine.next_fire(job)) is not None]
