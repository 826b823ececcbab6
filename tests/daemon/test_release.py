"""A held state is released once, however often and however closely somebody asks."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from erpsync.config.load import load_configuration
from erpsync.core.clock import SystemClock
from erpsync.core.errors import StoreError
from erpsync.core.redaction import Redactor
from erpsync.core.run import Run, State
from erpsync.daemon.compose import Composition, compose
from erpsync.daemon.controls import DaemonControls
from erpsync.store.history import find_run, list_attempts
from erpsync.store.installation import Hold, hold, read_hold
from erpsync.store.ledger import Begin, begin_attempts, insert_runs
from tests.store.test_ledger import new_run

TEXT = """
[daemon]
data = "data"
plugins = ["plugins"]
[metrics]
listen = false
[jobs.gated]
plugin = "gated"
schedule = "manual"
[jobs.hourly]
plugin = "gated"
schedule = { every = "1h" }
"""
PLUGIN = '''
import asyncio, pathlib
from erpsync import JobContext, JobResult, Settings, job

@job("gated", repeatable=True)
async def gated(ctx: JobContext[Settings]) -> JobResult:
    """Ends once the gate is open."""
    while not pathlib.Path("GATE").exists():
        await asyncio.sleep(0.01)
    return ctx.result()
'''


class House:
    """A composition over a state that is held, with one run that a dead owner left running."""

    def __init__(self, folder: Path) -> None:
        self.gate = folder / "gate"
        self.events: list[tuple[str, dict[str, object]]] = []
        (folder / "erpsync.toml").write_text(TEXT)
        (folder / "plugins").mkdir(mode=0o755)
        (folder / "plugins" / "gated.py").write_text(PLUGIN.replace("GATE", str(self.gate)))
        self.configuration = load_configuration(folder / "erpsync.toml", {})
        self.composition: Composition = compose(self.configuration, Redactor(), SystemClock(), self._emit)
        self.controls = DaemonControls(self.composition)
        self.run = new_run(
            "gated", self.composition.clock.now(), plugin="gated", instance=None, identity=None
        )

    def _emit(self, event: str, /, **fields: Any) -> None:
        self.events.append((event, fields))

    async def hold(self) -> None:
        store, now = self.composition.store, self.composition.clock.now()
        self.controls.held = Hold(now, "its file is a copy")
        await store.write(hold, self.controls.held)
        assert await store.write(insert_runs, self.run)
        assert await store.write(begin_attempts, Begin(self.run, "dead:1:0", now))

    def told(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.events if name == event]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - the ledger tells nobody
                await asyncio.sleep(0.005)

    def ledger(self) -> Run:
        run = self.composition.store.read_now(find_run, self.run.id)
        assert run is not None
        return run

    async def outcomes(self) -> list[str]:
        """How the attempts of the run ended, after it has."""
        self.gate.touch()
        await self.until(lambda: self.ledger().state is State.FINISHED)
        attempts = self.composition.store.read_now(list_attempts, self.run.id)
        return [str(attempt.outcome) for attempt in attempts]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    await made.hold()
    yield made
    await made.composition.stop()
    await made.composition.close()


async def test_many_who_release_at_once_release_once(house: House) -> None:
    """One of them is told that the state goes on by that; nothing is started twice, and nobody gets a fault."""
    answers = await asyncio.gather(*(house.controls.resume(None, f"person {number}") for number in range(6)))
    assert [answer["released"] for answer in answers].count(True) == 1
    assert [told["requested_by"] for told in house.told("state.released")] == ["person 0"]
    assert house.composition.store.read_now(read_hold) is None
    assert await house.outcomes() == ["lost", "succeeded"]
    assert len(house.told("run.recovered")) == 1
    await house.until(lambda: house.told("run.finished"))
    assert len(house.told("run.finished")) == 1


async def test_a_release_that_failed_is_asked_for_again(house: House) -> None:
    """The state refuses in the middle of the start: what was taken up goes on, the rest comes with the next try."""
    with closing(sqlite3.connect(house.configuration.daemon.state)) as rude:
        rude.execute("CREATE TRIGGER rude BEFORE INSERT ON mark BEGIN SELECT RAISE(FAIL, 'not now'); END")
        with pytest.raises(StoreError, match="not now"):
            await house.controls.resume(None, "ann")
        assert house.controls.held is not None
        assert house.composition.store.read_now(read_hold) is None, "what was decided holds over a crash"
        await house.until(lambda: house.ledger().state is State.RUNNING and house.ledger().attempts == 2)
        rude.execute("DROP TRIGGER rude")
    assert (await house.controls.resume(None, "ann"))["released"] is True
    assert house.controls.held is None
    assert house.composition.engine.next_fire("hourly") is not None
    assert await house.outcomes() == ["lost", "succeeded"]
