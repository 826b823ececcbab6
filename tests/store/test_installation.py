"""Where a state belongs, and what is held."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from erpsync.store.installation import Settle, place_of, read_hold, settle
from erpsync.store.state import Store

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "state.db")
    store.write_now(settle, Settle(place_of(store.path), NOW))
    yield store
    store.close()


def test_a_state_that_stays_is_never_held(store: Store, tmp_path: Path) -> None:
    """The same file on the same machine goes on, under another name too."""
    store.close()
    moved = (tmp_path / "state.db").rename(tmp_path / "renamed.db")
    again = Store.open(moved)
    assert again.write_now(settle, Settle(place_of(moved), NOW)) is None
    again.close()


def test_a_copied_file_is_held_until_it_is_released(store: Store, tmp_path: Path) -> None:
    """A copy beside the original is held, however often it is opened."""
    store.close()
    shutil.copy(tmp_path / "state.db", tmp_path / "copy.db")
    copy = Store.open(tmp_path / "copy.db")
    first = copy.write_now(settle, Settle(place_of(copy.path), NOW))
    assert first is not None
    assert "copy" in first.reason
    assert copy.write_now(settle, Settle(place_of(copy.path), NOW + timedelta(hours=1))) == first
    assert copy.read_now(read_hold) == first
    copy.close()


def test_another_machine_is_another_place(store: Store, tmp_path: Path) -> None:
    """The machine's id counts where both are known; a container without one is any machine."""
    (tmp_path / "here").write_text("a" * 32 + "\n")
    (tmp_path / "there").write_text("b" * 32 + "\n")
    here, there, nowhere = (place_of(store.path, tmp_path / name) for name in ("here", "there", "none"))
    assert len({here, there, nowhere}) == 3
    store.write_now(settle, Settle(here, NOW))
    held = store.write_now(settle, Settle(there, NOW))
    assert held is not None
    assert "machine" in held.reason
