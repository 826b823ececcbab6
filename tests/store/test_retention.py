"""What the ledger forgets, and what it never does."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from erpsync.config.configuration import Retention
from erpsync.core.clock import ManualClock
from erpsync.core.run import Outcome, Run, RunTrigger, State, new_run_id
from erpsync.daemon.housekeeping import tidy
from erpsync.store.history import RunFilter, last_successes, list_runs
from erpsync.store.ledger import insert_runs
from erpsync.store.marks import Mark, read_marks, write_marks
from erpsync.store.retention import BATCH, Forget, forget_runs
from erpsync.store.run_log import RunLog
from erpsync.store.state import Store
from tests.store.test_ledger import new_run

START = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "state.db")
    yield store
    store.close()


def finished(job: str, day: int, outcome: Outcome) -> Run:
    at = START + timedelta(days=day)
    ended = {
        "state": State.FINISHED,
        "outcome": outcome,
        "finished_at": at + timedelta(minutes=5),
        "params": {},
    }
    return replace(new_run(job, at), **ended)  # type: ignore[arg-type]


def note_cursor(connection: Connection, run_ids: list[str]) -> list[None]:
    for run_id in run_ids:
        connection.execute(text("INSERT INTO cursor VALUES ('other', 'v', :run, 0)"), {"run": run_id})
    return [None] * len(run_ids)


def kept(store: Store) -> dict[str, list[tuple[int, str]]]:
    found: dict[str, list[tuple[int, str]]] = {}
    for run in reversed(store.read_now(list_runs, RunFilter(limit=10_000))):
        found.setdefault(run.job, []).append(((run.created_at - START).days, str(run.outcome)))
    return found


def test_old_runs_go_and_the_last_success_and_the_open_problem_stay(store: Store) -> None:
    """Of each job the newest run of every outcome is kept, however old; younger ones are not touched."""
    for day in range(20):
        outcome = Outcome.SUCCEEDED if day < 10 else Outcome.FAILED
        store.write_now(insert_runs, finished("broken-since-long", day, outcome))
        store.write_now(insert_runs, finished("fine", day, Outcome.SUCCEEDED))
    store.write_now(insert_runs, new_run("waiting-since-long", START))
    bound = START + timedelta(days=15)
    store.write_now(forget_runs, Forget(bound))
    assert kept(store) == {
        "broken-since-long": [(9, "succeeded"), *((day, "failed") for day in range(15, 20))],
        "fine": [(day, "succeeded") for day in range(15, 20)],
        "waiting-since-long": [(0, "None")],
    }
    store.write_now(forget_runs, Forget(START + timedelta(days=100)))
    assert kept(store) == {
        "broken-since-long": [(9, "succeeded"), (19, "failed")],
        "fine": [(19, "succeeded")],
        "waiting-since-long": [(0, "None")],
    }


def test_marks_cursors_and_what_they_name_stay(store: Store) -> None:
    """Forgetting a run makes nothing fire again, and a cursor's run can still be shown."""
    runs = [finished("job", day, Outcome.SUCCEEDED) for day in range(3)]
    for run in runs:
        store.write_now(insert_runs, run)
    mark = Mark("job", "schedule", START + timedelta(days=2))
    store.write_now(write_marks, mark)
    store.write_now(note_cursor, runs[0].id)
    assert store.write_now(forget_runs, Forget(START + timedelta(days=50))) == 1
    assert kept(store) == {"job": [(0, "succeeded"), (2, "succeeded")]}
    assert store.read_now(read_marks) == {"job": mark}


def test_a_slice_of_a_backfill_stands_for_no_run_of_a_schedule(store: Store) -> None:
    """`night` and metrics go by the last success that was no slice; an old slice goes by either."""
    success, slice_, newer = (finished("job", day, Outcome.SUCCEEDED) for day in range(3))
    store.write_now(insert_runs, success)
    for each in (slice_, newer):
        window = {"window": ["2025-01-01T00:00:00Z", "2025-01-02T00:00:00Z"]}
        store.write_now(insert_runs, replace(each, trigger=RunTrigger.BACKFILL, params=window))
    assert store.write_now(forget_runs, Forget(START + timedelta(days=50))) == 1
    assert kept(store) == {"job": [(0, "succeeded"), (2, "succeeded")]}
    assert store.read_now(last_successes) == {"job": success.finished_at}


async def test_letters_and_artifacts_go_with_their_runs(store: Store, tmp_path: Path) -> None:
    """Runs with open letters are spared; what belongs to a run that was forgotten goes, unless it is young."""
    runs = [finished("job", day, Outcome.PARTIAL) for day in range(4)]
    for run in runs:
        store.write_now(insert_runs, run)
    lone, young = (new_run_id(START + timedelta(days=day)) for day in (0, 59))
    (tmp_path / "dead").mkdir()
    for name in (runs[1].id, lone, young):
        (tmp_path / "dead" / f"{name}.jsonl").write_text("{}\n")
    for name in (runs[0].id, runs[3].id, young):
        (tmp_path / "artifacts" / name / "deep").mkdir(parents=True)
    told: list[str] = []
    emit = lambda event, /, **_: told.append(event)  # noqa: E731
    policy = Retention(timedelta(days=10), timedelta(days=10), 1 << 20)
    clock = ManualClock(START + timedelta(days=60))
    await tidy(policy, store, RunLog(tmp_path / "logs"), tmp_path, clock, emit)
    assert kept(store) == {"job": [(1, "partial"), (3, "partial")]}
    assert {path.stem for path in (tmp_path / "dead").iterdir()} == {runs[1].id, young}
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {runs[3].id, young}
    assert told == ["retention.applied"]


def test_one_transaction_forgets_a_bounded_number(store: Store) -> None:
    """Much is forgotten in many small steps, and then nothing is left to do."""
    futures = [
        store.submit(insert_runs, replace(finished("often", 0, Outcome.SKIPPED), claim=f"manual:{number}"))
        for number in range(BATCH + 100)
    ]
    for future in futures:
        future.result()
    bound = START + timedelta(days=1)
    assert [store.write_now(forget_runs, Forget(bound)) for _ in range(3)] == [BATCH, 99, 0]


def test_old_logs_go_by_their_age(tmp_path: Path) -> None:
    """A log that nobody wrote to for long is removed with its empty folder; a run that still writes keeps its own."""
    log = RunLog(tmp_path / "logs")
    old, slow, young = (new_run_id(START + timedelta(days=day)) for day in (0, 1, 40))
    for run_id in (old, slow, young):
        log.append(run_id, {"event": "x"})
    long_ago = (START + timedelta(days=1)).timestamp()
    os.utime(next((tmp_path / "logs").glob(f"*/{old}.jsonl")), (long_ago, long_ago))
    assert log.forget(START + timedelta(days=30)) == 1
    assert [log.read(run_id)[0] for run_id in (old, slow, young)] == [[], [{"event": "x"}], [{"event": "x"}]]
    assert len(list((tmp_path / "logs").iterdir())) == 2
    assert RunLog(tmp_path / "none").forget(START) == 0
