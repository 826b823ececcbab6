"""Which place a state belongs to: one that was copied, restored or moved is held until a person lets it go on.

Two machines that both go on from copies of one state would run everything twice.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from erpsync.store.schema import installation

_MACHINE = Path("/etc/machine-id")


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing of this state is fired `since` an instant (aware UTC), for the reason given."""

    since: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Settle:
    """A process wants to go on with the state at `place`."""

    place: str
    now: datetime


def place_of(state: Path, machine: Path = _MACHINE) -> str:
    """The machine and the file: a copy is another file, also on the same machine.

    Containers often have no machine id; there the file alone counts. What carries the file itself along, like a
    volume that moves to another node, keeps the place.
    """
    try:
        name = machine.read_text().strip()
    except OSError:
        name = ""
    return f"{hashlib.sha256(name.encode()).hexdigest()[:12] if name else 'any'}:{state.stat().st_ino}"


def settle(connection: Connection, wishes: Sequence[Settle]) -> list[Hold | None]:
    """Take the state over for a place; the hold where it belongs to another one, or is held already."""
    return [_settle(connection, wish) for wish in wishes]


def _settle(connection: Connection, wish: Settle) -> Hold | None:
    known = connection.execute(select(installation)).first()
    if known is None:
        connection.execute(insert(installation).values(_row(wish.place)))
        return None
    hold = Hold(known.held_since, known.held_reason) if known.held_since else _suspicion(known.place, wish)
    since, reason = (hold.since, hold.reason) if hold else (None, None)
    changes = {"place": wish.place, "held_since": since, "held_reason": reason}
    connection.execute(update(installation).values(changes))
    return hold


def _row(place: str, **rest: object) -> dict[str, object]:
    return {"id": secrets.token_hex(8), "place": place, **rest}


def _suspicion(place: str, wish: Settle) -> Hold | None:
    if place == wish.place:
        return None
    machine, other = place.split(":")[0], wish.place.split(":")[0]
    moved = machine != other and "any" not in (machine, other)
    reason = "it comes from another machine" if moved else "its file is a copy"
    return Hold(wish.now, reason)


def hold(connection: Connection, holds: Sequence[Hold]) -> list[None]:
    """Hold the state from now on, as after a restore."""
    for each in holds:
        changes = {"held_since": each.since, "held_reason": each.reason}
        if connection.execute(update(installation).values(changes)).rowcount == 0:
            connection.execute(insert(installation).values(_row("", **changes)))
    return [None] * len(holds)


def release(connection: Connection, wishes: Sequence[None]) -> list[bool]:
    """Let the state go on; whether it was held."""
    held = read_hold(connection) is not None
    connection.execute(update(installation).values(held_since=None, held_reason=None))
    return [held] * len(wishes)


def read_hold(connection: Connection) -> Hold | None:
    """The hold that is in force."""
    known = connection.execute(select(installation)).first()
    return Hold(known.held_since, known.held_reason) if known is not None and known.held_since else None
