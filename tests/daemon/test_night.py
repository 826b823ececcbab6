"""The night in review: what is fine, what is not, and what silence looks like."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest

from erpsync.core.job import After, Calendar, Cron, Job, Manual
from erpsync.core.run import Outcome, Run, RunTrigger, State
from erpsync.daemon.night import Evidence, Review, review
from erpsync.daemon.overdue import Overdue, due_tables, overdue
from erpsync.scheduling.timetable import schedule_text
from erpsync.store.marks import Mark
from erpsync.store.pauses import Pause

SINCE = datetime(2026, 5, 4, 18, tzinfo=UTC)  # a Monday
NOW = datetime(2026, 5, 5, 7, tzinfo=UTC)
NIGHTLY = Job("products", "products", "mirror", schedules=(Cron("0 2 * * *"),))
FIRE = datetime(2026, 5, 5, 2, tzinfo=UTC)


def ended(outcome: Outcome, *, reason: str | None = None, at: datetime = FIRE, **more: object) -> Run:
    run = Run(f"run-{at:%H%M}", "products", f"at:{at}", "mirror", RunTrigger.SCHEDULE, at, fire_at=at)
    return replace(
        run, state=State.FINISHED, outcome=outcome, reason=reason, finished_at=at, **more  # type: ignore[arg-type]
    )  # fmt: skip


def looked(*runs: Run, until: datetime = FIRE, job: Job = NIGHTLY, **more: object) -> Review:
    """The review of one job that was planned up to `until`; the runs newest first."""
    marks = {job.name: Mark(job.name, schedule_text(job), until)}
    succeeded = {run.job: run.fire_at for run in runs if run.outcome is Outcome.SUCCEEDED and run.fire_at}
    evidence = Evidence(runs, (), marks, successes=succeeded)
    return review([job], replace(evidence, **more), SINCE, NOW)  # type: ignore[arg-type]


def late_of(job: Job, last: datetime | None, since: datetime, now: datetime, *parents: Job) -> Overdue | None:
    tables = due_tables([job, *parents])
    return overdue(tables[job.name], last, since, now, tables)


def test_a_quiet_night_is_fine() -> None:
    """Every fire time is in the ledger and ended well: fine, with the age of the data."""
    found = looked(ended(Outcome.SUCCEEDED))
    assert (found.is_fine, found.outcomes, found.data) == (True, {"succeeded": 1}, {"products": FIRE})
    assert found.document()["data"] == [
        {"job": "products", "last_success_at": "2026-05-05T02:00:00Z", "age_seconds": 18000.0}
    ]


def test_data_is_never_younger_than_now() -> None:
    """A success that ended after the question, or under a clock that was ahead, is of age zero."""
    found = looked(ended(Outcome.SUCCEEDED, at=NOW + timedelta(minutes=1)))
    assert found.ages == {"products": timedelta(0)}
    assert found.document()["data"][0]["age_seconds"] == 0  # type: ignore[index]


def test_a_parked_job_is_named_with_what_shows_the_cause() -> None:
    """Triggering it would be refused; `check` says what is in the way."""
    (finding,) = looked(ended(Outcome.SKIPPED, reason="parked", fire_count=3)).findings
    assert (finding.kind, finding.count, finding.next) == ("parked", 3, "erpsync check")


def test_silence_is_a_finding() -> None:
    """A fire time that nobody has planned is found, by a mark that stays behind or that never was."""
    for found in (
        looked(until=SINCE - timedelta(days=1)),
        review([NIGHTLY], Evidence(), SINCE, NOW),
    ):
        (finding,) = found.findings
        assert (finding.kind, finding.at, finding.count) == ("silent", FIRE, 1)
        assert finding.next == "erpsync status"
    still = review([NIGHTLY], Evidence(), SINCE, FIRE + timedelta(seconds=30))
    assert still.is_fine, "half a minute is no silence"


def test_a_busy_night_is_searched_in_bounded_work() -> None:
    """Thousands of runs, and a range that reaches over some of them, cost some steps a fire time, not one a run."""
    compared = itertools.count()

    class Instant(datetime):
        __hash__ = datetime.__hash__

        def __lt__(self, other: object) -> bool:
            next(compared)
            return super().__lt__(other)  # type: ignore[operator]

        def __le__(self, other: object) -> bool:
            next(compared)
            return super().__le__(other)  # type: ignore[operator]

    often = replace(NIGHTLY, schedules=(Cron("*/15 * * * * *"),))
    begin = Instant(2026, 5, 4, 18, tzinfo=UTC)
    runs = [ended(Outcome.SUCCEEDED, at=begin + timedelta(seconds=15 * number)) for number in range(2000)]
    missing = runs[700].fire_at
    reach = replace(runs[100], fire_until=runs[300].fire_at)
    kept = [*runs[:100], reach, *runs[200:700], *runs[701:]]

    (finding,) = looked(*reversed(kept), job=often, until=SINCE).findings
    assert (finding.kind, finding.at, finding.count) == ("silent", missing, 1)
    assert next(compared) < 100_000


def test_silence_is_measured_by_the_schedule_that_is_in_force() -> None:
    """A new schedule that no daemon has read yet is not expected; the one it knows is. A pause is no silence."""
    changed = replace(NIGHTLY, schedules=(Cron("* * * * *"),))
    evidence = Evidence((), (), {"products": Mark("products", schedule_text(NIGHTLY), SINCE)})
    (finding,) = review([changed], evidence, SINCE, NOW).findings
    assert (finding.at, finding.count) == (FIRE, 1)
    paused = replace(evidence, pauses={"products": Pause("products", SINCE)})
    found = review([NIGHTLY], paused, SINCE, NOW)
    assert (found.is_fine, found.paused) == (True, ("products",))


@pytest.mark.parametrize(
    ("outcome", "reason", "command"),
    [
        (Outcome.FAILED, None, "erpsync show run-0200"),
        (Outcome.PARTIAL, None, "erpsync show run-0200"),
        (Outcome.MISSED, "pool", "erpsync trigger products"),
        (Outcome.SKIPPED, "parent", "erpsync trigger products"),
    ],
)
def test_troubles_say_why_and_what_to_type(outcome: Outcome, reason: str | None, command: str) -> None:
    """What did not end well is found with its reason and a command, unless the job succeeded afterwards."""
    trouble = ended(outcome, reason=reason)
    (finding,) = looked(trouble).findings
    assert (finding.kind, finding.why, finding.next) == (outcome.value, reason or "", command)
    mended = looked(ended(Outcome.SUCCEEDED, at=FIRE + timedelta(hours=1)), trouble)
    assert (mended.is_fine, mended.mended) == (True, 1)


@pytest.mark.parametrize("reason", ["blackout", "paused"])
def test_what_was_wanted_is_no_trouble(reason: str) -> None:
    """Skips that the configuration or a person asked for are fine, and so is what somebody tried by hand."""
    assert looked(ended(Outcome.SKIPPED, reason=reason)).is_fine
    assert looked(ended(Outcome.FAILED, params={"set": {"page": 1}})).is_fine


@pytest.mark.parametrize(
    ("blocks", "why", "command"),
    [
        (
            {"state": State.RUNNING},
            "run hang is running, for 4d5h now",
            "erpsync logs products --follow",
        ),
        (
            {"state": State.WAITING, "waiting_for": "back-off"},
            "run hang waits for back-off, for 4d5h now",
            "erpsync cancel hang",
        ),
        (None, "overlap", "erpsync trigger products"),
    ],
)
def test_a_job_that_is_blocked_all_night_is_in_trouble(
    blocks: dict[str, object] | None, why: str, command: str
) -> None:
    """Skips for overlap are fine where the job succeeded too; else it is said what is in the way, and what to do."""
    skipped = ended(Outcome.SKIPPED, reason="overlap")
    began = FIRE - timedelta(days=4)
    hang = Run("hang", "products", "at:x", "mirror", RunTrigger.SCHEDULE, began, started_at=began)
    live = [replace(hang, **blocks)] if blocks else []  # type: ignore[arg-type]

    (finding,) = looked(skipped, live=live).findings
    assert (finding.kind, finding.why, finding.next) == ("skipped", why, command)
    assert looked(skipped, ended(Outcome.SUCCEEDED, at=SINCE), live=live).is_fine
    assert not looked(skipped, live=live, successes={"products": SINCE - timedelta(hours=1)}).is_fine


def test_a_failure_stands_before_runs_that_did_not_begin() -> None:
    """What failed is named and counted alone, also where a later run was skipped for it, unless it is still there."""
    failed = [ended(Outcome.FAILED, at=FIRE + timedelta(hours=hour)) for hour in (2, 1)]
    skipped = ended(Outcome.SKIPPED, reason="overlap", at=FIRE + timedelta(hours=3))
    (finding,) = looked(skipped, *failed, until=FIRE + timedelta(hours=3)).findings
    assert (finding.kind, finding.count, finding.next) == ("failed", 2, f"erpsync show {failed[0].id}")
    hang = Run("hang", "products", "at:x", "mirror", RunTrigger.SCHEDULE, FIRE, state=State.RUNNING)
    (finding,) = looked(skipped, *failed, until=FIRE + timedelta(hours=3), live=[hang]).findings
    assert (finding.kind, finding.count, finding.next) == ("skipped", 1, "erpsync logs products --follow")


def test_a_job_without_success_by_its_time_is_overdue() -> None:
    """No success by `due_by` is a finding of the night."""
    job = replace(NIGHTLY, due_by=time(6, 30))
    (finding,) = looked(job=job).findings
    assert (finding.kind, finding.at) == ("overdue", datetime(2026, 5, 5, 6, 30, tzinfo=UTC))


@pytest.mark.parametrize(
    ("success", "now", "expected"),
    [
        ("2026-05-05T02:10", "2026-05-05T07:00", False),
        ("2026-05-04T02:10", "2026-05-05T07:00", True),
        ("2026-05-04T02:10", "2026-05-05T06:29", False),
        ("2026-05-05T06:40", "2026-05-05T07:00", False),
        ("2026-05-05T06:40", "2026-05-06T07:00", True),
        (None, "2026-05-05T07:00", True),
    ],
)
def test_overdue_by_the_clock(success: str | None, now: str, expected: bool) -> None:
    """Overdue from `due_by` on until the next success, if none came since the fire time."""
    job = replace(NIGHTLY, due_by=time(6, 30))
    last = datetime.fromisoformat(success).replace(tzinfo=UTC) if success else None
    late = late_of(job, last, SINCE, datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert (late is not None) is expected


@pytest.mark.parametrize(
    ("cron", "due_by", "success", "expected"),
    [
        ("*/15 * * * *", time(6, 30), "2026-05-05 06:15:10", False),
        ("*/15 * * * *", time(6, 30), "2026-05-05 00:00:10", False),
        ("*/15 * * * *", time(6, 30), "2026-05-04 23:59:00", True),
        ("*/15 * * * *", time(0), "2026-05-04 12:00:10", False),
        ("*/15 * * * *", time(0), "2026-05-03 12:00:10", True),
        ("0 20-22 * * *", time(6, 30), "2026-05-04 20:10:00", False),
        ("0 20-22 * * *", time(6, 30), "2026-05-04 19:10:00", True),
        ("30 6 * * *", time(6, 30), "2026-05-04 06:40:00", False),
        ("30 6 * * *", time(6, 30), "2026-05-04 06:20:00", True),
    ],
)
def test_one_success_of_the_day_is_in_time(cron: str, due_by: time, success: str, expected: bool) -> None:
    """A job that fires often is not overdue for the run that is due just then, only without a success that day."""
    job = replace(NIGHTLY, schedules=(Cron(cron),), due_by=due_by)
    last = datetime.fromisoformat(success).replace(tzinfo=UTC)
    assert (late_of(job, last, SINCE, datetime(2026, 5, 5, 6, 30, tzinfo=UTC)) is not None) is expected


def test_a_weekly_job_stays_overdue_until_it_succeeds() -> None:
    """What failed on Monday is still overdue on Wednesday."""
    weekly = replace(NIGHTLY, schedules=(Cron("0 2 * * MON"),), due_by=time(6, 30))
    success = datetime(2026, 4, 27, 2, 10, tzinfo=UTC)
    for day in (4, 5, 6):
        late = late_of(weekly, success, SINCE, datetime(2026, 5, day, 12, tzinfo=UTC))
        assert late is not None
        assert late.due_at == datetime(2026, 5, 4, 6, 30, tzinfo=UTC)
    assert late_of(weekly, success, SINCE, datetime(2026, 5, 4, 6, tzinfo=UTC)) is None


def test_overdue_in_the_zone_of_the_job() -> None:
    """`due_by` is a time of the job's own zone, on both sides of a clock change."""
    job = replace(NIGHTLY, due_by=time(6, 30), timezone="Europe/Sofia")
    for day, hour in ((28, 4), (29, 3)):  # the clocks go forward on the 29th
        now = datetime(2026, 3, day, hour, 30, tzinfo=UTC)
        late = late_of(job, None, now - timedelta(days=1), now)
        assert late is not None
        assert late.due_at == now


def test_a_day_without_work_is_due_nothing() -> None:
    """On weekends, in blackouts and before it was known a job is not overdue."""
    friday = datetime(2026, 5, 8, 2, 10, tzinfo=UTC)
    sunday = datetime(2026, 5, 10, 7, tzinfo=UTC)
    due = replace(NIGHTLY, due_by=time(6, 30))
    weekdays = replace(due, schedules=(Cron("0 2 * * MON-FRI"),))
    dark = replace(due, blackout=(Calendar("weekend", weekdays=frozenset({5, 6})),))
    assert late_of(due, friday, SINCE, sunday) is not None
    assert late_of(weekdays, friday, SINCE, sunday) is None
    assert late_of(dark, friday, SINCE, sunday) is None
    assert late_of(due, None, sunday, sunday) is None


WEEKEND = Calendar("weekend", weekdays=frozenset({5, 6}))
REPORT = replace(NIGHTLY, name="report", schedules=(After(("products",)),), due_by=time(6, 30))


@pytest.mark.parametrize(
    "parent",
    [
        replace(NIGHTLY, schedules=(Cron("0 2 * * MON-FRI"),)),
        replace(NIGHTLY, blackout=(WEEKEND,)),
    ],
)
def test_what_comes_after_others_is_due_when_they_are(parent: Job) -> None:
    """On a weekend without work of its parent it is late for Friday's success alone, on Monday for Monday's."""
    friday, since = datetime(2026, 5, 8, 2, 20, tzinfo=UTC), SINCE
    own = replace(REPORT, blackout=(WEEKEND,)) if parent.blackout else REPORT
    days = {
        day: late_of(own, friday, since, datetime(2026, 5, day, 7, tzinfo=UTC), parent)
        for day in range(8, 12)
    }
    assert [day for day, late in days.items() if late] == [11]
    before = friday - timedelta(days=1)
    assert late_of(own, before, since, datetime(2026, 5, 10, 7, tzinfo=UTC), parent) is not None
    assert late_of(own, friday, since, datetime(2026, 5, 11, 6, tzinfo=UTC), parent) is None


def test_long_chains_and_meshes_of_jobs_are_overdue_like_short_ones() -> None:
    """A step a job, with a blackout on the way too."""
    chain = [replace(NIGHTLY, name="0")]
    chain += [
        replace(REPORT, name=f"{n}", schedules=(After((f"{n - 1}",)),), due_by=None) for n in range(1, 1200)
    ]
    chain[600] = replace(chain[600], blackout=(WEEKEND,))
    mesh = [replace(NIGHTLY, name=f"{side}0") for side in "lr"]
    for n in range(1, 40):
        parents = (After((f"l{n - 1}", f"r{n - 1}")),)
        mesh += [replace(REPORT, name=f"{side}{n}", schedules=parents, due_by=None) for side in "lr"]
    report = replace(REPORT, schedules=(After(("1199", "l39")),))
    friday, sunday = datetime(2026, 5, 8, 2, 20, tzinfo=UTC), datetime(2026, 5, 10, 7, tzinfo=UTC)

    assert late_of(report, friday, SINCE, sunday, *chain, *mesh) is None
    assert late_of(report, friday, SINCE, sunday + timedelta(days=1), *chain, *mesh) is not None


def test_what_comes_after_two_is_due_when_both_have_work() -> None:
    """A weekly and a nightly parent make a weekly child; one that a person starts alone is due every day."""
    weekly = replace(NIGHTLY, name="stock", schedules=(Cron("0 4 * * MON"),))
    both = replace(REPORT, schedules=(After(("products", "stock")),))
    monday = datetime(2026, 5, 4, 4, 20, tzinfo=UTC)
    for day, expected in ((8, False), (10, False), (11, True)):
        now = datetime(2026, 5, day, 7, tzinfo=UTC)
        assert (late_of(both, monday, SINCE, now, NIGHTLY, weekly) is not None) is expected
    asked = replace(NIGHTLY, schedules=(Manual(),))
    assert late_of(REPORT, monday, SINCE, datetime(2026, 5, 8, 7, tzinfo=UTC), asked) is not None


def test_postponed_work_is_due_after_its_blackout() -> None:
    """Saturday's and Sunday's runs start on Monday: then, and not before, a success is expected."""
    job = replace(NIGHTLY, blackout=(WEEKEND,), on_blackout="postpone", due_by=time(6, 30))
    friday = datetime(2026, 5, 8, 2, 10, tzinfo=UTC)
    late = {day: late_of(job, friday, SINCE, datetime(2026, 5, day, 7, tzinfo=UTC)) for day in range(8, 12)}
    assert [day for day, each in late.items() if each] == [11]
    monday = datetime(2026, 5, 11, 0, 10, tzinfo=UTC)
    only_weekend = replace(job, schedules=(Cron("0 2 * * SAT"),))
    assert late_of(only_weekend, monday, SINCE, datetime(2026, 5, 11, 7, tzinfo=UTC)) is None
    assert late_of(only_weekend, friday, SINCE, datetime(2026, 5, 11, 7, tzinfo=UTC)) is not None
