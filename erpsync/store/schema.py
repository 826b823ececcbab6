"""The tables of the state database, as SQLAlchemy Core knows them; `migrations/` makes them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

REVISION = "0005"
"""The schema this program writes; the newest file in `migrations/versions`."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime, stored as whole microseconds since 1970: exact, sortable, the same everywhere."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return from_microseconds(value)


def from_microseconds(value: int | None) -> datetime | None:
    """An instant as the database holds it."""
    return None if value is None else _EPOCH + timedelta(microseconds=value)


metadata = MetaData()

run = Table(
    "run",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),  # the order in which runs were written
    Column("id", Text, nullable=False, unique=True),
    Column("job", Text, nullable=False),
    Column("claim", Text, nullable=False),
    Column("plugin", Text, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("instance", Text),
    Column("identity", Text),
    Column("fire_at", Instant),
    Column("fire_until", Instant),
    Column("fire_count", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("waiting_for", Text),
    Column("outcome", Text),
    Column("reason", Text),
    Column("attempts", Integer, nullable=False),
    Column("uncharged", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Column("next_attempt_at", Instant),
    Column("read", BigInteger, nullable=False),
    Column("written", BigInteger, nullable=False),
    Column("unchanged", BigInteger, nullable=False),
    Column("deleted", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("skipped", BigInteger, nullable=False),
    Column("cursor_before", Text),
    Column("cursor_after", Text),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("error_hint", Text),
    Column("requested_by", Text),
    Column("retry_of", Text),
    Column("params", Text),  # JSON
    Column("priority", Integer, nullable=False),
    Column("owner", Text),
    Column("parents", Text),  # ids, separated by blanks
    UniqueConstraint("job", "claim", name="run_claim"),  # a fire time is claimed once
    Index("run_job_seq", "job", "seq"),
    Index("run_unfinished", "job", sqlite_where=text("state <> 'finished'")),
)

attempt = Table(
    "attempt",
    metadata,
    Column("run_id", Text, ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("finished_at", Instant),
    Column("outcome", Text),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("error_hint", Text),
)

mark = Table(
    "mark",
    metadata,
    Column("job", Text, primary_key=True),
    Column("schedule", Text, nullable=False),
    Column("until", Instant, nullable=False),
)

cursor = Table(
    "cursor",
    metadata,
    Column("job", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

installation = Table(  # one row: the place that this state belongs to
    "installation",
    metadata,
    Column("id", Text, primary_key=True),
    Column("place", Text, nullable=False),
    Column("held_since", Instant),
    Column("held_reason", Text),
    Column("generation", Text),
    Column("generation_before", Text),
)

pause = Table(
    "pause",
    metadata,
    Column("job", Text, primary_key=True),
    Column("until", Instant),
    Column("reason", Text),
    Column("requested_by", Text),
    Column("since", Instant, nullable=False),
)

handover = Table(  # the newest run of a parent that a child has not consumed
    "handover",
    metadata,
    Column("child", Text, primary_key=True),
    Column("parent", Text, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("outcome", Text, nullable=False),
)

session = Table(  # sessions at ERP.net instances that may still be open, and so hold a licence slot
    "session",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("identity", Text, primary_key=True),
    Column("fingerprint", Text, primary_key=True),
    Column("opened_at", Instant, nullable=False),
    Column("used_at", Instant, nullable=False),
    Column("kind", Text, nullable=False),
)
