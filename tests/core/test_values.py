"""The vocabulary: durations, redaction, problems, the clock, documents."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpsync.core import errors
from erpsync.core.clock import ManualClock, SystemClock
from erpsync.core.duration import format_duration, parse_duration
from erpsync.core.problem import Problem
from erpsync.core.run import Counts, Run, RunTrigger, utc_text
from erpsync.core.token import AccessToken


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("250ms", 0.25), ("1h30m", 5400)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    """A number and a unit, or several."""
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "90", "m", "1 week", "-5m", "5m ", "1e9d", "9" * 30 + "d"])
def test_what_is_no_duration_is_refused_with_the_forms(text: str) -> None:
    """The message shows how to write one."""
    if text == "5m ":
        assert parse_duration(text) == timedelta(minutes=5)
        return
    with pytest.raises(ValueError, match=r"90s|longer than"):
        parse_duration(text)


@given(st.integers(0, 10**7))
def test_formatted_durations_are_close_and_readable_again(seconds: int) -> None:
    """What is shown differs from the truth by less than the second unit."""
    again = parse_duration(format_duration(seconds))
    assert abs(again.total_seconds() - seconds) <= (3600 if seconds >= 86400 else 60)


def test_a_problem_shows_its_line_with_a_caret() -> None:
    """The text form has code, place, line, caret and help."""
    problem = Problem(
        "E103", "error", 'unknown key "shedule"', "jobs.d/orders.toml", 14, 1, "jobs.orders.shedule",
        'did you mean "schedule"?', 'shedule = "15 2 * * *"',
    )  # fmt: skip
    assert problem.text() == (
        'error[E103]: unknown key "shedule"\n'
        "  --> jobs.d/orders.toml:14:1\n"
        "    |\n"
        ' 14 | shedule = "15 2 * * *"\n'
        "    | ^\n"
        '  help: did you mean "schedule"?'
    )
    assert "source" not in problem.document()


async def test_the_manual_clock_wakes_who_slept_long_enough() -> None:
    """Sleepers wake in step with the time awake; a step only the wall notices, a suspend boot time too."""
    clock = ManualClock()
    woken: list[float] = []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (0, 5, 10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    clock.step(timedelta(hours=5))
    clock.suspend(timedelta(hours=1))
    clock.advance(timedelta(seconds=7))
    await asyncio.sleep(0)
    assert woken == [0, 5]
    clock.advance(timedelta(seconds=7))
    await asyncio.gather(*tasks)
    assert (clock.awake(), clock.boot()) == (14, 3614)
    assert clock.now() == datetime(2026, 1, 1, 6, 0, 14, tzinfo=UTC)


def test_the_system_clock_is_aware() -> None:
    """Instants have a zone; the boot-time clock does not go back."""
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert clock.boot() <= clock.boot()
    assert clock.awake() <= clock.awake() <= clock.boot()


def test_tokens_show_no_value() -> None:
    """The repr of a token has a version and a time, never the token."""
    token = AccessToken(
        "very-secret-token", 3, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=UTC)
    )
    assert "very-secret" not in repr(token)
    assert token.fingerprint.startswith("tok_")


def test_the_run_document_has_the_public_fields() -> None:
    """The JSON form of a run has exactly the documented keys."""
    run = Run("r", "j", "at:x", "p", RunTrigger.SCHEDULE, datetime(2026, 1, 1, tzinfo=UTC))
    assert list(run.document()) == [
        "id",
        "job",
        "instance",
        "plugin",
        "identity",
        "trigger",
        "fire_at",
        "fire_until",
        "fire_count",
        "state",
        "waiting_for",
        "outcome",
        "reason",
        "attempts",
        "started_at",
        "finished_at",
        "next_attempt_at",
        "duration_seconds",
        "lag_seconds",
        "counts",
        "cursor",
        "error",
        "requested_by",
        "retry_of",
        "parents",
        "window",
    ]
    assert utc_text(datetime(2026, 1, 1, 2, tzinfo=UTC)) == "2026-01-01T02:00:00Z"
    assert Counts(read=1).plus(read=2, failed=1) == Counts(read=3, failed=1)


def test_every_error_says_whether_trying_again_helps() -> None:
    """The tree's leaves all have a retryable bit, and its first page names them all."""
    found = [errors.ErpsyncError]
    for error in found:
        found += error.__subclasses__()
    here = [error for error in found if error.__module__ == errors.__name__]
    assert all(isinstance(error.retryable, bool) for error in here)
    assert errors.__doc__ is not None
    assert [error.__name__ for error in here if error.__name__ not in errors.__doc__] == []
