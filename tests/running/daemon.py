"""A daemon to be killed: `daemon.py FOLDER PLUGIN SETTINGS` runs one job until somebody ends it.

With a fourth argument, "before" or "after", it kills itself in the transaction that ends the run, when the run of a
child is written.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection

from erpsync.core.clock import SystemClock
from erpsync.core.event import silent
from erpsync.core.job import After, Job
from erpsync.core.redaction import Redactor
from erpsync.core.run import Run, RunTrigger, new_run_id
from erpsync.plugins.discovery import PluginCatalog
from erpsync.running.runner import Runner
from erpsync.scheduling.handover import hand_over, successions
from erpsync.store.ledger import insert_runs
from erpsync.store.run_log import RunLog
from erpsync.store.state import Store


def die(connection: Connection, finished: Sequence[Run], now: datetime) -> list[Run]:
    """Hand over to a child, but not to the end."""
    child = Job("child", "child", "quick", schedules=(After((finished[0].job,)),))
    if sys.argv[4] == "after":
        assert hand_over(connection, finished, successions([child]), now)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


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
        hand_over=die if len(sys.argv) > 4 else lambda connection, finished, now: [],
    )
    await runner.start()
    now = datetime.now(UTC)
    run = Run(new_run_id(now), plugin, "manual:1", plugin, RunTrigger.MANUAL, now)
    await store.write(insert_runs, run)
    runner.offer([run])
    await runner.wait(run.id)


asyncio.run(main())
