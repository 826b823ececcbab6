"""Calendars, holidays and pools."""

import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from erpsync.config.load import load_configuration
from erpsync.core.job import Calendar
from erpsync.core.problem import Problem
from tests.config.conftest import ACME, BETA, Load

BG = '[calendars.bulgaria]\nholidays = "BG"\ndates = "2026-12-30"\n'


def test_a_calendar_names_days_in_many_ways(load: Load) -> None:
    """Days with and without quotes, days of the year, of the week and of the month; one needs no list."""
    configuration = load(
        '[calendars.all]\ndates = ["2026-12-31", 2027-01-02]\nyearly = ["12-31", "02-29"]\n'
        'weekdays = ["SAT", "sun"]\nmonth_days = ["L", 1]\n'
        '[calendars.one]\ndates = 2026-12-31\nyearly = "01-01"\nweekdays = "MON"\nmonth_days = 31\n'
    )
    assert configuration.calendars == {
        "all": Calendar(
            "all",
            frozenset({date(2026, 12, 31), date(2027, 1, 2)}),
            frozenset({(12, 31), (2, 29)}),
            frozenset({5, 6}),
            frozenset({-1, 1}),
        ),
        "one": Calendar(
            "one", frozenset({date(2026, 12, 31)}), frozenset({(1, 1)}), frozenset({0}), frozenset({31})
        ),
    }


@pytest.mark.parametrize(
    ("place", "holiday", "other"),
    [
        ("BG", date(2026, 3, 3), date(2026, 3, 2)),
        ("BG", date(2026, 4, 13), date(2026, 4, 14)),  # Orthodox Easter Monday
        ("DE", date(2026, 10, 3), date(2026, 6, 4)),
        ("DE-BY", date(2026, 6, 4), date(2026, 6, 5)),  # Corpus Christi, in Bavaria only
    ],
)
def test_holidays_of_a_country_are_days(load: Load, place: str, holiday: date, other: date) -> None:
    """Those of a part of it too; what was asked for is kept beside them."""
    (calendar,) = load(f'[calendars.x]\nholidays = "{place}"\n').calendars.values()
    assert holiday in calendar.dates
    assert other not in calendar.dates
    assert calendar.holidays == place


def test_holidays_reach_from_two_years_back_to_ten_ahead(load: Load) -> None:
    """Counted from the day of loading; days of one's own are there as well."""
    path = load(BG).path
    dates = load_configuration(path, {}, today=date(2030, 6, 1)).calendars["bulgaria"].dates
    assert {day.year for day in dates} == {2026, *range(2028, 2041)}
    assert {date(2028, 3, 3), date(2040, 3, 3), date(2026, 12, 30)} <= dates
    assert date(2026, 3, 3) not in dates


def test_a_missing_library_is_a_problem_that_says_what_to_install(
    problems: Callable[..., list[Problem]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where holidays are asked for; the jobs that use the calendar have no problem of their own."""
    monkeypatch.setitem(sys.modules, "holidays", None)
    (problem,) = problems(BG + '[jobs.orders]\nplugin = "mirror"\nblackout = "bulgaria"\n')
    assert (problem.code, problem.key) == ("E123", "calendars.bulgaria.holidays")
    assert problem.help == "pip install erpsync[holidays]"


def test_the_library_is_only_loaded_for_holidays(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other calendars work without the extra."""
    monkeypatch.setitem(sys.modules, "holidays", None)
    assert load('[calendars.x]\nweekdays = "SUN"\n').calendars["x"].weekdays == {6}


def test_jobs_have_their_calendars_and_pools(load: Load) -> None:
    """By name or by a list, with placeholders, from any layer and from any file."""
    configuration = load(
        '[daemon]\ninclude = ["days.toml"]\n[defaults]\nblackout = "weekend"\npool = "dock"\n'
        '[jobs.orders]\nplugin = "mirror"\ninstances = ["*"]\non_blackout = "postpone"\n'
        '[jobs.prices]\nplugin = "mirror"\ninstances = ["acme"]\nblackout = ["weekend", "${vars.days}"]\n'
        "[pools]\ndock.slots = 2\nwarehouse = { slots = 4 }\n"
        + ACME + 'vars = { days = "inventory" }\n' + BETA + 'jobs.orders = { pool = "warehouse", blackout = [] }\n',
        {
            "days.toml": '[calendars.weekend]\nweekdays = ["SAT", "SUN"]\n'
            '[calendars.inventory]\nmonth_days = "L"\n'
        },
    )  # fmt: skip
    jobs, days = configuration.jobs, configuration.calendars
    assert configuration.pools == {"dock": 2, "warehouse": 4}
    assert jobs["orders@acme"].blackout == (days["weekend"],)
    assert (jobs["orders@acme"].on_blackout, jobs["orders@acme"].pool) == ("postpone", "dock")
    assert (jobs["orders@beta"].blackout, jobs["orders@beta"].pool) == ((), "warehouse")
    assert jobs["prices@acme"].blackout == (days["weekend"], days["inventory"])


def test_two_files_do_not_define_one_calendar(problems: Callable[..., list[Problem]]) -> None:
    """As with every other table, both places are named."""
    text = '[calendars.x]\nweekdays = "SUN"\n'
    (problem,) = problems('[daemon]\ninclude = ["a.toml"]\n' + text, {"a.toml": text})
    assert (problem.code, Path(problem.file or "").name) == ("E107", "a.toml")
