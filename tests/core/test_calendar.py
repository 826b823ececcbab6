"""When a job may start, against a walk over every minute."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpsync.core.calendar import (
    HORIZON,
    PATIENCE,
    Opening,
    blackout_end,
    covers,
    open_time,
    opens_at,
    spread_delay,
    start_deadline,
    window_end,
    within,
)
from erpsync.core.job import Calendar, Job, Window
from erpsync.core.run import Run, RunTrigger

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
JOB = Job("orders", "orders", "mirror", timezone="Europe/Sofia")
NIGHT = Window(time(22), time(6))
RUN = Run("r", "orders", "at:x", "mirror", RunTrigger.SCHEDULE, NOON, fire_at=NOON)


def _in(zone: str, *parts: int) -> datetime:
    return datetime(*parts, tzinfo=ZoneInfo(zone)).astimezone(UTC)


@pytest.mark.parametrize(
    ("calendar", "inside", "outside"),
    [
        (Calendar("c", dates=frozenset({date(2026, 12, 31)})), date(2026, 12, 31), date(2027, 12, 31)),
        (Calendar("c", yearly=frozenset({(2, 29)})), date(2028, 2, 29), date(2027, 2, 28)),
        (Calendar("c", weekdays=frozenset({5, 6})), date(2026, 3, 28), date(2026, 3, 27)),
        (Calendar("c", month_days=frozenset({-1})), date(2028, 2, 29), date(2028, 2, 28)),
        (Calendar("c", month_days=frozenset({1})), date(2026, 4, 1), date(2026, 3, 31)),
    ],
)
def test_a_calendar_names_days(calendar: Calendar, inside: date, outside: date) -> None:
    """Dates, days of each year, weekdays and days of the month, the last one included."""
    assert covers(calendar, inside)
    assert not covers(calendar, outside)


def test_a_window_holds_its_beginning_and_not_its_end() -> None:
    """Within a day and across midnight."""
    day = Window(time(8), time(17))

    assert [within(day, wall) for wall in (time(7, 59), time(8), time(16, 59), time(17))] == [
        False,
        True,
        True,
        False,
    ]
    assert [within(NIGHT, wall) for wall in (time(21, 59), time(22), time(0), time(5, 59), time(6))] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_without_calendars_and_window_every_start_is_allowed() -> None:
    """Nothing is looked for."""
    assert (opens_at(JOB, NOON), blackout_end(JOB, NOON), window_end(JOB, NOON)) == (None, None, None)


def test_a_blackout_ends_at_midnight_of_the_jobs_zone() -> None:
    """Also where that night's midnight does not exist: the day begins when the clock has jumped over it."""
    sunday = Calendar("free", dates=frozenset({date(2026, 3, 29)}))
    cairo = Calendar("free", dates=frozenset({date(2026, 4, 23)}))

    assert blackout_end(replace(JOB, blackout=(sunday,)), _in("Europe/Sofia", 2026, 3, 29, 3)) == _in(
        "Europe/Sofia", 2026, 3, 30
    )
    end = blackout_end(
        replace(JOB, blackout=(cairo,), timezone="Africa/Cairo"), _in("Africa/Cairo", 2026, 4, 23, 9)
    )
    assert end is not None
    assert end.astimezone(ZoneInfo("Africa/Cairo")).isoformat() == "2026-04-24T01:00:00+03:00"


def test_the_opening_lies_in_the_window_and_in_no_blackout() -> None:
    """A night that is blacked out until midnight opens at midnight; the first obstacle is named."""
    job = replace(JOB, window=NIGHT, blackout=(Calendar("free", dates=frozenset({date(2026, 3, 28)})),))

    assert opens_at(job, _in("Europe/Sofia", 2026, 3, 28, 14)) == Opening(
        _in("Europe/Sofia", 2026, 3, 29), "blackout"
    )
    assert opens_at(job, _in("Europe/Sofia", 2026, 3, 27, 14)) == Opening(
        _in("Europe/Sofia", 2026, 3, 27, 22), "window"
    )


def test_a_window_that_closes_in_a_repeated_hour_opens_again() -> None:
    """What the wall clock shows decides: 03:15 comes twice, 03:30 lies between."""
    job = replace(JOB, window=Window(time(1), time(3, 30)))
    first_end = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)

    assert window_end(job, first_end - HOUR) == first_end
    assert opens_at(job, first_end) == Opening(first_end + HOUR / 2, "window")
    assert window_end(job, first_end + HOUR / 2) == first_end + HOUR


def test_what_never_opens_is_said_to_be_so() -> None:
    """A calendar of all weekdays: no instant within the horizon."""
    job = replace(JOB, blackout=(Calendar("all", weekdays=frozenset(range(7))),))

    assert opens_at(job, NOON) == Opening(None, "blackout")
    assert opens_at(replace(job, window=NIGHT), NOON) == Opening(None, "blackout")
    assert blackout_end(job, NOON) == NOON + HORIZON


jobs = st.builds(
    lambda zone, window, days, month_days: replace(
        JOB,
        timezone=zone,
        window=window,
        blackout=(Calendar("days", weekdays=days, month_days=month_days),),
    ),
    st.sampled_from(["UTC", "Europe/Sofia", "Australia/Lord_Howe", "Africa/Cairo", "America/St_Johns"]),
    st.none()
    | st.tuples(st.integers(0, 47), st.integers(0, 47))
    .filter(lambda pair: pair[0] != pair[1])
    .map(lambda pair: Window(time(pair[0] // 2, pair[0] % 2 * 30), time(pair[1] // 2, pair[1] % 2 * 30))),
    st.frozensets(st.integers(0, 6), max_size=3),
    st.frozensets(st.sampled_from([-1, 1, 25, 29]), max_size=2),
)
instants = st.tuples(
    st.sampled_from(
        [
            datetime(2026, 3, 28, tzinfo=UTC),
            datetime(2026, 10, 24, tzinfo=UTC),
            datetime(2026, 4, 4, tzinfo=UTC),
        ]
    ),
    st.integers(0, 72 * 60),
).map(lambda pair: pair[0] + pair[1] * MINUTE)


def _allowed(job: Job, at: datetime) -> bool:
    wall = at.astimezone(ZoneInfo(job.timezone))
    return not any(covers(calendar, wall.date()) for calendar in job.blackout) and (
        job.window is None or within(job.window, wall.time())
    )


def _walk(at: datetime, found: Callable[[datetime], bool]) -> datetime:
    while not found(at):
        at += 30 * MINUTE - (at - NOON) % (30 * MINUTE)  # nothing changes within half an hour of UTC
    return at


@given(jobs, instants)
@settings(max_examples=300)
def test_openings_and_ends_are_those_of_a_walk(job: Job, instant: datetime) -> None:
    """Over zones and clock changes: the first allowed instant, the end of the blackout, the end of the window."""
    opening = opens_at(job, instant)
    expected = _walk(instant, lambda at: _allowed(job, at))
    assert (instant if opening is None else opening.at) == expected

    bare = replace(job, window=None)
    end = blackout_end(job, instant)
    assert (instant if end is None else end) == _walk(instant, lambda at: _allowed(bare, at))

    open_days = replace(job, blackout=())
    if job.window is not None:
        closed = window_end(job, instant)
        assert (instant if closed is None else closed) == _walk(
            instant, lambda at: not _allowed(open_days, at)
        )


def _hourly(instant: datetime) -> datetime:
    return NOON + ((instant - NOON) // HOUR + 1) * HOUR


def test_a_run_may_wait_until_the_next_fire_time() -> None:
    """At least for its grace and for a day at most; with a spread, until the next one's start."""
    spread = replace(JOB, spread=30 * MINUTE)
    delay = spread_delay(JOB.name, spread.spread)

    assert start_deadline(JOB, RUN, _hourly) == NOON + HOUR
    assert start_deadline(spread, RUN, _hourly) == NOON + HOUR + delay
    assert start_deadline(JOB, RUN, lambda at: at + MINUTE) == NOON + JOB.grace
    assert start_deadline(JOB, RUN, lambda at: None) == NOON + PATIENCE
    assert start_deadline(replace(JOB, start_by=2 * HOUR), RUN, _hourly) == NOON + 2 * HOUR


def test_what_was_caught_up_asked_for_or_postponed_waits_from_when_it_could_start() -> None:
    """From the claim, or from the end of the blackout."""
    late = replace(RUN, trigger=RunTrigger.CATCH_UP, created_at=NOON + 5 * HOUR)
    asked = replace(RUN, trigger=RunTrigger.MANUAL, fire_at=None)
    dark = replace(JOB, start_by=HOUR, blackout=(Calendar("free", dates=frozenset({date(2026, 3, 28)})),))

    assert start_deadline(JOB, late, _hourly) == NOON + 5 * HOUR + PATIENCE
    assert start_deadline(JOB, asked, _hourly) == NOON + PATIENCE
    assert start_deadline(dark, RUN, _hourly) == _in("Europe/Sofia", 2026, 3, 29) + HOUR


@given(
    st.integers(0, 60 * 24 * 3),
    st.integers(0, 60 * 24 * 3),
    st.sampled_from([NIGHT, Window(time(1), time(4)), None]),
    st.booleans(),
)
@settings(max_examples=60)
def test_open_time_is_every_minute_in_which_a_start_is_allowed(
    begin: int, length: int, window: Window | None, dark: bool
) -> None:
    """Around a clock change too."""
    days = frozenset({date(2026, 3, 29)}) if dark else frozenset()
    job = replace(JOB, window=window, blackout=(Calendar("free", dates=days),))
    start = NOON + begin * MINUTE
    minutes = (start + number * MINUTE for number in range(length))
    allowed = sum(opens_at(job, minute) is None for minute in minutes)

    assert open_time(job, start, start + length * MINUTE) == allowed * MINUTE
