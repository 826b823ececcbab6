"""What an error of a database driver means, by its code and never by its words."""

import sqlite3
from typing import Literal

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

DATABASE_FAULTS = (SQLAlchemyError, sqlite3.Error)
"""What SQLAlchemy raises, and the drivers under it."""
Meaning = Literal["locked", "full", "away", "damaged", "other"]

_SQLITE: dict[int, Meaning] = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR: "away",
    sqlite3.SQLITE_CANTOPEN: "away",
    sqlite3.SQLITE_READONLY: "away",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
}
RETRYABLE: frozenset[Meaning] = frozenset({"locked", "full", "away"})
"""What may heal by itself or by a person's hand elsewhere."""


def meaning_of(error: BaseException) -> Meaning:
    """The meaning of an exception of SQLAlchemy or of the driver under it."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", None)
    return "other" if code is None else _SQLITE.get(code & 0xFF, "other")
