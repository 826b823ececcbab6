"""Runs a plugin once, in this process, without daemon and TOML: as the daemon would, down to HTTP and tokens."""

import asyncio
import shutil
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from erpsync.core.clock import Clock, SystemClock
from erpsync.core.job import Job
from erpsync.core.run import Counts, Outcome
from erpsync.plugins.context import Cursor
from erpsync.plugins.contract import JobResult, Plugin, Settings
from erpsync.running.fault import Fault
from erpsync.sandbox.server import Sandbox
from erpsync.testing.attempt import Attempt, LogLine


@dataclass(frozen=True, slots=True, weakref_slot=True)
class RunOutcome:
    """What came of a run.

    `outcome` is None where the daemon would try again. `error` is what the ledger would keep; `exception` what the
    plugin raised. `cursor` is what it would be after the run. Files are below `data`.
    """

    outcome: Outcome | None
    reason: str | None
    result: JobResult | None
    counts: Counts
    error: Fault | None
    exception: BaseException | None
    cursor: str | None
    data: Path
    logs: list[LogLine] = field(default_factory=list)
    progress: list[tuple[int, int | None]] = field(default_factory=list)

    def rows(self, database: str, sql: str) -> list[tuple[Any, ...]]:
        """What a query of a SQLite target gives; `database` is the file that the target's URL names."""
        connection = sqlite3.connect(self.data / database)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    @property
    def artifacts(self) -> Path:
        """The folder of the run's files."""
        return self.data / "artifacts"

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        """Failed rows with their errors, in order."""
        file = self.data / "dead.jsonl"
        return [msgspec.json.decode(line) for line in file.read_bytes().splitlines()] if file.exists() else []


def run_job(
    plugin: Plugin,
    settings: Mapping[str, object] | Settings | None = None,
    *,
    sandbox: Sandbox | str | None = None,
    cursor: str | None = None,
    dry_run: bool = False,
    params: Mapping[str, object] | None = None,
    window: tuple[datetime, datetime] | None = None,
    dead: Sequence[Mapping[str, object]] | None = None,
    secrets: Mapping[str, str] | None = None,
    data: Path | None = None,
    job: str = "",
    max_failed: int = 0,
    clock: Clock | None = None,
    stop: Callable[[], bool] = lambda: False,
    client_id: str = "erpsync.sandbox/service",
    client_secret: str = "sandbox-secret",  # noqa: S107 - the sandbox's own, public
) -> RunOutcome:
    """Run `plugin` to its end and tell how it was. May be called with or without a running event loop.

    Args:
        settings: the job's `with` table, or settings ready made.
        sandbox: an instance or its URL; without it `ctx.erp` is not there, and `ctx.http` carries no token.
        window, dead: what the run is about, as in `JobContext`.
        secrets: values of the references in `settings`, by the name, variable or path they give.
        data: the data folder; by default a temporary one that lives as long as the outcome.
        job: the job's name, by default the plugin's.
        stop: whether the run should end at its next checkpoint.
    """
    attempt = Attempt(
        plugin=plugin,
        settings=settings or {},
        sandbox=sandbox.url if isinstance(sandbox, Sandbox) else sandbox,
        credentials=(client_id, client_secret),
        secrets=secrets or {},
        cursor=Cursor(cursor),
        dry_run=dry_run,
        params=params or {},
        window=window,
        dead=dead,
        data=data or Path(tempfile.mkdtemp(prefix="erpsync-run-")),
        job=Job(job or plugin.name, job or plugin.name, plugin.name, max_failed=max_failed),
        clock=clock or SystemClock(),
        stop=stop,
    )
    thread = threading.Thread(target=lambda: asyncio.run(attempt.work()), name="run_job")
    thread.start()
    thread.join()
    end, fault = attempt.verdict()
    outcome = RunOutcome(
        outcome=end.run_outcome,
        reason=end.reason,
        result=attempt.result if isinstance(attempt.result, JobResult) else None,
        counts=end.counts,
        error=fault,
        exception=attempt.exception,
        cursor=end.cursor_after if end.store_cursor else cursor,
        data=attempt.data,
        logs=attempt.logs,
        progress=attempt.steps,
    )
    if data is None:
        weakref.finalize(outcome, shutil.rmtree, attempt.data, ignore_errors=True)
    return outcome
