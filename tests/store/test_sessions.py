"""The ledger of sessions in the state database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from erpsync.core.session import Session
from erpsync.store.sessions import read_sessions, remove_sessions, write_sessions
from erpsync.store.state import Store

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)
NIGHT = Session("acme", "night@acme", "tok_0a1b2c3d", NOON, NOON + timedelta(minutes=1))


def test_sessions_outlive_the_process(tmp_path: Path) -> None:
    """What was noted is there after a restart; noting it again moves its times; a removed one is gone."""
    store = Store.open(tmp_path / "state.db")
    person = replace(NIGHT, identity="alice@acme", kind="person")
    store.write_now(write_sessions, NIGHT)
    store.write_now(write_sessions, person)
    store.close()
    store = Store.open(tmp_path / "state.db")
    assert set(store.read_now(read_sessions)) == {person, NIGHT}
    later = replace(NIGHT, used_at=NIGHT.used_at + timedelta(minutes=5))
    store.write_now(write_sessions, later)
    store.write_now(remove_sessions, person)
    assert store.read_now(read_sessions) == [later]
    store.close()


def test_what_is_long_over_is_forgotten(tmp_path: Path) -> None:
    """The table does not grow: a session of two days ago goes when a new one is noted."""
    store = Store.open(tmp_path / "state.db")
    store.write_now(write_sessions, NIGHT)
    two_days = timedelta(days=2)
    new = replace(NIGHT, fingerprint="tok_99", opened_at=NOON + two_days, used_at=NOON + two_days)
    store.write_now(write_sessions, new)
    assert store.read_now(read_sessions) == [new]
    store.close()
