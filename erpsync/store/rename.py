"""Renaming a job in the state: its runs, mark, cursor, pause and what was handed over."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from erpsync.store import schema

_NAMES = (
    schema.run.c.job,
    schema.mark.c.job,
    schema.cursor.c.job,
    schema.pause.c.job,
    schema.handover.c.child,
    schema.handover.c.parent,
)


@dataclass(frozen=True, slots=True)
class Rename:
    """What was `former` is `name` now."""

    former: str
    name: str


def rename_job(connection: Connection, renames: Sequence[Rename]) -> list[bool]:
    """Carry all that the state holds over to another name; whether there was anything to carry.

    Nothing is carried to a name that the state knows already, for two histories cannot be one. Doing it again does
    nothing.
    """
    return [_rename(connection, rename) for rename in renames]


def _rename(connection: Connection, rename: Rename) -> bool:
    known = (connection.scalar(select(name).where(name == rename.name).limit(1)) for name in _NAMES)
    if any(name is not None for name in known):
        return False
    changed = [
        connection.execute(update(name.table).where(name == rename.former).values({name: rename.name}))
        for name in _NAMES
    ]
    return any(result.rowcount for result in changed)
