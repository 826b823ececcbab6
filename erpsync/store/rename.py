"""Renaming a job in the state: its runs, mark, cursor, pause and what was handed over."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from sqlalchemy import Connection, select, union, update

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


class Renamed(Enum):
    """What became of a rename; nothing is carried to a name that the state knows already, for two histories cannot
    be one."""

    DONE = "done"
    NOTHING = "nothing to carry"
    REFUSED = "the name is known already"


def known_names(connection: Connection) -> set[str]:
    """The names of which the state holds anything: nothing can be carried to them."""
    return set(connection.scalars(union(*(select(name).distinct() for name in _NAMES))))


def rename_job(connection: Connection, renames: Sequence[Rename]) -> list[Renamed]:
    """Carry all that the state holds over to another name. Doing it again does nothing."""
    return [_rename(connection, rename) for rename in renames]


def _rename(connection: Connection, rename: Rename) -> Renamed:
    if not _is_known(connection, rename.former):
        return Renamed.NOTHING
    if _is_known(connection, rename.name):
        return Renamed.REFUSED
    for name in _NAMES:
        connection.execute(update(name.table).where(name == rename.former).values({name: rename.name}))
    return Renamed.DONE


def _is_known(connection: Connection, job: str) -> bool:
    found = (connection.scalar(select(name).where(name == job).limit(1)) for name in _NAMES)
    return any(name is not None for name in found)
