"""Triggers of every kind, and the timetable that remembers them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpsync.core.calendar import spread_delay
from erpsync.core.job import At, Cron, Every, Job, Manual, Schedule
from erpsync.scheduling.timetable import read_schedule, schedule_text, timetable
from erpsync.scheduling.trigger import build_schedule, build_trigger, newest_until, next_after

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
CONFIGURED = Job("j", "j", "p", timezone="Europe/Sofia")

schedules = st.one_of(
    st.builds(
        Cron,
        st.sampled_from(["30 3 * * *", "*/20 * * * *", "0 0 L * *", "0 */5 * * MON-FRI", "*/30 5 * * * *"]),
        st.sampled_from([None, "Australia/Lord_Howe", "America/New_York"]),
        st.sampled_from([None, "vixie", "skip", "literal"]),
    ),
    st.builds(
        Every, st.integers(600, 9000).map(lambda n: n * SECOND), st.integers(0, 900).map(lambda n: n * SECOND)
    ),
    st.builds(At, st.integers(-90, 90).map(lambda n: NOON + n * HOUR)),
    st.just(Manual()),
)
jobs = st.builds(
    lambda parts, start, end: replace(
        CONFIGURED,
        schedules=tuple(parts),
        start=None if start is None else NOON + start * HOUR,
        end=None if end is None else NOON + end * HOUR,
    ),
    st.lists(schedules, min_size=1, max_size=3),
    st.none() | st.integers(-80, 0),
    st.none() | st.integers(1, 80),
)


@given(jobs)
@settings(max_examples=40)
def test_both_directions_give_the_same_fire_times_in_order(job: Job) -> None:
    """What lies between two instants is the same forwards and backwards, each instant once, within the bounds."""
    trigger, begin, end = build_trigger(job), NOON - 60 * HOUR, NOON + 60 * HOUR
    forwards = [*takewhile(lambda fire: fire <= end, trigger.after(begin))]

    assert [*takewhile(lambda fire: fire > begin, trigger.until(end))] == forwards[::-1]
    assert forwards == sorted(set(forwards))
    assert all(job.start is None or fire >= job.start for fire in forwards)
    assert all(job.end is None or fire < job.end for fire in forwards)
    assert {fire.tzinfo for fire in forwards} <= {UTC}


@given(jobs)
@settings(max_examples=40)
def test_a_schedule_is_remembered_as_text(job: Job) -> None:
    """The text of a schedule gives back the same fire times, and does not depend on the order of a list."""
    remembered, trigger = read_schedule(schedule_text(job)), build_trigger(job)

    assert [*islice(remembered.after(NOON), 20)] == [*islice(trigger.after(NOON), 20)]
    assert schedule_text(replace(job, schedules=job.schedules[::-1])) == schedule_text(job)


def test_an_interval_is_anchored_to_the_epoch() -> None:
    """Fire times are multiples of the interval since 1970 in UTC plus the offset, whenever one asks."""
    trigger = build_schedule(Every(15 * MINUTE, 2 * MINUTE), "Europe/Sofia")

    assert next_after(trigger, NOON) == NOON + 2 * MINUTE
    assert next_after(trigger, NOON + 2 * MINUTE) == NOON + 17 * MINUTE
    assert newest_until(trigger, NOON) == NOON - 13 * MINUTE


def test_an_interval_may_be_milliseconds() -> None:
    """Twenty a second are twenty a second."""
    fires = [*islice(build_schedule(Every(timedelta(milliseconds=50))).after(NOON), 3)]

    assert fires == [NOON + timedelta(milliseconds=50 * number) for number in (1, 2, 3)]


def test_an_interval_does_not_see_clock_changes() -> None:
    """Across the spring change of Sofia the steps stay equal."""
    fires = [*islice(build_schedule(Every(7 * HOUR), "Europe/Sofia").after(NOON), 5)]

    assert {late - early for early, late in pairwise(fires)} == {7 * HOUR}


@pytest.mark.parametrize(
    ("schedule", "timezone", "words"),
    [
        (Every(timedelta(0)), "UTC", "at least"),
        (Every(-MINUTE), "UTC", "at least"),
        (Cron("0 0 * * *"), "Europe/Sofa", 'unknown time zone "Europe/Sofa"'),
        (Cron("0 0 * * *", "../etc/passwd"), "UTC", "unknown time zone"),
        (Cron("0 0 * * *", "Europe"), "UTC", "unknown time zone"),
    ],
)
def test_a_bad_schedule_is_refused(schedule: Schedule, timezone: str, words: str) -> None:
    """Intervals and zones that are none are ValueErrors that say so."""
    with pytest.raises(ValueError, match=words):
        build_schedule(schedule, timezone)


def test_an_instant_in_two_schedules_of_a_list_fires_once() -> None:
    """A list is a union: the same instant from two of its members is one fire time."""
    job = replace(CONFIGURED, schedules=(Cron("0 * * * *"), Every(30 * MINUTE), At(NOON + HOUR), Manual()))

    assert [*islice(build_trigger(job).after(NOON), 4)] == [NOON + n * 30 * MINUTE for n in (1, 2, 3, 4)]


def test_the_end_is_outside_and_the_start_inside() -> None:
    """`start` may fire, `end` does not."""
    job = replace(CONFIGURED, schedules=(Every(HOUR),), start=NOON, end=NOON + 2 * HOUR)

    assert [*build_trigger(job).after(NOON - 9 * HOUR)] == [NOON, NOON + HOUR]


def test_a_job_that_is_off_or_waits_to_be_asked_never_fires() -> None:
    """Disabled jobs and manual ones have no fire time and no schedule to remember."""
    off = timetable(replace(CONFIGURED, schedules=(Every(HOUR),), enabled=False))
    asked = timetable(CONFIGURED)

    assert [(table.schedule, next_after(table.trigger, NOON)) for table in (off, asked)] == [("", None)] * 2


def test_a_schedule_of_another_version_is_refused() -> None:
    """Text that this version cannot have written is a ValueError."""
    alien = [
        '{"any": [["moon", "full"]]}',
        '{"any": [["cron", "0 0 * * *", "UTC", "x"]]}',
        "[]",
        "{}",
        "no JSON",
    ]
    for text in alien:
        with pytest.raises(ValueError):
            read_schedule(text)


@given(st.text(max_size=20), st.integers(1, 7200))
def test_the_spread_of_a_name_never_changes(name: str, seconds: int) -> None:
    """The delay lies in [0, spread) and is the same each time."""
    delay = spread_delay(name, seconds * SECOND)

    assert timedelta(0) <= delay < seconds * SECOND
    assert delay == spread_delay(name, seconds * SECOND)
    assert delay.microseconds % 1000 == 0


def test_a_spread_spreads() -> None:
    """A thousand jobs fall into all ten tenths of an hour, none of which takes a fifth of them."""
    tenths = [spread_delay(f"orders@{number}", HOUR) // (6 * MINUTE) for number in range(1000)]

    assert {tenth: 50 < tenths.count(tenth) < 200 for tenth in range(10)} == dict.fromkeys(range(10), True)
    assert spread_delay("orders@acme", timedelta(0)) == timedelta(0)
