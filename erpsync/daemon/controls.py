"""What the daemon answers to commands, to Prometheus and to health checks."""

import asyncio
import heapq
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from erpsync.config.mask import texts_in
from erpsync.control.selection import find_job
from erpsync.core.errors import (
    HeldError,
    ParkedJobError,
    RunRefusedError,
    StoppingError,
    StoreError,
    UnknownRunError,
)
from erpsync.core.job import Job
from erpsync.core.run import Run, State, utc_text
from erpsync.daemon.compose import Composition
from erpsync.daemon.cursors import reset_targets
from erpsync.daemon.desk import identity_trouble
from erpsync.daemon.overdue import Overdue, due_tables, overdue
from erpsync.daemon.reload import Reload
from erpsync.daemon.rerun import MOST_SLICES, Window, backfill_name, require_repeat, slices
from erpsync.identity.status import TokenState
from erpsync.observe.metrics import Snapshot, is_success
from erpsync.scheduling.engine import LEFT_BEHIND
from erpsync.store.cursors import reset_cursors
from erpsync.store.dead_letters import DeadLetters, open_letters, taken_up
from erpsync.store.history import find_run, unfinished_runs
from erpsync.store.installation import Hold, release
from erpsync.store.pauses import Pause
from erpsync.version import __version__

_SOON = 10  # fire times that `status` shows


class DaemonControls:
    """The Controls of the control API, over one composition. `lag` is what the service measures."""

    def __init__(self, composition: Composition, reload: Reload | None = None) -> None:
        """Without `reload` the configuration stays."""
        self._house = composition
        self._redactor = composition.resolver.redactor
        self._reload = reload
        self._started_at = composition.clock.now()
        self.lag = 0.0
        self.ready = False
        self.stopping = False
        self.faults: list[str] = []  # what only a restart heals
        self.held: Hold | None = None
        self._releasing = asyncio.Lock()
        self._claims_fail = ""
        self._learn_jobs()
        self._successes: dict[str, datetime] = {}
        self._told_overdue: dict[str, datetime] = {}

    def _learn_jobs(self) -> None:
        self._due_tables = due_tables(self._house.configuration.jobs.values())
        self._tables = [table for table in self._due_tables.values() if table.job.due_by is not None]

    def status(self) -> dict[str, object]:
        """See the `status` command; instants are UTC text."""
        composition = self._house
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": utc_text(self._started_at),
            "configuration": str(composition.configuration.path.resolve()),
            "fingerprint": composition.configuration.fingerprint,
            "accepted_at": utc_text(self._reload.accepted.since) if self._reload else None,
            "refused": [problem.document() for problem in self._reload.refused] if self._reload else [],
            "restart": list(self._reload.restart) if self._reload else [],
            "plugins": composition.catalog.imported,
            "state": str(composition.configuration.daemon.state),
            "timezone": composition.configuration.daemon.timezone,
            "ready": self.ready,
            "held": {"since": utc_text(self.held.since), "reason": self.held.reason} if self.held else None,
            "problems": self.problems(),
            "parked": [
                {"job": job, "problems": [problem.document() for problem in problems]}
                for job, problems in composition.parked.items()
            ],
            "identities": composition.desk.identities(composition.connections.in_use()),
            "licenses": composition.desk.licenses(),
            "running": [self._with_progress(run) for run in composition.runner.running()],
            "waiting": dict(self._waiting()),
            "overdue": [each.document() for each in self.overdue()],
            "paused": [pause_document(pause) for pause in self._pauses()],
            "next": [{"job": job, "at": utc_text(at)} for at, job in heapq.nsmallest(_SOON, self._fires())],
            "loop_lag_seconds": round(self.lag, 4),
        }

    def problems(self) -> list[str]:
        """What is not as it should be, one sentence each; empty on a quiet day."""
        stale = self._stale()
        parked = [
            f"job {job} is parked: {problem.message}"
            for job, problems in self._house.parked.items()
            for problem in problems
        ]
        troubled = [trouble for trouble in self._troubles().values() if trouble]
        late = [
            f"job {each.job} is overdue: no success by {utc_text(each.due_at)}" for each in self.overdue()
        ]
        left = [
            f"job {name} has not taken over what the state holds of {former}: it knows {name} already; {LEFT_BEHIND}"
            for former, name in self._house.engine.left_behind.items()
        ]
        return [*self.unready(), *self.faults, *stale, *parked, *left, *troubled, *late]

    def _troubles(self) -> dict[str, str]:
        """Of each identity in use what is wrong with it. That nobody signs in whom no job needs is all right."""
        needed = {job.identity for job in self._house.configuration.jobs.values() if job.enabled}
        return {
            each.identity: identity_trouble(each)
            for each in self._house.connections.identities()
            if each.grant != "authorization_code" or each.identity in needed
        }

    def _stale(self) -> list[str]:
        """How what runs differs from what the files say."""
        if self._reload is None:
            return []
        first = next((each for each in self._reload.refused if each.severity == "error"), None)
        refused = (
            [f"the configuration files are refused, an older one runs: {first.message}"] if first else []
        )
        waiting = ", ".join(self._reload.restart)
        return refused + ([f"a restart is needed for: {waiting}"] if waiting else [])

    async def reload(self, requested_by: str) -> dict[str, object]:
        """Take the changed files over; the plan that was carried out. ConfigError, StoreError."""
        if self._reload is None:
            raise RuntimeError("there is nothing to reload here")
        if self.stopping:
            raise StoppingError("the daemon is stopping", hint="its next start takes the files as they are")
        if self.held is not None:
            raise HeldError(f"the state is held: {self.held.reason}", hint="erpsync resume --all")
        plan = await self._reload(requested_by)
        self._learn_jobs()
        return plan.document()

    def unready(self) -> list[str]:
        """Why nothing could start now."""
        starting = [] if self.ready else ["the daemon is starting or stopping"]
        if self.held is not None:
            starting.append(f"the state is held: {self.held.reason}; erpsync resume --all lets it go on here")
        return starting + ([f"nothing can be claimed: {self._claims_fail}"] if self._claims_fail else [])

    def overdue(self) -> list[Overdue]:
        """The jobs that had no success by their `due_by`."""
        now = self._house.clock.now()
        found = (
            overdue(table, self._successes.get(table.job.name), self._started_at, now, self._due_tables)
            for table in self._tables
        )
        return [each for each in found if each is not None]

    def news_overdue(self) -> list[Overdue]:
        """Those of `overdue` that were not told of since they were due last."""
        fresh = [each for each in self.overdue() if self._told_overdue.get(each.job) != each.due_at]
        self._told_overdue |= {each.job: each.due_at for each in fresh}
        return fresh

    def restore_success(self, job: str, at: datetime) -> None:
        """Take the last success of a job from the ledger."""
        self._successes[job] = at

    def observe(self, event: str, fields: Mapping[str, object]) -> None:
        """Hear from the engine whether the state takes claims, and which jobs succeed."""
        if event == "run.finished" and is_success(fields):
            self._successes[str(fields.get("job"))] = self._house.clock.now()
        elif event == "claim.failed":
            self._claims_fail = str(fields.get("error_message"))
        elif event == "claim.recovered":
            self._claims_fail = ""

    def refused(self) -> frozenset[str]:
        """The identities whose credentials the server refuses."""
        statuses = self._house.connections.identities()
        return frozenset(status.identity for status in statuses if status.state is TokenState.REJECTED)

    async def claim(
        self, jobs: Sequence[str], params: Mapping[str, object], requested_by: str, wish: str | None = None
    ) -> list[Run]:
        """A run of each job because somebody asks. ParkedJobError where one cannot run: then none is claimed."""
        names = [self._runnable(job).name for job in jobs]
        if any(map(self._redactor.holds, texts_in(params))):
            raise RunRefusedError(
                "a parameter is a secret, and parameters are kept in the state",
                hint="let the job's settings refer to it",
            )
        claims = [
            self._house.engine.claim_manual(name, requested_by, params, wish=wish)
            for name in dict.fromkeys(names)
        ]
        return await asyncio.gather(*claims)

    async def retry(self, run_id: str, force: bool, requested_by: str) -> Run:
        """The run that does a finished one again, with its params. RunRefusedError where it should not be.

        Where that was for dead letters, those that are left of it: its own, and what it was given and settled not.
        """
        run, _ = await self.find(run_id, 0)
        require_repeat(run, force=force)
        found, params = self._runnable(run.job), dict(run.params)
        if given := taken_up(run):
            left = [each for each in await self._open_letters(found) if each in (*given, run.id)]
            if not left:
                message = f"no dead letters are left of run {run.id} of {run.job}"
                raise RunRefusedError(message, hint=f"those of other runs: erpsync dead {run.job} --retry")
            params["dead"] = left
        return await self._house.engine.claim_manual(found.name, requested_by, params, retry_of=run.id)

    async def retry_dead(self, job: str, requested_by: str) -> Run:
        """A run of a job that is given all its dead letters. RunRefusedError where there is none, or no use."""
        found = self._runnable(job)
        left = await self._open_letters(found)
        if not left:
            raise RunRefusedError(f"job {found.name} has no dead letters", hint=f"erpsync runs {found.name}")
        return await self._house.engine.claim_manual(found.name, requested_by, {"dead": left})

    async def _open_letters(self, found: Job) -> list[str]:
        """The runs of a job whose dead letters wait. RunRefusedError where its plugin takes none back."""
        plugin = await asyncio.to_thread(self._house.catalog.find, found.plugin)
        if not plugin.takes_dead:
            hint = f"see to the rows, then: erpsync run {found.name}"
            raise RunRefusedError(f'plugin "{plugin.name}" takes no dead letters back', hint=hint)
        letters = DeadLetters(self._house.configuration.daemon.data / "dead")
        open_ = await self._house.store.read(open_letters, await asyncio.to_thread(letters.run_ids))
        return open_.get(found.name, [])

    async def reset_cursor(self, job: str, requested_by: str) -> None:
        """Let the next run of a job read everything. RunRefusedError while a run of it is not finished, HeldError."""
        composition = self._house
        found = self._planned(job)
        if not await composition.store.write(reset_cursors, found.name):
            hint = f"erpsync cancel {found.name}"
            raise RunRefusedError(f"a run of {found.name} is not finished", hint=hint)
        composition.runner.forget_cursor(found.name)
        data = composition.configuration.daemon.data
        await asyncio.to_thread(reset_targets, found, composition.catalog, data)
        composition.emit("cursor.reset", job=found.name, requested_by=requested_by)

    async def backfill(
        self, job: str, window: Window, size: timedelta, name: str | None, requested_by: str
    ) -> list[Run]:
        """Runs for the slices of a window; those that this backfill has already as they are."""
        found = self._runnable(job)
        windows = slices(window, size)
        if len(windows) > MOST_SLICES:
            message = f"more than {MOST_SLICES} slices at once"
            raise RunRefusedError(message, hint="choose a longer --slice")
        name = name or backfill_name(window, size)
        return await self._house.engine.claim_backfill(found.name, requested_by, name, windows)

    def _planned(self, job: str) -> Job:
        found = find_job(self._house.configuration.jobs, job)
        if self.held is not None:
            raise HeldError(f"the state is held: {self.held.reason}", hint="erpsync resume --all")
        return found

    def _runnable(self, job: str) -> Job:
        found = self._planned(job)
        if found.name in self._house.parked:
            problem = self._house.parked[found.name][0]
            place = f" ({problem.file}:{problem.line})" if problem.file else ""
            raise ParkedJobError(f"job {found.name} is parked: {problem.message}{place}", hint=problem.help)
        return found

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

    async def cancel(self, run_id: str, reason: str | None, requested_by: str) -> bool:
        """End a run that has not ended."""
        run, _ = await self.find(run_id, 0)
        return await self._house.runner.cancel(run.id, requested_by, reason and self._redactor(reason))

    async def pause(
        self, jobs: Sequence[str], until: datetime | None, reason: str | None, requested_by: str
    ) -> list[dict[str, object]]:
        """Plan and start nothing of these jobs any more; all are known before the first is paused."""
        names = [self._planned(job).name for job in jobs]
        reason = reason and self._redactor(reason)
        engine, pauses = self._house.engine, []
        for job in names:
            pause = await engine.pause(job, until=until, reason=reason, requested_by=requested_by)
            self._house.runner.pause(pause)
            pauses.append(pause_document(pause))
        return pauses

    async def resume(self, jobs: Sequence[str] | None, requested_by: str) -> dict[str, object]:
        """Let jobs go on that were paused; None means all, and a state that is held."""
        released = jobs is None and await self._release(requested_by)
        asked = None if jobs is None else {self._planned(job).name for job in jobs}
        paused = [pause.job for pause in self._pauses()]
        resumed = [name for name in paused if asked is None or name in asked]
        for job in resumed:
            await self._house.engine.resume(job, requested_by=requested_by)
            self._house.runner.resume(job)
        return {"resumed": resumed, "released": released}

    async def _release(self, requested_by: str) -> bool:
        """Let a held state go on; False where it is not held, or somebody else was quicker.

        What passed meanwhile follows `catch_up`, as after any downtime. The decision is durable first: a start that
        fails can be asked for again, and is not needed after the next one of the daemon.
        """
        async with self._releasing:
            if self.held is None:
                return False
            await self._house.store.write(release, None)
            await self._house.start()
            self.held = None
        self._house.emit("state.released", requested_by=requested_by)
        return True

    def _pauses(self) -> list[Pause]:
        """The pauses in force."""
        found = (self._house.engine.paused(job) for job in self._house.configuration.jobs)
        return [pause for pause in found if pause is not None]

    def snapshot(self) -> Snapshot:
        """The gauges of this moment."""
        running = Counter(run.instance or "" for run in self._house.runner.running())
        statuses, slots = self._house.connections.identities(), self._house.desk.slots()
        expiries = {each.identity: each.expires_at for each in statuses if each.expires_at is not None}
        engine = self._house.engine
        starts = {job: at for _, job in self._fires() if (at := engine.next_start(job)) is not None}
        late = {each.job for each in self.overdue()}
        expected = {
            (table.job.name, table.job.instance or ""): table.job.name in late for table in self._tables
        }
        refused = self._reload is not None and bool(self._reload.refused)
        return Snapshot(
            running=running,
            waiting=self._waiting(),
            next_starts=starts,
            token_expiries=expiries,
            loop_lag_seconds=self.lag,
            overdue=expected,
            config_refused=refused,
            config_stale=bool(self._stale()),
            ready=not self.unready(),
            troubled={name: bool(trouble) for name, trouble in self._troubles().items()},
            sessions_open={use.instance: len(use.sessions) for use in slots},
            license_slots={use.instance: use.slots for use in slots},
        )

    def _with_progress(self, run: Run) -> dict[str, object]:
        progress = self._house.runner.progress(run.id)
        shown = None if progress is None else {"done": progress[0], "total": progress[1]}
        return run.document() | {"progress": shown}

    def _waiting(self) -> Counter[str]:
        try:
            runs = self._house.store.read_now(unfinished_runs)
        # what is wrong with the state is told elsewhere, and is no reason to say nothing at all
        except StoreError:
            return Counter()
        return Counter(run.waiting_for or "pending" for run in runs if run.state is not State.RUNNING)

    def _fires(self) -> list[tuple[datetime, str]]:
        composition = self._house
        jobs = (name for name in composition.configuration.jobs if name not in composition.parked)
        return [(at, job) for job in jobs if (at := composition.engine.next_fire(job)) is not None]


def pause_document(pause: Pause) -> dict[str, object]:
    """The public JSON form."""
    return {
        "job": pause.job,
        "since": utc_text(pause.since),
        "until": utc_text(pause.until),
        "reason": pause.reason,
        "requested_by": pause.requested_by,
    }
