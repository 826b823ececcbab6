"""Who may start: limits, priority, fairness."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from erpsync.core.run import Run, RunTrigger
from erpsync.running.admission import Admission

START = datetime(2026, 1, 1, tzinfo=UTC)


def run(number: int, instance: str | None = None, priority: int = 0) -> Run:
    at = START + timedelta(seconds=number)
    name = f"r{number}"
    return Run(
        name, "job", name, "p", RunTrigger.SCHEDULE, at, instance=instance, fire_at=at, priority=priority
    )


def taken(admission: Admission) -> list[str]:
    return [run.id for run in admission.take()]


def test_priority_then_fire_time() -> None:
    """The higher priority goes first, then the earlier fire time."""
    admission = Admission(10, {})
    for one in (run(3), run(1), run(2, priority=5)):
        admission.put(one)
    assert taken(admission) == ["r2", "r1", "r3"]


def test_a_backfill_takes_what_others_leave() -> None:
    """Its slices start after everything else, whatever their priority."""
    admission = Admission(10, {})
    for one in (replace(run(1, priority=9), trigger=RunTrigger.BACKFILL), run(2)):
        admission.put(one)
    assert taken(admission) == ["r2", "r1"]


def test_limits_hold_and_free_slots_are_used() -> None:
    """Neither limit is passed; a run says which of them it waits for; a release lets the next in."""
    admission = Admission(3, {"acme": 1})
    runs = [run(1, "acme"), run(2, "acme"), run(3, "beta"), run(4, "beta"), run(5, "beta")]
    for one in runs:
        admission.put(one)
    assert taken(admission) == ["r1", "r3", "r4"]
    assert (admission.lacks(runs[1]), admission.lacks(runs[4])) == ("instance max_runs", "max_runs")
    admission.release("r3")
    assert taken(admission) == ["r5"]
    admission.release("r1")
    assert taken(admission) == ["r2"]


def test_instances_take_turns() -> None:
    """With every slot taken, an instance with many runs does not keep another from its one."""
    admission = Admission(1, {})
    for number in range(1, 5):
        admission.put(run(number, "acme"))
    admission.put(run(9, "beta"))
    order = []
    for _ in range(5):
        order += taken(admission)
        admission.release(order[-1])
    assert order == ["r1", "r9", "r2", "r3", "r4"]


def test_run_is_queued_once() -> None:
    """A run that is queued or running is not queued again; a withdrawn one does not start."""
    admission = Admission(1, {})
    assert admission.put(run(1))
    assert not admission.put(run(1))
    assert admission.put(run(2))
    assert admission.withdraw("r2")
    assert not admission.withdraw("r2")
    assert taken(admission) == ["r1"]
    assert not admission.put(run(1))
    admission.release("r1")
    assert taken(admission) == []


def test_pool_limits_its_own_runs_only() -> None:
    """A pool that is full keeps its runs waiting whatever their instance, and nobody else; priority goes first."""
    admission = Admission(9, {"acme": 2}, {"warehouse": 2})
    pooled = [run(1, "acme"), run(2, "beta"), run(3, "beta"), run(4, "beta", priority=5)]
    for one in pooled:
        admission.put(one, "warehouse")
    for one in (run(5, "acme"), run(6, "acme"), run(7)):
        admission.put(one)
    assert taken(admission) == ["r4", "r1", "r7", "r5"]
    assert (admission.lacks(pooled[1]), admission.lacks(run(6, "acme"))) == ("pool", "instance max_runs")
    admission.release("r4")
    assert taken(admission) == ["r2"]


def test_run_may_come_back_after_it_was_withdrawn() -> None:
    """A run that was withdrawn and queued again starts once, as it was queued last."""
    admission = Admission(1, {})
    admission.put(run(1))
    admission.withdraw("r1")
    again = run(1)
    admission.put(again)
    assert [one is again for one in admission.take()] == [True]
    admission.release("r1")
    assert taken(admission) == []
