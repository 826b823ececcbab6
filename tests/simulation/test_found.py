"""What simulated nights have found, each as a test of its own."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from erpsync.core.job import After, Every, Job
from erpsync.core.run import Outcome, Run, RunTrigger, State
from erpsync.scheduling.claim import Look, claim_due
from erpsync.scheduling.planner import OVERLAP, merge
from erpsync.scheduling.timetable import timetable
from erpsync.store.history import RunFilter, list_runs
from erpsync.store.marks import Mark
from erpsync.store.state import Store

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BOTH = Job("report", "report", "mirror", schedules=(Every(HOUR), After(("orders",))))


def _skipped(claim: str, fire: datetime) -> Run:
    return Run(
        claim,
        BOTH.name,
        claim,
        "mirror",
        RunTrigger.SCHEDULE,
        fire,
        fire_at=fire,
        state=State.FINISHED,
        outcome=Outcome.SKIPPED,
        reason=OVERLAP,
    )


def test_a_skip_of_a_fire_time_and_one_of_an_after_are_two_runs() -> None:
    """A range of fire times holds nothing else, or they could not be told from those nobody has claimed."""
    fire, after = (
        _skipped("at:2026-03-15T12:00:00Z", NOON),
        _skipped("after:parent", NOON + timedelta(minutes=9)),
    )
    following = _skipped("at:2026-03-15T13:00:00Z", NOON + HOUR)

    assert merge([after], {BOTH.name: fire}) == ([after], [])
    assert merge([following], {BOTH.name: after}) == ([following], [])
    assert merge([following], {BOTH.name: fire})[0] == []


def test_a_range_does_not_grow_over_what_others_have(tmp_path: Path) -> None:
    """After a correction of the clock runs lie ahead; misses before and after them are two ranges."""
    job = Job("hourly", "hourly", "mirror", schedules=(Every(HOUR),), catch_up="none", overlap="allow")
    table, marks = timetable(job), dict[str, Mark]()
    store = Store.open(tmp_path / "state.db")
    moments = (0.0, 1.01, 2.01, -4.0, 2.5, 3.5)  # hours after noon; the second and the third are on time
    for number, hours in enumerate(moments):
        ahead = frozenset({job.name} if number == 4 else ())
        claimed = store.write_now(claim_due, Look((table,), marks, NOON + hours * HOUR, ahead=ahead))
        marks |= {mark.job: mark for mark in claimed.marks}
    runs = store.read_now(list_runs, RunFilter())
    store.close()

    spans = sorted((run.fire_at, run.fire_until or run.fire_at) for run in runs if run.fire_at)
    assert all(last < first for (_, last), (first, _) in pairwise(spans))
    assert sum(run.fire_count for run in runs) == 7  # from nine in the morning to three in the afternoon
