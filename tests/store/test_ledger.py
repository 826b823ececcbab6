"""The run ledger: every move of a run, and what is found afterwards."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection

from erpsync.core.errors import AmbiguousRunError, LostLeaseError
from erpsync.core.run import (
    MOVES,
    Attempt,
    AttemptOutcome,
    Counts,
    Outcome,
    Run,
    RunFailure,
    RunTrigger,
    State,
    new_run_id,
)
from erpsync.store import cursors, history, ledger
from erpsync.store.history import RunFilter
from erpsync.store.ledger import Begin, End, Finish, Growth, Wait
from erpsync.store.marks import Mark, read_marks, write_marks
from erpsync.store.state import Store

NOON = datetime(2026, 3, 29, 12, 0, 0, 250, tzinfo=UTC)
OWNER = "owner-1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "state.db")
    yield store
    store.close()


def new_run(job: str = "products@acme", at: datetime = NOON, **changes: object) -> Run:
    run = Run(
        id=new_run_id(at),
        job=job,
        claim=f"at:{at.isoformat()}",
        plugin="mirror",
        trigger=RunTrigger.SCHEDULE,
        created_at=at,
        instance="acme",
        identity="night@acme",
        fire_at=at,
        fire_until=at,
        params={"set": {"name": "Стол"}},
    )
    return replace(run, **changes)  # type: ignore[arg-type]


def begin(store: Store, run: Run, after: float = 1) -> Attempt | None:
    return store.write_now(
        ledger.begin_attempts, Begin(run, OWNER, run.created_at + timedelta(seconds=after))
    )


def test_a_run_comes_back_as_it_was_written(store: Store) -> None:
    """Every field survives the ledger."""
    run = new_run(error=RunFailure("X", "y", "z"), counts=Counts(read=3), reason="late", priority=4)
    assert store.write_now(ledger.insert_runs, run)
    assert store.read_now(history.find_run, run.id) == run
    assert store.read_now(history.find_run, run.id[:16]) == run
    assert store.read_now(history.find_run, "zzz") is None


def test_a_fire_time_is_claimed_once(store: Store) -> None:
    """A second run for the same job and claim is not written."""
    first, second, other = new_run(), new_run(), new_run(job="customers@acme")
    futures = [store.submit(ledger.insert_runs, run) for run in (first, second, other)]
    assert [future.result() for future in futures] == [True, False, True]
    assert {run.id for run in store.read_now(history.list_runs, RunFilter())} == {first.id, other.id}


def test_a_prefix_of_two_runs_is_ambiguous(store: Store) -> None:
    """An abbreviation that fits several runs is refused, a full id never is."""
    runs = [new_run(job=name, id=f"aaa{name}") for name in ("x", "y")]
    for run in runs:
        store.write_now(ledger.insert_runs, run)
    with pytest.raises(AmbiguousRunError):
        store.read_now(history.find_run, "aaa")
    assert store.read_now(history.find_run, "aaax") == runs[0]


def test_an_attempt_begins_once(store: Store) -> None:
    """A run that is running, finished or unknown does not start again."""
    run = new_run()
    store.write_now(ledger.insert_runs, run)
    attempt = begin(store, run)
    assert attempt is not None
    assert attempt.number == 1
    assert begin(store, run) is None
    assert begin(store, new_run(job="never-written")) is None
    running = store.read_now(history.find_run, run.id)
    assert running is not None
    assert (running.state, running.owner, running.lag_seconds) == (State.RUNNING, "owner-1", 1)


def test_a_retry_keeps_the_first_start_and_adds_an_attempt(store: Store) -> None:
    """A failed attempt goes back to waiting, the next one finishes the run."""
    run = new_run(params={})
    store.write_now(ledger.insert_runs, run)
    begin(store, run)
    later = NOON + timedelta(seconds=30)
    failure = RunFailure("UnreachableError", "no answer", "is the instance up?")
    waiting = store.write_now(
        ledger.end_attempts,
        End(
            run.id, 1, OWNER, later, AttemptOutcome.FAILED, State.WAITING,
            waiting_for="back-off", next_attempt_at=later + timedelta(minutes=1), error=failure,
        ),
    )  # fmt: skip
    assert (waiting.state, waiting.waiting_for, waiting.error) == (State.WAITING, "back-off", failure)
    assert store.read_now(history.live_counts) == {"products@acme": 1}
    begin(store, run, after=90)
    done = store.write_now(
        ledger.end_attempts,
        End(
            run.id, 2, OWNER, NOON + timedelta(seconds=100), AttemptOutcome.SUCCEEDED, State.FINISHED,
            run_outcome=Outcome.SUCCEEDED, counts=Counts(read=5, written=2), cursor_after="c2", store_cursor=True,
        ),
    )  # fmt: skip
    assert (done.attempts, done.outcome, done.counts, done.duration_seconds) == (
        2, Outcome.SUCCEEDED, Counts(read=5, written=2), 99,
    )  # fmt: skip
    assert done.error is None
    assert [each.outcome for each in store.read_now(history.list_attempts, run.id)] == [
        AttemptOutcome.FAILED,
        AttemptOutcome.SUCCEEDED,
    ]
    assert store.read_now(cursors.read_cursor, run.job) == "c2"
    assert store.read_now(history.last_successes) == {run.job: NOON + timedelta(seconds=100)}
    assert store.read_now(history.live_counts) == {}


@pytest.mark.parametrize(
    "params",
    [{"dry_run": True}, {"set": {"page": 1}}, {"window": ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]}],
)
def test_a_special_run_is_no_last_success(store: Store, params: dict[str, object]) -> None:
    """What somebody tried, or did again for a part of the past, does not say how fresh the data is."""
    ended = {"state": State.FINISHED, "outcome": Outcome.SUCCEEDED, "finished_at": NOON}
    store.write_now(ledger.insert_runs, new_run(params=params, **ended))
    assert store.read_now(history.last_successes) == {}


def test_an_interrupted_attempt_is_not_charged(store: Store) -> None:
    """Interrupted and lost attempts are counted apart."""
    run = new_run()
    store.write_now(ledger.insert_runs, run)
    for number, outcome in ((1, AttemptOutcome.INTERRUPTED), (2, AttemptOutcome.LOST)):
        begin(store, run)
        store.write_now(ledger.end_attempts, End(run.id, number, OWNER, NOON, outcome, State.PENDING))
    found = store.read_now(history.find_run, run.id)
    assert found is not None
    assert (found.attempts, found.uncharged, found.losses, found.state) == (2, 2, 1, State.PENDING)


def test_only_the_open_attempt_can_end(store: Store) -> None:
    """Whoever lost the run cannot write its end, and leaves no trace."""
    run = new_run()
    store.write_now(ledger.insert_runs, run)
    begin(store, run)
    done = (NOON, AttemptOutcome.SUCCEEDED, State.FINISHED, Outcome.SUCCEEDED)
    for stale in (
        End(run.id, 7, OWNER, *done),
        End(run.id, 1, "owner-2", *done),
        End(run.id, 1, None, *done),
    ):
        with pytest.raises(LostLeaseError):
            store.write_now(ledger.end_attempts, stale)
    found = store.read_now(history.find_run, run.id)
    assert found is not None
    assert found.state is State.RUNNING


def test_waiting_says_for_what(store: Store) -> None:
    """A run waits and is pending again; a cancelled one starts no more."""
    run = new_run()
    store.write_now(ledger.insert_runs, run)
    store.write_now(ledger.set_waiting, Wait(run.id, "max_runs"))
    assert [each.waiting_for for each in store.read_now(history.unfinished_runs)] == ["max_runs"]
    store.write_now(ledger.set_waiting, Wait(run.id, None))
    assert [each.state for each in store.read_now(history.unfinished_runs)] == [State.PENDING]
    finished = store.write_now(ledger.finish_runs, Finish(run.id, Outcome.CANCELLED, NOON, reason="asked"))
    assert finished is not None
    assert finished.outcome is Outcome.CANCELLED
    assert begin(store, run) is None
    assert store.write_now(ledger.finish_runs, Finish(run.id, Outcome.MISSED, NOON)) is None


def test_why_a_run_waits_is_forgotten_when_it_begins(store: Store) -> None:
    """The reason of a waiting run says what is in its way, and goes with it."""
    run = new_run()
    store.write_now(ledger.insert_runs, run)
    store.write_now(ledger.set_waiting, Wait(run.id, "licence", reason="held by night"))
    assert [each.reason for each in store.read_now(history.unfinished_runs)] == ["held by night"]
    begin(store, run)
    assert [each.reason for each in store.read_now(history.unfinished_runs)] == [None]


def test_many_waits_share_one_transaction(store: Store) -> None:
    """Runs that begin to wait at once are written together, not one by one after a common failure."""
    runs = [new_run(at=NOON + timedelta(hours=hour)) for hour in range(3)]
    for run in runs:
        store.write_now(ledger.insert_runs, run)
    waits = [Wait(run.id, "max_runs") for run in runs]

    def together(connection: Connection, _items: Sequence[None]) -> list[None]:
        ledger.set_waiting(connection, waits)
        return [None]

    store.write_now(together, None)
    assert [each.waiting_for for each in store.read_now(history.unfinished_runs)] == ["max_runs"] * 3


def test_a_range_grows(store: Store) -> None:
    """Consecutive skips are one run that grows, also beside runs that are inserted at once."""
    run = new_run(state=State.FINISHED, outcome=Outcome.SKIPPED, reason="overlap", finished_at=NOON)
    store.write_now(ledger.insert_runs, run)
    later = NOON + timedelta(hours=1)
    store.write_now(ledger.grow_runs, Growth(run.id, later, 4, later))
    found = store.read_now(history.last_runs, [run.job, "unknown"])
    assert (found[run.job].fire_until, found[run.job].fire_count) == (later, 4)
    assert list(found) == [run.job]


def test_what_grew_since_is_listed(store: Store) -> None:
    """A range of skips that began before and grew later belongs to the later night too."""
    run = new_run(state=State.FINISHED, outcome=Outcome.SKIPPED, reason="parent", finished_at=NOON)
    store.write_now(ledger.insert_runs, run)
    later = NOON + timedelta(days=1)
    since = RunFilter(since=NOON + timedelta(hours=12))
    assert store.read_now(history.list_runs, since) == []
    store.write_now(ledger.grow_runs, Growth(run.id, later, 2, later))
    assert [each.fire_count for each in store.read_now(history.list_runs, since)] == [2]


def test_lists_are_newest_first_and_narrow(store: Store) -> None:
    """Filters combine; the limit cuts the oldest."""
    for minute in range(10):
        at = NOON + timedelta(minutes=minute)
        failed = minute % 2 == 0
        store.write_now(
            ledger.insert_runs,
            new_run(
                job=f"job-{minute % 3}", at=at, state=State.FINISHED,
                outcome=Outcome.FAILED if failed else Outcome.SUCCEEDED,
            ),
        )  # fmt: skip
    runs = store.read_now(history.list_runs, RunFilter(limit=3))
    assert [run.created_at.minute for run in runs] == [9, 8, 7]
    which = RunFilter(jobs=("job-0", "job-1"), outcomes=(Outcome.FAILED,), since=NOON + timedelta(minutes=1))
    assert [run.created_at.minute for run in store.read_now(history.list_runs, which)] == [6, 4]


def test_marks_are_replaced(store: Store) -> None:
    """A job has one mark, the last one written."""
    for hours in (1, 2):
        store.write_now(write_marks, Mark("products@acme", "s1", NOON + timedelta(hours=hours)))
    assert store.read_now(read_marks) == {
        "products@acme": Mark("products@acme", "s1", NOON + timedelta(hours=2))
    }


def test_nothing_leaves_the_end() -> None:
    """The transition table lets no run move on from finished, and every state reach it."""
    assert not MOVES[State.FINISHED]
    assert all(State.FINISHED in MOVES[state] for state in State if state is not State.FINISHED)


def test_ids_sort_by_time() -> None:
    """Later runs have greater ids."""
    ids = [new_run_id(NOON + timedelta(seconds=second)) for second in range(100)]
    assert ids == sorted(ids)
    assert {len(each) for each in ids} == {20}
