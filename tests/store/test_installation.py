"""Where a state belongs, and what is held."""

import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from erpsync.store.backup import back_up
from erpsync.store.installation import (
    Hold,
    Settle,
    place_of,
    read_hold,
    renew_generation,
    settle,
    take_over,
)
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


def _copied(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)  # as cp: the file of before, with other bytes


def _emptied_and_filled(source: Path, target: Path) -> None:
    with target.open("wb") as file:  # as cat >
        file.write(source.read_bytes())


def _patched(source: Path, target: Path) -> None:
    with target.open("r+b") as file:  # as rsync --inplace
        file.write(source.read_bytes())
        file.truncate()


@pytest.mark.parametrize("rewrite", [_copied, _emptied_and_filled, _patched])
async def test_an_older_copy_in_the_same_file_is_held(
    tmp_path: Path, rewrite: Callable[[Path, Path], None]
) -> None:
    """However it came there: from a copy by hand of before the last start, or from a backup of just now."""
    state, by_hand, backup = (tmp_path / name for name in ("state.db", "by-hand.db", "backup.db"))
    await _life(state)
    shutil.copy(state, by_hand)
    await _life(state)
    back_up(state, backup)
    for copy in (by_hand, backup):
        genuine = state.read_bytes()
        rewrite(copy, state)
        held = await _life(state)
        assert held is not None
        assert "older" in held.reason
        state.write_bytes(genuine)
        (tmp_path / "state.db.generation").unlink()
        assert await _life(state) is None


async def test_a_copy_of_before_the_last_renewal_is_held(tmp_path: Path) -> None:
    """What the daemon does once an hour, and when it stops, is enough: no start is needed between."""
    state, copy = tmp_path / "state.db", tmp_path / "copy.db"
    store = Store.open(state)
    assert await take_over(store, NOW) is None
    store.close()
    shutil.copy(state, copy)
    store = Store.open(state)
    await renew_generation(store)
    store.close()
    _copied(copy, state)
    assert await _life(state) is not None


@pytest.mark.parametrize("lives", [1, 3])
async def test_a_crash_between_state_and_place_holds_nothing(tmp_path: Path, lives: int) -> None:
    """Killed after the state has its new generation and before the file beside it has: once, and at every start."""
    state, beside = tmp_path / "state.db", tmp_path / "state.db.generation"
    await _life(state)
    before = beside.read_text()
    for _ in range(lives):
        assert await _life(state) is None
        beside.write_text(before)  # as if the second write had not been
    assert await _life(state) is None
    assert beside.read_text() != before
    assert stat.S_IMODE(beside.stat().st_mode) == 0o600


async def _life(state: Path) -> Hold | None:
    """A process that goes on with the state and is killed."""
    store = Store.open(state)
    try:
        return await take_over(store, NOW)
    finally:
        store.close()


async def test_a_folder_that_is_moved_away_and_back_is_not_held(tmp_path: Path) -> None:
    """What is no longer in its place gets no other generation, for the file beside it is out of reach."""
    store = Store.open(tmp_path / "data" / "state.db")
    assert await take_over(store, NOW) is None
    away = (tmp_path / "data").rename(tmp_path / "away")
    await renew_generation(store)
    store.close()
    away.rename(tmp_path / "data")
    again = Store.open(tmp_path / "data" / "state.db")
    assert await take_over(again, NOW) is None
    again.close()


async def test_a_generation_that_is_no_text_is_another_one(store: Store, tmp_path: Path) -> None:
    """Whatever has become of the file beside the state: a person decides."""
    assert await take_over(store, NOW) is None
    (tmp_path / "state.db.generation").write_bytes(b"\xff\xfe\x00")
    held = await take_over(store, NOW)
    assert held is not None
    assert "older" in held.reason
