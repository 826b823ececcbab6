"""Instants and durations at the ends of the calendar: refused where they come in, before anybody reckons."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from erpsync.cli.instant import parse_instant
from erpsync.control.wish import PauseRequest
from erpsync.core.duration import parse_duration
from erpsync.core.instant import reckonable

NOW = datetime(2026, 7, 1, tzinfo=UTC)
AT_THE_ENDS = ("9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "0001-01-01")


@pytest.mark.parametrize("text", AT_THE_ENDS)
def test_no_command_takes_the_ends_of_the_calendar(text: str) -> None:
    """What zones or delays would move off the calendar is refused with words, and not as a fault of ours."""
    with pytest.raises(ValueError, match="1900 to 2999"):
        parse_instant(text, "Europe/Sofia", NOW)


@pytest.mark.parametrize("text", AT_THE_ENDS[:3])
def test_nor_does_the_control_api(text: str) -> None:
    """A pause that nobody could show would be in force."""
    with pytest.raises(ValidationError, match="1900 to 2999"):
        PauseRequest(jobs=["say"], until=text)  # type: ignore[arg-type]


def test_what_people_mean_is_taken() -> None:
    """Far years that leave room on both sides."""
    for year in (1900, 2999):
        assert reckonable(datetime(year, 6, 1, tzinfo=timezone(timedelta(hours=14)))).year == year


def test_no_duration_is_longer_than_a_century() -> None:
    """From no instant that is taken would it lead off the calendar."""
    assert parse_duration("36500d") == timedelta(days=36_500)
    for text in ("36501d", "750000d", "99999999999999999d"):
        with pytest.raises(ValueError, match="36500d"):
            parse_duration(text)
