"""Jobs that come after others: when their run is claimed, and when it is skipped."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection

from erpsync.core.job import After, Calendar, Job
from erpsync.core.run import Outcome, Run, RunTrigger, State
from erpsync.scheduling.handover import Succession, forget_parents, hand_over, successions, take_left
from erpsync.store.history import RunFilter, list_runs
from erpsync.store.ledger import insert_runs
from erpsync.store.pauses import Pause, remove_pauses, write_pauses
from erpsync.store.state import Store

NOW = datetime(2026, 3, 28, 12, tzinfo=UTC)
A, B = (Job(name, name, "noop") for name in "ab")
CHILD = Job("c", "c", "noop", schedules=(After(("a", "b")),), priority=3)
GRANDCHILD = Job("d", "d", "noop", schedules=(After(("c",)),))

Ends = tuple[Sequence[Run], Sequence[Job]]


def _end(connection: Connection, items: Sequence[Ends]) -> list[list[Run]]:
    """A store operation that finishes runs: each is written as it ended, and handed over."""
    answers = []
    for runs, jobs in items:
        insert_runs(connection, runs)
        answers.append(hand_over(connection, runs, successions(jobs), NOW))
    return answers


def _take(connection: Connection, items: Sequence[tuple[str, Sequence[Job]]]) -> list[list[Run]]:
    return [take_left(connection, child, successions(jobs), NOW) for child, jobs in items]


def _run(job: Job, number: int, outcome: Outcome = Outcome.SUCCEEDED, **changes: object) -> Run:
    run = Run(
        f"{job.name}{number}",
        job.name,
        f"at:{number}",
        "noop",
        RunTrigger.SCHEDULE,
        NOW,
        fire_at=NOW,
        state=State.FINISHED,
        outcome=outcome,
    )
    return replace(run, **changes)


def _fates(runs: Sequence[Run]) -> list[tuple[str, str, str | None]]:
    return [(run.job, run.claim, run.reason) for run in runs]


async def test_the_last_missing_parent_claims_the_childs_run(store: Store) -> None:
    """It is pending, knows its parents, and carries the child's priority; the parents are consumed."""
    jobs = [CHILD]
    assert await store.write(_end, ([_run(A, 1)], jobs)) == []
    (run,) = await store.write(_end, ([_run(B, 1)], jobs))

    assert (run.job, run.trigger, run.state, run.claim) == (
        "c",
        RunTrigger.AFTER,
        State.PENDING,
        "after:a1,b1",
    )
    assert (run.parents, run.fire_at, run.priority) == (("a1", "b1"), NOW, 3)
    assert store.read_now(list_runs, RunFilter(jobs=("c",))) == [run]
    assert await store.write(_end, ([_run(B, 2)], jobs)) == []


async def test_each_parent_gives_its_newest_run(store: Store) -> None:
    """What a parent did earlier and nobody consumed is replaced by what it did last."""
    both = replace(CHILD, overlap="allow")
    await store.write(_end, ([_run(A, 1), _run(A, 2)], [both]))
    (run,) = await store.write(_end, ([_run(B, 1)], [both]))

    assert run.claim == "after:a2,b1"


async def test_an_outcome_outside_on_skips_the_child_and_its_children(store: Store) -> None:
    """One failed parent: the run is recorded as skipped, and so is what comes after it, in one transaction."""
    jobs = [CHILD, GRANDCHILD]
    await store.write(_end, ([_run(A, 1, Outcome.FAILED)], jobs))
    runs = await store.write(_end, ([_run(B, 1)], jobs))

    child, grandchild = runs
    assert _fates(runs) == [("c", "after:a1,b1", "parent"), ("d", f"after:{child.id}", "parent")]
    assert {run.outcome for run in runs} == {Outcome.SKIPPED}
    assert grandchild.parents == (child.id,)


async def test_on_may_name_any_outcome(store: Store) -> None:
    """A job that cleans up runs after a failure too."""
    cleaner = replace(CHILD, schedules=(After(("a",), frozenset({Outcome.FAILED, Outcome.MISSED})),))

    failed = await store.write(_end, ([_run(A, 1, Outcome.FAILED)], [cleaner]))
    succeeded = await store.write(_end, ([_run(A, 2)], [replace(cleaner, overlap="allow")]))

    assert [run.state for run in failed] == [State.PENDING]
    assert [run.reason for run in succeeded] == ["parent"]


async def test_consecutive_skips_are_one_growing_run(store: Store) -> None:
    """A parent that fails every night leaves one skipped run of its child, and that one of the child's own."""
    jobs = [replace(CHILD, schedules=(After(("a",)),)), GRANDCHILD]
    for night in range(3):
        await store.write(_end, ([_run(A, night, Outcome.FAILED)], jobs))

    runs = store.read_now(list_runs, RunFilter(jobs=("c", "d")))
    assert sorted((run.job, run.fire_count) for run in runs) == [("c", 3), ("d", 3)]


async def test_a_dry_run_hands_nothing_over(store: Store) -> None:
    """It did nothing that a child could go on from."""
    jobs = [replace(CHILD, schedules=(After(("a",)),))]

    assert await store.write(_end, ([_run(A, 1, params={"dry_run": True})], jobs)) == []


async def test_a_slice_of_a_backfill_hands_nothing_over_and_is_in_nobodys_way(store: Store) -> None:
    """Its end starts no child, and while it lives the job's own runs are not skipped for overlap."""
    child = replace(CHILD, schedules=(After(("a",)),))
    past = _run(A, 1, trigger=RunTrigger.BACKFILL)
    assert await store.write(_end, ([past], [child])) == []
    live = _run(child, 2, trigger=RunTrigger.BACKFILL, state=State.RUNNING, outcome=None)
    await store.write(insert_runs, live)
    (run,) = await store.write(_end, ([_run(A, 3)], [child]))
    assert run.outcome is None


async def test_a_child_that_lives_is_not_doubled(store: Store) -> None:
    """As its overlap says: skipped, one waiting behind, or beside."""
    alone = replace(CHILD, schedules=(After(("a",)),))
    for overlap, expected in {
        "skip": [None, "overlap", "overlap"],
        "queue": [None, None, "overlap"],
        "allow": [None, None, None],
        "replace": [None, None, None],
    }.items():
        child = replace(alone, name=overlap, overlap=overlap)
        runs: list[Run] = []
        for number in range(3):
            ended = _run(A, number, id=f"{overlap}{number}", claim=f"{overlap}{number}")
            runs += await store.write(_end, ([ended], [child]))
        assert [run.reason for run in runs] == expected[: len(runs)]
        assert len([run for run in runs if run.state is State.PENDING]) == expected.count(None)


async def test_a_blackout_skips_the_child_or_lets_it_wait(store: Store) -> None:
    """The instant of the handover is its nominal time."""
    dark = replace(
        CHILD, schedules=(After(("a",)),), blackout=(Calendar("free", dates=frozenset({date(2026, 3, 28)})),)
    )
    late = replace(dark, name="late", on_blackout="postpone")

    runs = await store.write(_end, ([_run(A, 1)], [dark, late]))

    assert [(run.job, run.reason) for run in runs] == [("c", "blackout"), ("late", None)]


async def test_a_paused_child_takes_its_parents_when_it_is_resumed(store: Store) -> None:
    """Meanwhile nothing of it is written; then one run goes on from the newest."""
    jobs = [replace(CHILD, schedules=(After(("a",)),))]
    await store.write(write_pauses, Pause("c", NOW - timedelta(hours=1)))
    for number in range(2):
        assert await store.write(_end, ([_run(A, number)], jobs)) == []
    await store.write(remove_pauses, "c")

    runs = await store.write(_take, ("c", jobs))

    assert [run.claim for run in runs] == ["after:a1"]


async def test_what_nobody_waits_for_is_forgotten(store: Store) -> None:
    """A job that no longer comes after a parent does not find its run when it does so again."""
    await store.write(_end, ([_run(A, 1)], [CHILD]))
    await store.write(forget_parents, successions([GRANDCHILD]))

    assert await store.write(_end, ([_run(B, 1)], [CHILD])) == []


def test_who_is_switched_off_comes_after_nobody() -> None:
    """Rules are kept by the parent's name, each parent once."""
    twice = replace(CHILD, schedules=(After(("a", "a")),))

    assert successions([replace(CHILD, enabled=False)]) == {}
    assert successions([twice]) == {"a": (Succession(twice, After(("a", "a"))),)}
