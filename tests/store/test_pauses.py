"""Pauses in the state database."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from erpsync.store.pauses import Pause, read_pauses, remove_pauses, write_pauses
from erpsync.store.state import Store

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)


def test_a_pause_is_replaced_and_removed(tmp_path: Path) -> None:
    """A second pause changes its end and reason, not its beginning; resuming says whether there was one."""
    store = Store.open(tmp_path / "state.db")
    store.write_now(write_pauses, Pause("products", NOON, None, "stock-taking", "ops"))
    later = NOON + timedelta(hours=1)
    store.write_now(write_pauses, Pause("products", later, later + timedelta(hours=2), "longer", "ops"))
    (pause,) = store.read_now(read_pauses).values()
    assert (pause.since, pause.until, pause.reason) == (NOON, later + timedelta(hours=2), "longer")
    assert pause.holds(later)
    assert not pause.holds(later + timedelta(hours=2))
    assert store.write_now(remove_pauses, "products")
    assert not store.write_now(remove_pauses, "products")
    assert store.read_now(read_pauses) == {}
    store.close()
