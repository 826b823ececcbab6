"""The catalogues of cron cases through `erpsync next`, as people would check them."""

import calendar
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.cli.conftest import Type

Case = Mapping[str, Any]
HERE = Path(__file__).parent
CATALOGUE: list[Case] = json.loads((HERE.parent / "scheduling" / "cron_cases.json").read_text("utf-8"))
MORE: list[Case] = json.loads((HERE / "cron_cases_more.json").read_text("utf-8"))
DAY, HOUR, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(seconds=1)


@pytest.mark.parametrize(("name", "cases", "size"), [("catalogue", CATALOGUE, 69), ("more", MORE, 36)])
def test_every_case_passes_through_next(
    erpsync: Type,
    folder: Path,
    record_property: Callable[[str, object], None],
    name: str,
    cases: list[Case],
    size: int,
) -> None:
    """Without any configuration `next --expr` gives the instants that are written, or refuses; none is left out."""
    (folder / "erpsync.toml").unlink()
    wrong = {case["id"]: said for case in cases if (said := _difference(erpsync, case))}

    passed = f"{len(cases) - len(wrong)} of {len(cases)}"
    record_property(f"cron cases through next, {name}", passed)
    assert (passed, wrong) == (f"{size} of {size}", {})
    assert len({case["id"] for case in cases}) == size


def _difference(erpsync: Type, case: Case) -> str:
    """What the command said in place of what is written; empty where it is right."""
    fires = case.get("fires", ())
    arguments = f"next --from {case['after']} --tz {case['timezone']} --dst {case['dst']} --format json"
    said = erpsync(*shlex.split(arguments), "--expr", case["expression"], "-n", str(len(fires) or 1))
    if "refused" in case:
        expected = said.code == 2 and said.out == "" and _names_what_is_wrong(case["expression"], said.err)
        return "" if expected else f"exit {said.code}: {said.out}{said.err}"
    if said.code != 0 or said.err:
        return f"exit {said.code}: {said.err}"
    given = [(time["job"], time["at"], _instant(time["utc"])) for time in said.json]
    right = [(None, fire, _instant(fire)) for fire in fires]
    return "" if given == right else str(given)


FIELDS = ("minute", "hour", "day of month", "month", "day of week")


def _names_what_is_wrong(expression: str, text: str) -> bool:
    """The refusal names the option and the field that is wrong, with what it takes; or the number of fields."""
    words = " ".join(text.replace("│", " ").split())
    parts = expression.split()
    if len(parts) != len(FIELDS):
        return "--expr" in words and f"has {len(parts)} fields; write five" in words
    wrong = next(number for number, part in enumerate(parts) if part not in ("*", "0", "1"))
    return "--expr" in words and f'the {FIELDS[wrong]} "{parts[wrong]}" in' in words and "it takes" in words


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


# -- the second catalogue against brute force ---------------------------------------------------------------


@pytest.mark.parametrize("case", MORE, ids=[case["id"] for case in MORE])
def test_the_second_catalogue_agrees_with_brute_force(case: Case) -> None:
    """What is written is what looking at the wall clock second by second, or minute by minute, gives."""
    fires = [_instant(text) for text in case["fires"]]

    assert [*islice(brute_force(case), len(fires))] == fires
    assert len(fires) >= 2


def brute_force(case: Case) -> Iterator[datetime]:
    """The fire times later than `after`: look at the clock at every step, skip only days that cannot match."""
    rule, zone = parse(case["expression"]), ZoneInfo(case["timezone"])
    step = SECOND if rule.seconds != {0} else 60 * SECOND
    start = _instant(case["after"])
    instant = start.replace(second=0, microsecond=0) - HOUR
    wall = _wall(instant, zone)
    while True:
        ahead = (wall + hours * HOUR for hours in range(0, 73, 12))
        if wall.minute == wall.second == 0 and not any(rule.is_day(later.date()) for later in ahead):
            instant += DAY
            wall = _wall(instant, zone)
        instant += step
        before, local = wall, instant.astimezone(zone)
        wall = local.replace(tzinfo=None, fold=0)
        swallowed = (before + number * step for number in range(1, (wall - before) // step))
        fixed = not rule.real_time
        again = local.fold == 1 and (case["dst"] == "skip" or (case["dst"] == "vixie" and fixed))
        moved = case["dst"] == "vixie" and fixed and any(map(rule.matches, swallowed))
        if instant > start and ((rule.matches(wall) and not again) or moved):
            yield instant


def _wall(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


@dataclass(frozen=True)
class Rule:
    """A cron expression, read in the most literal way."""

    seconds: set[int]
    minutes: set[int]
    hours: set[int]
    days: str
    months: set[int]
    weekdays: str
    real_time: bool

    def matches(self, wall: datetime) -> bool:
        return (
            wall.second in self.seconds
            and wall.minute in self.minutes
            and wall.hour in self.hours
            and self.is_day(wall.date())
        )

    def is_day(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        of_month = any(_is_day_of_month(part, day) for part in self.days.split(","))
        of_week = any(_is_day_of_week(part, day) for part in self.weekdays.split(","))
        both_named = not self.days.startswith("*") and not self.weekdays.startswith("*")
        return of_month or of_week if both_named else of_month and of_week


MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
ALIASES = {"@WEEKLY": "0 0 * * 0", "@MONTHLY": "0 0 1 * *", "@HOURLY": "0 * * * *", "@YEARLY": "0 0 1 1 *"}


def parse(expression: str) -> Rule:
    fields = ALIASES.get(expression.upper(), expression).upper().split()
    second, minute, hour, day, month, weekday = fields if len(fields) == 6 else ["0", *fields]
    for number, name in enumerate(WEEKDAYS):
        weekday = weekday.replace(name, str(number))
    for number, name in enumerate(MONTHS, 1):
        month = month.replace(name, str(number))
    real_time = minute.startswith("*") or hour.startswith("*")
    return Rule(
        _numbers(second, 0, 59),
        _numbers(minute, 0, 59),
        _numbers(hour, 0, 23),
        day,
        _numbers(month, 1, 12),
        weekday,
        real_time,
    )


def _numbers(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        begin = low if span == "*" else int(first)
        end = int(last) if last else high if span == "*" or step else begin
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


def _is_day_of_month(part: str, day: date) -> bool:
    last = calendar.monthrange(day.year, day.month)[1]
    if part == "L":
        return day.day == last
    if part == "LW":
        return day.day == max(d for d in range(1, last + 1) if day.replace(day=d).weekday() < 5)
    return day.day in _numbers(part, 1, 31)


def _is_day_of_week(part: str, day: date) -> bool:
    today = day.isoweekday() % 7  # Sunday is 0, as cron counts
    if part.endswith("L"):
        return today == int(part[:-1]) % 7 and (day + 7 * DAY).month != day.month
    weekday, _, nth = part.partition("#")
    if nth:
        return today == int(weekday) % 7 and (day.day - 1) // 7 + 1 == int(nth)
    return today in {number % 7 for number in _numbers(part, 0, 7)}
