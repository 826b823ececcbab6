"""Cron expressions read in the most literal way: sets of numbers, and a look at the calendar."""

import calendar
from dataclasses import dataclass
from datetime import date, datetime, timedelta

DAY = timedelta(days=1)


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
