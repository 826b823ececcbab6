"""The planner against the definitions, fire time by fire time."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpsync.core.calendar import covers
from erpsync.core.job import At, Calendar, Cron, Every, Job
from erpsync.core.run import Outcome, Run, RunTrigger, State
from erpsync.scheduling.planner import CORRECTION, IDENTITY, UNKNOWN, Plan, Span, merge, plan
from erpsync.scheduling.timetable import Timetable, schedule_text, timetable
from erpsync.scheduling.trigger import Trigger
from erpsync.store.ledger import Growth
from erpsync.store.marks import Mark
from erpsync.store.pauses import Pause

NOW = datetime(2026, 3, 28, 12, 0, 1, tzinfo=UTC)
NOON = NOW.replace(second=0)
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
HOURLY = Job(
    "orders@acme",
    "orders",
    "mirror",
    identity="night@acme",
    instance="acme",
    schedules=(Cron("0 * * * *"),),
    priority=7,
)


def _plan(job: Job, *, since: datetime | None, now: datetime = NOW, live: int = 0) -> Plan:
    """Plan one job whose mark stands at `since`; None: it was never seen."""
    marks = {} if since is None else {job.name: Mark(job.name, schedule_text(job), since)}
    return plan([timetable(job)], marks, {job.name: live}, now)


def _fates(runs: tuple[Run, ...] | list[Run]) -> list[tuple[str, datetime | None, int, str | None]]:
    return [
        (run.outcome.value if run.outcome else run.trigger.value, run.fire_at, run.fire_count, run.reason)
        for run in runs
    ]


# -- one job, one look --------------------------------------------------------------------------------


def test_a_due_fire_time_is_a_pending_run() -> None:
    """The run carries the job's names and priority and is claimed by its instant."""
    found = _plan(HOURLY, since=NOON - HOUR)

    (run,) = found.runs
    assert (run.job, run.plugin, run.identity, run.instance, run.priority) == (
        "orders@acme",
        "mirror",
        "night@acme",
        "acme",
        7,
    )
    assert (run.claim, run.trigger, run.state) == (
        "at:2026-03-28T12:00:00Z",
        RunTrigger.SCHEDULE,
        State.PENDING,
    )
    assert (run.fire_at, run.fire_until, run.created_at) == (NOON, None, NOW)
    assert found.marks == (Mark(HOURLY.name, schedule_text(HOURLY), NOON),)


def test_nothing_due_writes_nothing() -> None:
    """Between fire times there is neither a run nor a mark to write."""
    assert _plan(HOURLY, since=NOON) == Plan((), ())


def test_the_first_sight_of_a_job_starts_now() -> None:
    """A job never seen fires nothing, not even what is due this second."""
    assert _plan(HOURLY, since=None, now=NOON) == Plan((), (Mark(HOURLY.name, schedule_text(HOURLY), NOON),))


def test_a_disabled_job_is_not_planned() -> None:
    """Switched off, a job has no fire times; what its schedule left open is recorded once."""
    off = replace(HOURLY, enabled=False)
    marks = {off.name: Mark(off.name, schedule_text(HOURLY), NOON - 2 * HOUR)}

    first = plan([timetable(off)], marks, {}, NOW)
    again = plan([timetable(off)], {off.name: first.marks[0]}, {}, NOW + 24 * HOUR)
    back = plan([timetable(HOURLY)], {off.name: first.marks[0]}, {}, NOW + 48 * HOUR)

    assert _fates(first.runs) == [("missed", NOON - HOUR, 2, "schedule_changed")]
    assert again == Plan((), ())
    assert (back.runs, back.marks[0].until) == ((), NOW + 48 * HOUR)


def test_a_changed_schedule_starts_now_and_records_the_old_open_span() -> None:
    """What the old schedule had due is one missed range; the new one fires nothing into the past."""
    marks = {HOURLY.name: Mark(HOURLY.name, schedule_text(HOURLY), NOON - 5 * HOUR)}
    changed = replace(HOURLY, schedules=(Every(MINUTE),))

    found = plan([timetable(changed)], marks, {}, NOW)

    assert _fates(found.runs) == [("missed", NOON - 4 * HOUR, 5, "schedule_changed")]
    assert found.runs[0].fire_until == NOON
    before = ((NOW, schedule_text(HOURLY)),)
    assert found.marks == (Mark(HOURLY.name, schedule_text(changed), NOW, before),)


def test_an_old_schedule_that_cannot_be_read_is_a_range_of_unknown_size() -> None:
    """A schedule that another version wrote down leaves a miss behind, not silence."""
    marks = {HOURLY.name: Mark(HOURLY.name, "from the future", NOON - 5 * HOUR)}

    (run,) = plan([timetable(HOURLY)], marks, {}, NOW).runs

    assert (run.outcome, run.reason, run.fire_count, run.fire_until) == (
        Outcome.MISSED,
        "schedule_changed",
        UNKNOWN,
        NOW,
    )


@pytest.mark.parametrize(
    ("changes", "live", "fates"),
    [
        ({}, 0, [("missed", -2, 2, "late"), ("schedule", 0, 1, None)]),
        ({"catch_up": "none"}, 0, [("missed", -2, 2, "catch_up_none"), ("schedule", 0, 1, None)]),
        (
            {"catch_up": "all"},
            0,
            [("catch_up", -2, 1, None), ("catch_up", -1, 1, None), ("schedule", 0, 1, None)],
        ),
        (
            {"catch_up": "all", "catch_up_limit": 1},
            0,
            [("missed", -2, 1, "catch_up_limit"), ("catch_up", -1, 1, None), ("schedule", 0, 1, None)],
        ),
        (
            {"catch_up": "all", "catch_up_window": 90 * MINUTE},
            0,
            [("missed", -2, 1, "catch_up_window"), ("catch_up", -1, 1, None), ("schedule", 0, 1, None)],
        ),
        ({"grace": timedelta(0)}, 0, [("missed", -2, 2, "late"), ("catch_up", 0, 1, None)]),
        ({"grace": timedelta(0), "catch_up": "none"}, 0, [("missed", -2, 3, "catch_up_none")]),
        (
            {"grace": timedelta(0), "catch_up_window": timedelta(0)},
            0,
            [("missed", -2, 3, "catch_up_window")],
        ),
        ({}, 1, [("missed", -2, 2, "late"), ("skipped", 0, 1, "overlap")]),
        ({"catch_up": "all"}, 1, [("skipped", -2, 3, "overlap")]),
        ({"overlap": "allow"}, 1, [("missed", -2, 2, "late"), ("schedule", 0, 1, None)]),
    ],
)
def test_what_becomes_of_three_hours_that_are_due_at_once(
    changes: dict[str, object], live: int, fates: list[tuple[str, int, int, str | None]]
) -> None:
    """Of 10:00, 11:00 and 12:00 seen one second past noon, the policy decides, the oldest first."""
    found = _plan(replace(HOURLY, **changes), since=NOON - 3 * HOUR, live=live)

    assert _fates(found.runs) == [
        (what, NOON + hours * HOUR, count, reason) for what, hours, count, reason in fates
    ]


def test_the_spread_delays_the_start_and_keeps_the_fire_time() -> None:
    """A run becomes due its delay after the fire time, is on time then, and keeps the nominal instant."""
    spread = replace(HOURLY, spread=30 * MINUTE, grace=SECOND)
    delay = timetable(spread).delay

    before = _plan(spread, since=NOON - HOUR, now=NOON + delay - SECOND)
    due = _plan(spread, since=NOON - HOUR, now=NOON + delay)

    assert delay > MINUTE
    assert before == Plan((), ())
    assert _fates(due.runs) == [("schedule", NOON, 1, None)]


def test_a_clock_set_back_a_little_repeats_nothing() -> None:
    """Up to three hours back the mark holds: nothing fires until the clock has passed it again."""
    back = NOON - CORRECTION

    assert _plan(HOURLY, since=NOON, now=back) == Plan((), ())
    assert _plan(HOURLY, since=NOON, now=NOON + HOUR - SECOND) == Plan((), ())
    assert _fates(_plan(HOURLY, since=NOON, now=NOON + HOUR).runs) == [("schedule", NOON + HOUR, 1, None)]


def test_a_clock_set_back_far_is_a_correction() -> None:
    """By more than three hours the mark returns to the present, and the plan says so."""
    back = NOON - CORRECTION - SECOND

    found = _plan(HOURLY, since=NOON, now=back)

    assert (found.runs, [mark.until for mark in found.marks]) == ((), [back])
    assert found.corrected == (Mark(HOURLY.name, schedule_text(HOURLY), NOON),)


def test_an_instant_that_has_passed_is_caught_up_once() -> None:
    """A job with one fire time that fell into a downtime runs late, and never again."""
    once = replace(HOURLY, schedules=(At(NOON - 3 * HOUR),))

    found = _plan(once, since=NOON - 9 * HOUR)

    assert _fates(found.runs) == [("catch_up", NOON - 3 * HOUR, 1, None)]
    assert _plan(once, since=found.marks[0].until) == Plan((), ())


# -- bounded time ------------------------------------------------------------------------------------


@dataclass
class CountingTrigger:
    """Another trigger, and how many fire times were taken from it."""

    inner: Trigger
    steps: int = 0

    @property
    def zone(self) -> ZoneInfo:
        return self.inner.zone

    def after(self, instant: datetime) -> Iterator[datetime]:
        return self._counted(self.inner.after(instant))

    def until(self, instant: datetime) -> Iterator[datetime]:
        return self._counted(self.inner.until(instant))

    def note(self, instant: datetime) -> str:
        return self.inner.note(instant)

    def _counted(self, fires: Iterator[datetime]) -> Iterator[datetime]:
        for fire in fires:
            self.steps += 1
            yield fire


@pytest.mark.parametrize("expression", ["* * * * * *", "0-59 * * * * *"])
@pytest.mark.parametrize("catch_up", ["last", "none", "all"])
def test_thirty_days_of_every_second_are_planned_in_few_steps(expression: str, catch_up: str) -> None:
    """2.6 million misses cost about as many steps as can be counted, and are ranges of unknown size."""
    job = replace(HOURLY, schedules=(Cron(expression),), catch_up=catch_up)
    table = timetable(job)
    counting = CountingTrigger(table.trigger)
    since = NOW - timedelta(days=30)
    marks = {job.name: Mark(job.name, table.schedule, since)}

    found = plan([Timetable(job, counting, table.schedule, table.delay)], marks, {}, NOW)

    assert counting.steps < 2_100
    missed = [run for run in found.runs if run.outcome is Outcome.MISSED]
    assert missed[0].fire_at == since + SECOND
    assert {run.fire_count for run in missed} == {UNKNOWN}
    assert len(found.runs) - len(missed) == (11 if catch_up == "all" else 1)


@pytest.mark.parametrize(("every", "runs"), [(1, 3), (2, 10_002)])
def test_what_a_wrong_clock_left_is_planned_in_bounded_work(every: int, runs: int) -> None:
    """Ten thousand seconds that have a run each, or every other of twice as many: some steps for each, not for each
    pair. What lies between and before and after them is missed, and the newest second runs."""
    compared = itertools.count()

    class Instant(datetime):
        __hash__ = datetime.__hash__

        def __lt__(self, other: object) -> bool:
            next(compared)
            return super().__lt__(other)  # type: ignore[operator]

        def __le__(self, other: object) -> bool:
            next(compared)
            return super().__le__(other)  # type: ignore[operator]

    def instant(number: int) -> datetime:
        return Instant.fromtimestamp((NOW + (10 + number * every) * SECOND).timestamp(), UTC)

    job = replace(HOURLY, schedules=(Every(SECOND),), overlap="allow")
    table = timetable(job)
    counting = CountingTrigger(table.trigger)
    marks = {job.name: Mark(job.name, table.schedule, NOW)}
    taken = {job.name: [Span(instant(number), instant(number)) for number in range(10_000)]}

    counted = Timetable(job, counting, table.schedule, table.delay)
    found = plan([counted], marks, {}, NOW + (20_000 + 20) * SECOND, taken=taken)

    assert len(found.runs) == runs
    assert counting.steps < 60_000
    assert next(compared) < 2_000_000  # of 100 million pairs


# -- the law of the fire times -------------------------------------------------------------------------

policies = st.fixed_dictionaries(
    {
        "schedules": st.lists(
            st.sampled_from(
                [
                    Cron("0 * * * *"),
                    Cron("*/17 * * * *"),
                    Cron("30 3 * * *"),
                    Every(13 * MINUTE),
                    Every(4 * HOUR),
                ]
            ),
            min_size=1,
            max_size=2,
        ).map(tuple),
        "timezone": st.sampled_from(["UTC", "Europe/Sofia", "Australia/Lord_Howe"]),
        "dst": st.sampled_from(["vixie", "skip", "literal"]),
        "grace": st.sampled_from([timedelta(0), SECOND, 5 * MINUTE, 2 * HOUR]),
        "spread": st.sampled_from([timedelta(0), 40 * MINUTE]),
        "catch_up": st.sampled_from(["last", "none", "all"]),
        "catch_up_window": st.sampled_from([timedelta(0), 90 * MINUTE, 24 * HOUR]),
        "catch_up_limit": st.sampled_from([0, 1, 3, 10]),
        "overlap": st.sampled_from(["skip", "allow", "queue", "replace"]),
        "blackout": st.sampled_from(
            [
                (),
                (Calendar("sunday", weekdays=frozenset({6})),),
                (Calendar("many", weekdays=frozenset({0, 2, 5}), month_days=frozenset({-1})),),
            ]
        ),
        "on_blackout": st.sampled_from(["skip", "postpone"]),
    }
)
pauses = st.none() | st.tuples(st.integers(-2, 40), st.none() | st.integers(1, 40)).map(
    lambda hours: (hours[0] * HOUR, hours[1] and (hours[0] + hours[1]) * HOUR)
)
looks = st.lists(
    st.tuples(st.sampled_from([1, 60, 61, 600, 3600, 4000, 40_000, 200_000]), st.integers(0, 2)),
    min_size=1,
    max_size=6,
)


@given(policies, looks, st.sampled_from([NOW, datetime(2026, 10, 24, 22, tzinfo=UTC)]), pauses, st.booleans())
@settings(max_examples=300)
def test_every_fire_time_has_exactly_one_fate_and_the_right_one(
    policy: dict[str, object],
    steps: list[tuple[int, int]],
    start: datetime,
    paused: tuple[timedelta, timedelta | None] | None,
    held: bool,
) -> None:
    """Over any sequence of looks, downtimes and pauses each fire time ends in one run, as the definitions say."""
    table = timetable(replace(HOURLY, **policy))
    name = table.job.name
    pause = Pause(name, start + paused[0], paused[1] and start + paused[1]) if paused else None
    end = start + sum((seconds for seconds, _ in steps)) * SECOND
    fires = [*takewhile(lambda fire: fire <= end, table.trigger.after(start))]
    taken = [Span(fires[4], fires[6])] if held and len(fires) > 6 else []
    marks = {name: plan([table], {}, {}, start).marks[0]}
    now, settled = start, 0
    for seconds, live in steps:
        now += seconds * SECOND
        due = [fire for fire in fires[settled:] if fire <= now - table.delay]
        settled += len(due)
        over = pause and replace(pause, until=min(now, pause.until or now))
        known = {"resumed": {name: over} if over else {}, "taken": {name: taken}}

        found = plan([table], marks, {name: live}, now, **known)
        marks |= {mark.job: mark for mark in found.marks}

        free = [fire for fire in due if not any(span.first <= fire <= span.last for span in taken)]
        assert _expanded(found.runs, fires) == _by_definition(table, free, live, now, over)
        assert plan([table], marks, {name: live}, now, **known) == Plan((), ())


def _expanded(runs: tuple[Run, ...], fires: list[datetime]) -> list[tuple[datetime, str, str | None]]:
    """Each fire time that the runs cover, in their order, with its fate."""
    fates = []
    for run in runs:
        covered = [fire for fire in fires if run.fire_at <= fire <= (run.fire_until or run.fire_at)]
        assert run.fire_count == len(covered)
        fates += [
            (fire, run.outcome.value if run.outcome else run.trigger.value, run.reason) for fire in covered
        ]
    return fates


def _by_definition(
    table: Timetable, due: list[datetime], live: int, now: datetime, pause: Pause | None
) -> list[tuple[datetime, str, str | None]]:
    """The slow and obvious way: judge one fire time after the other."""
    job = table.job
    zone = ZoneInfo(job.timezone)
    days = [fire.astimezone(zone).date() for fire in due]
    dark = [
        job.on_blackout == "skip" and any(covers(calendar, day) for calendar in job.blackout) for day in days
    ]
    open_ = [fire for fire, is_dark in zip(due, dark, strict=True) if not is_dark]
    late_ones = [
        fire
        for fire in open_
        if not (fire == open_[-1] and now - (fire + table.delay) <= job.grace)
        and now - (fire + table.delay) <= job.catch_up_window
    ]
    room = {"skip": 0 if live else 99, "queue": max(0, 2 - live) if live else 99}.get(job.overlap, 99)
    fates = []
    for fire, is_dark in zip(due, dark, strict=True):
        lateness = now - (fire + table.delay)
        fate: tuple[str, str | None]
        if is_dark:
            fate = ("skipped", "blackout")
        elif fire == open_[-1] and lateness <= job.grace:
            fate = ("schedule", None)
        elif job.catch_up == "none":
            fate = ("missed", "catch_up_none")
        elif lateness > job.catch_up_window:
            fate = ("missed", "catch_up_window")
        elif job.catch_up == "last":
            fate = ("catch_up", None) if fire == open_[-1] else ("missed", "late")
        elif len([newer for newer in late_ones if newer > fire]) < job.catch_up_limit:
            fate = ("catch_up", None)
        else:
            fate = ("missed", "catch_up_limit")
        if fate[1] is None:
            fate = fate if room > 0 else ("skipped", "overlap")
            room -= 1
        elif pause is not None and pause.since <= fire + table.delay < pause.until:
            fate = ("skipped", "paused")
        fates.append((fire, *fate))
    return fates


def test_what_is_not_caught_up_after_a_pause_is_one_range() -> None:
    """A pause over a blacked-out day is one skipped range, before and after it what there was else."""
    job = replace(HOURLY, catch_up="none", blackout=(Calendar("saturday", weekdays=frozenset({5})),))
    pause = Pause(job.name, NOON - 30 * HOUR, NOON - 2 * HOUR)
    marks = {job.name: Mark(job.name, schedule_text(job), NOON - 33 * HOUR)}

    found = plan([timetable(job)], marks, {}, NOW, resumed={job.name: pause})

    assert _fates(found.runs) == [
        ("missed", NOON - 32 * HOUR, 2, "catch_up_none"),
        ("skipped", NOON - 30 * HOUR, 28, "paused"),
        ("skipped", NOON - 2 * HOUR, 3, "blackout"),
    ]


def test_a_month_of_every_second_around_blackouts_is_planned_in_bounded_steps() -> None:
    """Each blackout and each stretch between two is one range; counting ends where it tells nothing."""
    job = replace(
        HOURLY,
        schedules=(Cron("* * * * * *"),),
        blackout=(Calendar("free", weekdays=frozenset({1, 6})),),
    )
    table = timetable(job)
    counting = CountingTrigger(table.trigger)
    marks = {job.name: Mark(job.name, table.schedule, NOW - timedelta(days=30))}

    found = plan([Timetable(job, counting, table.schedule, table.delay)], marks, {}, NOW)

    assert counting.steps < 6_000
    reasons = [run.reason for run in found.runs]
    assert reasons.count("blackout") == 8  # Sundays and Tuesdays of thirty days
    assert {run.fire_count for run in found.runs if run.reason} == {UNKNOWN}


# -- growing ranges ----------------------------------------------------------------------------------


def test_a_skip_that_follows_a_skip_makes_it_grow() -> None:
    """The same reason again is the same run, longer; the new one is not written."""
    before = _plan(HOURLY, since=NOON - 2 * HOUR, now=NOON - HOUR, live=1).runs[0]
    again = _plan(HOURLY, since=NOON - HOUR, live=1).runs[0]

    fresh, growths = merge([again], {HOURLY.name: before})

    assert (fresh, growths) == ([], [Growth(before.id, NOON, 2, NOW)])


def test_only_what_continues_the_newest_run_grows() -> None:
    """Another reason, or a run in between, begins a new range; what follows in the same plan too."""
    skipped = _plan(HOURLY, since=NOON - HOUR, live=1).runs[0]
    missed, pending = _plan(HOURLY, since=NOON - 2 * HOUR).runs

    assert merge([skipped], {HOURLY.name: missed}) == ([skipped], [])
    assert merge([skipped], {HOURLY.name: pending}) == ([skipped], [])
    assert merge([pending], {HOURLY.name: pending}) == ([pending], [])
    assert merge([missed, pending, skipped], {HOURLY.name: skipped}) == ([missed, pending, skipped], [])


def test_a_range_of_unknown_size_stays_one() -> None:
    """What could not be counted cannot be counted after growing either."""
    before = replace(_plan(HOURLY, since=NOON - 3 * HOUR, live=1).runs[0], fire_count=UNKNOWN)
    again = _plan(replace(HOURLY, catch_up="none"), since=NOON - HOUR, now=NOON + HOUR).runs[0]

    _, growths = merge([again], {HOURLY.name: replace(before, reason="catch_up_none")})

    assert [growth.fire_count for growth in growths] == [UNKNOWN]


def test_fire_times_of_a_person_who_is_signed_out_are_skipped_as_one_range() -> None:
    """With the reason `identity`; what would not run anyway keeps its own reason, and the next look makes it grow."""
    job = replace(HOURLY, catch_up="all")
    marks = {job.name: _plan(job, since=None, now=NOON - 3 * HOUR).marks[0]}
    found = plan([timetable(job)], marks, {}, NOW, unable={job.name: IDENTITY})
    assert [(run.outcome, run.reason, run.fire_count) for run in found.runs] == [
        (Outcome.SKIPPED, "identity", 3)
    ]
    assert plan([timetable(job)], marks, {}, NOW, unable={"other": IDENTITY}).runs[0].state is State.PENDING
