"""A job's state under another name."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert

from erpsync.core.run import Run, RunTrigger
from erpsync.scheduling.handover import read_left
from erpsync.store import schema
from erpsync.store.cursors import History, read_cursors, read_history
from erpsync.store.history import RunFilter, list_runs
from erpsync.store.ledger import insert_runs
from erpsync.store.marks import Mark, read_marks, write_marks
from erpsync.store.pauses import Pause, read_pauses, write_pauses
from erpsync.store.rename import Rename, Renamed, rename_job
from erpsync.store.state import Store

NOW = datetime(2026, 3, 28, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "state.db")
    yield store
    store.close()


@pytest.fixture
async def old(store: Store) -> Store:
    """A store that knows the job `old`."""
    await store.write(insert_runs, Run("r1", "old", "at:x", "noop", RunTrigger.SCHEDULE, NOW, fire_at=NOW))
    await store.write(write_marks, Mark("old", "s", NOW))
    await store.write(write_pauses, Pause("old", NOW))
    await store.write(_leave_behind, "old")
    return store


def _leave_behind(connection: Connection, jobs: Sequence[str]) -> list[None]:
    """A store operation: a cursor of each job, what it has left for a child, and what a parent has left for it."""
    for job in jobs:
        cursor = {"job": job, "value": "w9", "run_id": "r1", "updated_at": NOW}
        connection.execute(insert(schema.cursor).values(cursor))
        for child, parent in (("child", job), (job, "parent")):
            left = {"child": child, "parent": parent, "run_id": "r1", "outcome": "succeeded"}
            connection.execute(insert(schema.handover).values(left))
    return [None] * len(jobs)


async def test_a_renamed_job_keeps_all_that_is_known_of_it(old: Store) -> None:
    """Nothing is left under the former name, and a second time there is nothing to do."""
    answers = [await old.write(rename_job, Rename("old", "new")) for _ in range(2)]

    assert answers == [Renamed.DONE, Renamed.NOTHING]
    assert [run.job for run in old.read_now(list_runs, RunFilter())] == ["new"]
    assert old.read_now(read_marks) == {"new": Mark("new", "s", NOW)}
    assert old.read_now(read_pauses) == {"new": Pause("new", NOW)}
    assert old.read_now(read_cursors) == {"new": "w9"}
    assert {*old.read_now(read_left)} == {("child", "new"), ("new", "parent")}


async def test_a_job_with_a_mark_of_its_own_takes_nothing_over(old: Store) -> None:
    """Two histories are not mixed."""
    await old.write(write_marks, Mark("new", "s", NOW))

    assert await old.write(rename_job, Rename("old", "new")) is Renamed.REFUSED
    assert await old.write(rename_job, Rename("unknown", "new")) is Renamed.NOTHING
    assert [run.job for run in old.read_now(list_runs, RunFilter())] == ["old"]


async def test_a_name_with_runs_or_a_pause_of_its_own_inherits_nothing(old: Store) -> None:
    """Two histories cannot be one: the same claim, or a pause on both sides, harms nobody."""
    await old.write(insert_runs, Run("r2", "heir", "at:x", "noop", RunTrigger.SCHEDULE, NOW, fire_at=NOW))
    await old.write(write_pauses, Pause("resting", NOW))

    for name in ("heir", "resting"):
        assert await old.write(rename_job, Rename("old", name)) is Renamed.REFUSED
    assert {run.job for run in old.read_now(list_runs, RunFilter())} == {"old", "heir"}
    assert set(old.read_now(read_pauses)) == {"old", "resting"}


async def test_every_name_that_the_state_knows_has_a_history(old: Store) -> None:
    """As far as a rename is concerned: a pause or a cursor without runs too, whose runs retention has forgotten."""
    await old.write(write_pauses, Pause("resting", NOW))
    await old.write(_leave_behind, "forgotten")

    found = old.read_now(read_history)
    assert found["old"] == History(1, "w9")
    assert found["forgotten"] == History(0, "w9")
    assert found["resting"] == History(0, None)
    assert "new" not in found
