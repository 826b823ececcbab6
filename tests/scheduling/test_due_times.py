"""Who is due by now, against looking at everybody."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from erpsync.scheduling.due_times import DueTimes

START = datetime(2026, 11, 29, tzinfo=UTC)
JOBS = [f"job-{number}" for number in range(5)]
HOURS = st.integers(0, 6)
CHANGES = st.lists(st.tuples(st.sampled_from(JOBS), st.none() | HOURS, HOURS), max_size=400)


@given(CHANGES)
def test_those_that_are_due_are_found_and_stay(changes: list[tuple[str, int | None, int]]) -> None:
    """After any changes, back and forth too, the same jobs are due as in a plain table, the earliest first."""
    kept, plain = DueTimes(), dict[str, datetime]()
    for job, hour, look in changes:
        due = None if hour is None else START + timedelta(hours=hour)
        kept.set(job, due)
        plain.pop(job, None)
        if due is not None:
            plain[job] = due
        until = START + timedelta(hours=look)
        expected = [name for at, name in sorted((at, name) for name, at in plain.items()) if at <= until]
        assert kept.until(until) == expected == kept.until(until)
        assert kept.by_job == plain


def test_what_is_over_is_not_kept() -> None:
    """A job that is due again and again, with another that is due long after, takes no more room than two."""
    kept = DueTimes()
    kept.set("yearly", START + timedelta(days=365))
    for second in range(10_000):
        kept.set("often", START + timedelta(seconds=10_000 - second))
    assert len(kept._queue) < 200
