"""What is done again: the pure decisions."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from erpsync.daemon.rerun import MOST_SLICES, backfill_name, slices

START = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.integers(1, 10_000), st.integers(1, 500))
def test_slices_cover_the_window_once(hours: int, size: int) -> None:
    """They follow each other without gap or overlap, none is longer than asked for; too many are seen as such."""
    end = START + timedelta(hours=hours)
    found = slices((START, end), timedelta(hours=size))
    assert found[0][0] == START
    assert all(before[1] == after[0] for before, after in pairwise(found))
    assert all(timedelta(0) < ends - begins <= timedelta(hours=size) for begins, ends in found)
    assert (found[-1][1] == end) is (len(found) <= MOST_SLICES)


def test_the_same_wish_has_the_same_name() -> None:
    """An instant is the same in every zone; another slice is another backfill."""
    window = (START, START + timedelta(days=3))
    local = (START.astimezone(), window[1].astimezone())
    assert backfill_name(window, timedelta(days=1)) == backfill_name(local, timedelta(hours=24))
    assert backfill_name(window, timedelta(days=1)) != backfill_name(window, timedelta(days=2))
