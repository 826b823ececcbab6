"""What simulated nights have found, each as a test of its own."""

from datetime import UTC, datetime, timedelta

from erpsync.core.job import After, Every, Job
from erpsync.core.run import Outcome, Run, RunTrigger, State
from erpsync.scheduling.planner import OVERLAP, merge

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
