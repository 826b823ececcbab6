"""The ledger of ERP.net sessions that may still be open: what a restart must know of licence slots."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, delete, select, tuple_

from erpsync.core.session import IDLE, Session
from erpsync.store import schema
from erpsync.store.upsert import upsert

_SESSION = schema.session.c
_KEY = ("instance", "identity", "fingerprint")
_KEPT = IDLE + timedelta(days=1)
"""No session lives longer without use; the day is for clocks that were wrong."""


def write_sessions(connection: Connection, sessions: Sequence[Session]) -> list[None]:
    """Note that sessions may be open, each by instance, identity and fingerprint; forget those long over."""
    if sessions:
        rows = [{name: getattr(session, name) for name in Session.__slots__} for session in sessions]
        connection.execute(upsert(connection, schema.session, _KEY, ["opened_at", "used_at", "kind"]), rows)
        oldest = min(session.used_at for session in sessions) - _KEPT
        connection.execute(delete(schema.session).where(_SESSION.used_at < oldest))
    return [None] * len(sessions)


def remove_sessions(connection: Connection, sessions: Sequence[Session]) -> list[None]:
    """Forget sessions that are over, or were never opened."""
    keys = [tuple(getattr(session, name) for name in _KEY) for session in sessions]
    connection.execute(delete(schema.session).where(tuple_(*(_SESSION[name] for name in _KEY)).in_(keys)))
    return [None] * len(sessions)


def read_sessions(connection: Connection) -> list[Session]:
    """All that were noted, those that are over meanwhile included."""
    rows = connection.execute(select(schema.session).order_by(_SESSION.opened_at))
    return [Session(**{name: getattr(row, name) for name in Session.__slots__}) for row in rows]
