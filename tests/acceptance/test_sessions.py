"""Licence slots over a night and over kills: counted at the sandbox, with everything that a daemon is made of."""

import asyncio
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from erpsync.config.load import load_configuration
from erpsync.core.clock import ManualClock
from erpsync.core.redaction import Redactor
from erpsync.core.run import Outcome, State
from erpsync.daemon.compose import Composition, compose
from erpsync.sandbox.server import Sandbox
from erpsync.store.history import RunFilter, list_runs
from tests.acceptance.site import BASE, Site, eventually

KILLS = int(os.environ.get("KILLS", "20"))
HOURS = 8
JOBS = 40
LONGEST_STEP = 20.0
"""Seconds that pass at once at most: if something was under way unseen, it merely took that long."""

PLUGIN = '''
from datetime import timedelta
from erpsync import JobContext, JobResult, Settings, job
from tests.acceptance import test_sessions as night

class Options(Settings):
    calls: int
    minutes: float

@job("shift", repeatable=True)
async def shift(ctx: JobContext[Options]) -> JobResult:
    """Asks now and then, as a long synchronisation does."""
    for _ in range(ctx.settings.calls):
        await ctx.erp.count("General_Currencies_Currencies")
        await night.CLOCK.sleep(60 * ctx.settings.minutes)
    return ctx.result()
'''


class NightClock(ManualClock):
    """Moves only when everything waits for time."""

    def next_wake(self) -> float:
        return min((end - self.boot() for end, future in self._sleepers if not future.done()), default=60.0)


CLOCK = NightClock()


class Busy:
    """What is under way outside of the event loop: requests, writes, and what waits for a thread."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def watching(self, composition: Composition, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        send, submit = httpx2.AsyncHTTPTransport.handle_async_request, composition.store.submit

        async def sending(transport: Any, request: Any) -> Any:
            self.count += 1
            try:
                return await send(transport, request)
            finally:
                self.count -= 1

        def submitting(operation: Any, item: Any) -> Any:
            self.count += 1
            future = submit(operation, item)
            future.add_done_callback(lambda _: self._less())
            return future

        loop = asyncio.get_running_loop()
        execute = loop.run_in_executor

        def executing(executor: Any, function: Any, *arguments: Any) -> Any:
            self.count += 1
            future = execute(executor, function, *arguments)
            future.add_done_callback(lambda _: self._less())
            return future

        with monkeypatch.context() as patch:
            patch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", sending)
            patch.setattr(composition.store, "submit", submitting)
            patch.setattr(loop, "run_in_executor", executing)
            yield

    def _less(self) -> None:
        self.count -= 1

    async def over(self) -> None:
        """Until nothing has been under way for some turns of the loop."""
        quiet = 0
        while quiet < 3:
            await asyncio.sleep(0.0007)
            quiet = quiet + 1 if self.count == 0 else 0


def night_configuration(url: str) -> str:
    text = f"""
[daemon]
data = "data"
plugins = ["plugins"]
seal_key = {{ env = "SEAL" }}
[metrics]
listen = false
[instances.box]
url = "{url}"
license_slots = 2
[defaults]
start_by = "12h"
overlap = "queue"
timeout = "4h"
"""
    for name in ("north", "east", "west"):
        text += f"""
[identities.{name}]
instance = "box"
client_id = "{name}"
client_secret = {{ env = "BOX_SECRET" }}
scope = ["read"]
"""
    for number in range(JOBS):
        identity = ("north", "east", "west")[number % 3]
        text += f"""
[jobs.shift-{number}]
plugin = "shift"
identity = "{identity}"
schedule = {{ every = "4h", offset = "{number * 5 % 235 + 1}m" }}
with = {{ calls = {2 + number % 5}, minutes = {1 + number % 7} }}
"""
    return text


async def test_a_night_of_forty_jobs_on_two_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    """Eight hours, three identities, two slots: never more than two sessions, no violation, every run succeeds."""
    global CLOCK
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "shift.py").write_text(PLUGIN)
    monkeypatch.setenv("BOX_SECRET", "night-secret")
    monkeypatch.setenv("SEAL", secrets.token_hex(32))
    with Sandbox(rows=5, clock_scale=0.0, license_slots=2) as sandbox:
        for name in ("north", "east", "west"):
            sandbox.register(name, "night-secret")
        (tmp_path / "erpsync.toml").write_text(night_configuration(sandbox.url))
        CLOCK = NightClock(datetime.now(UTC))
        waited: Counter[object] = Counter()

        def emit(event: str, /, *, level: str = "info", **fields: object) -> None:
            if event == "run.waiting":
                waited[fields["waiting_for"]] += 1

        composition = compose(load_configuration(tmp_path / "erpsync.toml", {}), Redactor(), CLOCK, emit)
        try:
            busy = Busy()
            with busy.watching(composition, monkeypatch):
                await composition.start()
                await _pass(sandbox, busy, composition, timedelta(hours=HOURS))
                await composition.engine.stop()
                await _pass(sandbox, busy, composition, timedelta(hours=HOURS), until_done=True)
                await composition.stop()
            runs = composition.store.read_now(list_runs, RunFilter(limit=10_000))
            uses = composition.connections.slots()
        finally:
            await composition.close()
        stats = sandbox.stats()
    record_property("runs of the night", str(len(runs)))
    record_property("sessions of the night", str(stats["sessions_opened"]))
    assert len(runs) >= 2 * JOBS - 1
    assert [run.error for run in runs if run.outcome != Outcome.SUCCEEDED] == []
    assert (stats["max_sessions_open"], stats["violations"], stats["licenses_refused"]) == (2, 0, 0)
    assert waited["licence"] > 0
    assert [(use.instance, use.slots) for use in uses] == [("box", 2)]
    assert sum(stats["token_requests"].values()) < 2 * stats["sessions_opened"]


async def _pass(
    sandbox: Sandbox, busy: Busy, composition: Composition, span: timedelta, *, until_done: bool = False
) -> None:
    """Let time pass on both sides alike, in steps no longer than to the next thing that waits for it."""
    end = CLOCK.boot() + span.total_seconds()
    while CLOCK.boot() < end:
        await busy.over()
        if until_done and not composition.runner.running():
            unfinished = composition.store.read_now(
                list_runs, RunFilter(states=(State.PENDING, State.WAITING))
            )
            if not unfinished:
                return
        step = max(0.001, min(CLOCK.next_wake(), LONGEST_STEP))
        CLOCK.advance(timedelta(seconds=step))
        sandbox.advance(step)
        sandbox.skew((CLOCK.now() - datetime.now(UTC)).total_seconds())


PING = """
[jobs.ping]
plugin = "http_call"
identity = "service"
schedule = { every = "200ms" }
overlap = "queue"
with = { url = "General_Currencies_Currencies?$top=1" }
"""


@pytest.mark.slow
def test_twenty_kills_within_the_hour_open_one_session(site: Site, record_property: Any) -> None:
    """Kill -9 again and again: each life goes on with the token and the session of the one before."""
    record_property("kills of a daemon with an open session", str(KILLS))
    site.environment["SEAL"] = secrets.token_hex(32)
    base = BASE.replace("license_slots = 100", "license_slots = 1")
    assert base != BASE
    site.write(base.replace("[daemon]", '[daemon]\nseal_key = { env = "SEAL" }') + PING)
    for _ in range(KILLS + 1):
        before = _succeeded(site)
        with site.daemon() as daemon:
            eventually(lambda: _succeeded(site) > before + 1, "runs succeed")  # noqa: B023
            daemon.kill()
    stats = site.sandbox.stats()
    assert stats["sessions_opened"] == 1
    assert sum(stats["token_requests"].values()) == 1
    assert (stats["violations"], stats["licenses_refused"]) == (0, 0)


def _succeeded(site: Site) -> int:
    with suppress(Exception):
        return int(site.rows("erpsync.db", "SELECT count(*) FROM run WHERE outcome = 'succeeded'")[0][0])
    return 0
