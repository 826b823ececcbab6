"""The catalogues of cron cases through `erpsync next`, as people would check them."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.cli.conftest import Type
from tests.simulation.literal_cron import parse

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
