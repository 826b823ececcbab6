"""A daemon to be killed: `daemon.py FOLDER PLUGIN SETTINGS` runs one job until somebody ends it."""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from erpsync.core.clock import SystemClock
from erpsync.core.event import silent
from erpsync.core.job import Job
from erpsync.core.redaction import Redactor
from erpsync.core.run import Run, RunTrigger, new_run_id
from erpsync.plugins.discovery import PluginCatalog
from erpsync.running.runner import Runner
from erpsync.store.ledger import insert_runs
from erpsync.store.run_log import RunLog
from erpsync.store.state import Store


async def main() -> None:
    """Claim a run of the job, start it, and wait for its end."""
    folder, plugin, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    here = Path(__file__).parent
    store = Store.open(folder / "erpsync.db")
    runner = Runner(
        jobs={plugin: Job(plugin, plugin, plugin, settings=settings)},
        catalog=PluginCatalog([here / "hostile", here / "ordinary"]),
        connections=lambda _job: None,
        secrets=str,
        store=store,
        run_logs=RunLog(folder / "runs"),
        data=folder,
        clock=SystemClock(),
        emit=silent,
        redactor=Redactor(),
        max_runs=2,
        instance_limits={},
    )
    await runner.start()
    now = datetime.now(UTC)
    run = Run(new_run_id(now), plugin, "manual:1", plugin, RunTrigger.MANUAL, now)
    await store.write(insert_runs, run)
    runner.offer([run])
    await runner.wait(run.id)


asyncio.run(main())
