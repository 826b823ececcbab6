"""What the targets of a job keep of its cursor, seen and reset from outside of a run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from erpsync.plugins.sink import CURSOR, target_engine, target_faults, target_file
from erpsync.plugins.target import Target


@dataclass(frozen=True, slots=True)
class Kept:
    """How far a target's table is; `unfinished`: a position inside a run is kept too. `updated_at` is UTC text."""

    url: str
    table: str
    job: str
    watermark: str | None
    unfinished: bool
    run_id: str
    updated_at: str


def targets_in(value: object) -> Iterator[Target]:
    """The targets in a plugin's settings, wherever they stand."""
    if isinstance(value, Target):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from targets_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from targets_in(inner)
    elif hasattr(value, "__pydantic_fields__"):
        for name in value.__pydantic_fields__:
            yield from targets_in(getattr(value, name))


def read_kept(target: Target, data: Path) -> Kept | None:
    """How far the target is; None where nothing was written yet.

    Raises:
        TargetError: it cannot be read; retryable where the database is away.
    """
    if not target_file(target, data).exists():
        return None
    with target_faults(target):
        engine = target_engine(target, data, dry_run=True)  # which changes nothing of the database's settings
        try:
            with engine.connect() as connection, connection.begin():
                if not sa.inspect(connection).has_table(CURSOR.name):
                    return None
                mine = sa.select(CURSOR).where(CURSOR.c.table_name == target.table)
                row = connection.execute(mine).mappings().one_or_none()
        finally:
            engine.dispose()
    if row is None:
        return None
    position = row["position"] is not None
    return Kept(
        target.url, target.table, row["job"], row["watermark"], position, row["run_id"], row["updated_at"]
    )


def reset_kept(target: Target, data: Path) -> bool:
    """Let the next run read everything; False where nothing is kept. Whoever has the sink open writes no more.

    Raises:
        TargetError: as `read_kept`; nothing was changed.
    """
    if read_kept(target, data) is None:
        return False
    with target_faults(target):
        engine = target_engine(target, data, dry_run=False)
        try:
            with engine.connect() as connection, connection.begin():
                connection.execute(
                    CURSOR.update()
                    .where(CURSOR.c.table_name == target.table)
                    .values(watermark=None, position=None, fence=CURSOR.c.fence + 1)
                )
        finally:
            engine.dispose()
    return True
