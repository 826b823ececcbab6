"""Cron expressions against the case catalogue and against brute force over the wall clock."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from erpsync.core.job import Dst
from erpsync.scheduling.cron import CronTrigger
from erpsync.scheduling.trigger import MOMENT
from tests.simulation.literal_cron import MONTHS, WEEKDAYS, parse

CASES = json.loads(Path(__file__).with_name("cron_cases.json").read_text(encoding="utf-8"))
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
# a day with a clock change: an hour, half an hour, at midnight, two hours, a whole day
CHANGES = [
    ("Europe/Sofia", "2026-03-29"),
    ("Europe/Sofia", "2026-10-25"),
    ("Australia/Lord_Howe", "2026-10-03"),
    ("Australia/Lord_Howe", "2026-04-04"),
    ("America/Sao_Paulo", "2018-11-04"),
    ("America/Sao_Paulo", "2018-02-18"),
    ("Antarctica/Troll", "2026-03-29"),
    ("Antarctica/Troll", "2026-10-25"),
    ("Pacific/Apia", "2011-12-30"),
    ("UTC", "2026-03-29"),
]


def test_every_case_of_the_catalogue_passes() -> None:
    """Forwards and backwards, every case gives the instants that are written, or is refused."""
    failures = {case["id"]: answer for case in CASES if (answer := _answer(case)) != "as written"}

    passed = len(CASES) - len(failures)
    assert (passed, failures) == (69, {}), f"{passed} of {len(CASES)} cases pass"


def _answer(case: dict[str, object]) -> object:
    try:
        trigger = CronTrigger(case["expression"], ZoneInfo(case["timezone"]), case["dst"])
    except ValueError as error:
        return "as written" if "refused" in case else str(error)
    if "refused" in case:
        return "not refused"
    after = datetime.fromisoformat(case["after"])
    fires = [datetime.fromisoformat(text) for text in case["fires"]]
    forwards = [*islice(trigger.after(after), len(fires))]
    backwards = [*takewhile(lambda fire: fire > after, trigger.until(fires[-1]))][::-1]
    return "as written" if forwards == backwards == fires else (forwards, backwards)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("61 * * * *", ['the minute "61"', "0-59"]),
        ("0 0 L-3 * *", ['the day of month "L-3"', "LW (last working day)"]),
        ("0 0 ? * MON", ['the day of month "?"', 'write "*" for any']),
        ("0 0 * * FRI-SUN", ['the day of week "FRI-SUN"', "from low to high"]),
        ("0 0 * * MON#6", ["day of week", "FRI#2"]),
        ("61 0 0 * * *", ['the second "61"']),
        ("0 0 * 5L *", ["the month"]),
        ("0 0 * * 5L/2", ["the day of week"]),
        ("* * * * * * *", ["has 7 fields", "six with leading seconds"]),
        ("", ["has 0 fields"]),
        ("@reboot", ["not known", "@daily"]),
        ("٣ * * * *", ["the minute"]),
    ],
)
def test_a_bad_expression_is_refused_with_its_field_and_what_it_takes(
    expression: str, words: list[str]
) -> None:
    """The message names the field and the accepted values."""
    with pytest.raises(ValueError) as caught:
        CronTrigger(expression, ZoneInfo("UTC"))

    assert [word for word in words if word not in str(caught.value)] == []


@given(st.text(alphabet="0123456789*,-/#LWMONFRI@? ", max_size=30))
@settings(max_examples=150)
def test_any_text_is_an_expression_or_a_clear_refusal(text: str) -> None:
    """Whatever is written, the answer is a ValueError or a trigger whose directions agree."""
    with suppress(ValueError):
        trigger = CronTrigger(text, ZoneInfo("Europe/Sofia"))
        fire = next(trigger.after(datetime(2026, 1, 1, tzinfo=UTC)), None)
        assert fire is None or next(trigger.until(fire)) == fire


@pytest.mark.parametrize(
    ("alias", "fields"),
    [
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        ("@weekly", "0 0 * * SUN"),
        ("@monthly", "0 0 1 * *"),
        ("@YEARLY", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
    ],
)
def test_an_alias_means_its_five_fields(alias: str, fields: str) -> None:
    """An alias fires when the expression does that it stands for."""
    start, zone = datetime(2026, 3, 1, tzinfo=UTC), ZoneInfo("Europe/Sofia")

    assert [*islice(CronTrigger(alias, zone).after(start), 40)] == [
        *islice(CronTrigger(fields, zone).after(start), 40)
    ]


def test_a_date_that_no_month_has_never_fires() -> None:
    """30 February is a valid expression without fire times, in both directions."""
    trigger = CronTrigger("0 0 30 2 *", ZoneInfo("Europe/Sofia"))

    assert [*trigger.after(datetime(2026, 1, 1, tzinfo=UTC))] == []
    assert [*trigger.until(datetime(2026, 1, 1, tzinfo=UTC))] == []


def test_the_calendar_has_an_end() -> None:
    """Asking beyond what dates can hold ends the fire times, without an error."""
    trigger = CronTrigger("0 0 * * *", ZoneInfo("Europe/Sofia"))

    assert [*trigger.after(datetime.max.replace(tzinfo=UTC))] == []
    assert [*trigger.until(datetime.min.replace(tzinfo=UTC))] == []


@st.composite
def wall_fields(draw: st.DrawFn) -> tuple[str, set[int], set[int], bool]:
    """Minute and hour fields as text and as sets, and whether one of them begins with a star."""

    def field(size: int) -> tuple[str, set[int]]:
        kind = draw(st.sampled_from(["star", "step", "list", "range"]))
        if kind == "star":
            return "*", set(range(size))
        if kind == "step":
            step = draw(st.integers(1, size - 1))
            return f"*/{step}", set(range(0, size, step))
        low, high = sorted(draw(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))))
        if kind == "range":
            return f"{low}-{high}", set(range(low, high + 1))
        return f"{high},{low}", {low, high}

    (minute, minutes), (hour, hours) = field(60), field(24)
    return f"{minute} {hour}", minutes, hours, "*" in (minute[0], hour[0])


@given(
    wall_fields(),
    st.sampled_from(CHANGES),
    st.sampled_from(["vixie", "skip", "literal"]),
    st.integers(0, 3000),
)
@example(("30 3", {30}, {3}, False), CHANGES[0], "vixie", 0)
@settings(max_examples=40)
def test_no_fire_time_is_lost_or_doubled_around_a_clock_change(
    fields: tuple[str, set[int], set[int], bool], change: tuple[str, str], dst: Dst, offset: int
) -> None:
    """In both directions the trigger gives exactly the instants that looking at every minute gives."""
    text, minutes, hours, real_time = fields
    zone = ZoneInfo(change[0])
    begin = datetime.fromisoformat(change[1]).replace(tzinfo=UTC) - timedelta(hours=20) + offset * SECOND
    end = begin + timedelta(hours=44)
    expected = _brute_force(
        zone, begin, end, MINUTE, dst, real_time, lambda wall: wall.minute in minutes and wall.hour in hours
    )
    trigger = CronTrigger(f"{text} * * *", zone, dst)

    assert [*takewhile(lambda fire: fire <= end, trigger.after(begin))] == expected
    assert [*takewhile(lambda fire: fire > begin, trigger.until(end))] == expected[::-1]


@pytest.mark.parametrize("change", CHANGES[:8])
@pytest.mark.parametrize("dst", ["vixie", "skip", "literal"])
@pytest.mark.parametrize("star", [True, False])
def test_the_rules_hold_with_six_fields_too(change: tuple[str, str], dst: Dst, star: bool) -> None:
    """Seconds change nothing about gaps and repeated hours."""
    zone, day = ZoneInfo(change[0]), datetime.fromisoformat(change[1]).replace(tzinfo=UTC)
    offsets = [(day + hours * timedelta(hours=1)).astimezone(zone).utcoffset() for hours in range(49)]
    at = next((hours for hours in range(48) if offsets[hours] != offsets[hours + 1]), 24)
    begin = day + timedelta(hours=at - 1)
    end = begin + timedelta(hours=3)
    expected = _brute_force(
        zone,
        begin,
        end,
        SECOND,
        dst,
        star,
        lambda wall: wall.second in (10, 50) and wall.minute in (15, 45) and (star or wall.hour < 5),
    )
    trigger = CronTrigger(f"10,50 15,45 {'*' if star else '0-4'} * * *", zone, dst)

    assert [*takewhile(lambda fire: fire <= end, trigger.after(begin))] == expected
    assert [*takewhile(lambda fire: fire > begin, trigger.until(end))] == expected[::-1]


def _brute_force(
    zone: ZoneInfo,
    begin: datetime,
    end: datetime,
    step: timedelta,
    dst: Dst,
    real_time: bool,
    matches: Callable[[datetime], bool],
) -> list[datetime]:
    """Look at the wall clock at every step later than `begin` up to `end`."""
    found = []
    instant = begin.replace(second=0) if step == MINUTE else begin
    wall = instant.astimezone(zone).replace(tzinfo=None)
    while (instant := instant + step) <= end:
        before, local = wall, instant.astimezone(zone)
        wall = local.replace(tzinfo=None)
        swallowed = [before + number * step for number in range(1, (wall - before) // step)]
        first_pass = local.fold == 0 or dst == "literal" or (dst == "vixie" and real_time)
        moved = dst == "vixie" and not real_time and any(map(matches, swallowed))
        if instant > begin and ((matches(wall) and first_pass) or moved):
            found.append(instant)
    return found


def _items(low: int, high: int, names: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """Anything that a list in a field may hold: numbers, names, ranges, and steps over them."""

    def spelt(number: int) -> st.SearchStrategy[str]:
        known = number - low < len(names)
        return st.sampled_from([str(number), names[number - low]]) if known else st.just(str(number))

    number = st.integers(low, high)
    single = number.flatmap(spelt)
    span = (
        st.tuples(number, number).map(sorted).flatmap(lambda ends: st.tuples(*map(spelt, ends)).map("-".join))
    )
    step = st.integers(1, 7).map(str)
    stepped = st.tuples(st.one_of(span, single, st.just("*")), step).map("/".join)
    return st.one_of(single, span, stepped)


def _field(low: int, high: int, names: Sequence[str] = ()) -> st.SearchStrategy[str]:
    listed = st.lists(_items(low, high, names), min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), listed)


DAYS = st.one_of(_field(1, 31), st.sampled_from(["L", "LW", "3,L", "15,LW"]))
WEEKDAY_FIELDS = st.one_of(
    _field(0, 7, WEEKDAYS),
    st.builds("{}L".format, st.integers(0, 7)),
    st.builds("{}#{},{}L".format, st.sampled_from([*WEEKDAYS, "7"]), st.integers(1, 5), st.integers(0, 6)),
)
MINUTES = st.builds(
    "{} {} {} {} {}".format,
    st.sampled_from(["0", "30", "*/20", "5,35", "5-5/10"]),
    st.one_of(st.sampled_from(["*", "0", "2", "3", "*/2", "2-4", "1-1/2"]), _field(0, 23)),
    DAYS,
    _field(1, 12, MONTHS),
    WEEKDAY_FIELDS,
)
SECONDS = st.builds(
    "{} {} {} {} * {}".format,
    _field(0, 59),
    _field(0, 59),
    st.sampled_from(["*", "0", "1", "2", "3", "*/2", "0-4", "0,2,3", "23,0", "1-3/2", "3-3/2"]),
    st.sampled_from(["*", "*", "L", "1-31", "28-31,4-6"]),
    st.sampled_from(["*", "*", "SUN", "0L", "SUN#1,SUN#4"]),
)


@given(MINUTES, st.sampled_from(CHANGES), st.sampled_from(["vixie", "skip", "literal"]), st.integers(1, 13))
@example("5-5/10 * * * *", CHANGES[0], "vixie", 1)
@example("0 0 2-2/3 JAN-JAN/2 MON-1/2", ("UTC", "2027-01-12"), "vixie", 12)
@settings(max_examples=40)
def test_every_expression_fires_when_the_calendar_says_so(
    expression: str, change: tuple[str, str], dst: Dst, before: int
) -> None:
    """All forms of all fields, read literally, on the fortnight of a clock change: both directions agree with it."""
    begin = datetime.fromisoformat(change[1]).replace(tzinfo=UTC) - before * 24 * HOUR
    _compare(expression, ZoneInfo(change[0]), dst, begin, begin + 14 * 24 * HOUR)


@given(SECONDS, st.sampled_from(CHANGES), st.sampled_from(["vixie", "skip", "literal"]), st.integers(0, 44))
@settings(max_examples=40)
def test_every_expression_with_seconds_fires_when_the_clock_says_so(
    expression: str, change: tuple[str, str], dst: Dst, hours: int
) -> None:
    """The same for six fields, some hours around the change."""
    begin = datetime.fromisoformat(change[1]).replace(tzinfo=UTC) + (hours - 20) * HOUR
    _compare(expression, ZoneInfo(change[0]), dst, begin, begin + 4 * HOUR)


def _compare(expression: str, zone: ZoneInfo, dst: Dst, begin: datetime, end: datetime) -> None:
    rule, trigger = parse(expression), CronTrigger(expression, zone, dst)
    step = MINUTE if rule.seconds == {0} else SECOND
    expected = _brute_force(zone, begin, end, step, dst, rule.real_time, rule.matches)
    assert [*takewhile(lambda fire: fire <= end, trigger.after(begin))] == expected
    assert [*takewhile(lambda fire: fire > begin, trigger.until(end))] == expected[::-1]


@given(st.integers(0, 10**9))
@settings(max_examples=50)
def test_fractions_of_a_second_do_not_blur_the_border(microseconds: int) -> None:
    """`after` is strictly later, `until` includes its instant, at any fraction of a second."""
    trigger = CronTrigger("*/7 * * * * *", ZoneInfo("Europe/Sofia"))
    instant = datetime(2026, 6, 1, 12, tzinfo=UTC) + timedelta(microseconds=microseconds)
    following, newest = next(trigger.after(instant)), next(trigger.until(instant))

    assert newest <= instant < following
    assert next(trigger.after(newest)) == following
    assert next(trigger.until(following - MOMENT)) == newest
    assert next(trigger.after(following - MOMENT)) == following
