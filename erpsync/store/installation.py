"""Which place a state belongs to: one that was copied, restored or moved is held until a person lets it go on.

Two machines that both go on from copies of one state would run everything twice; so would one that goes on from an
older copy. What tells that from the state itself is its *generation*: a random word in the state and in a file beside
it, new at every start and stop, and every hour.
"""

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from erpsync.core.errors import HeldError
from erpsync.store.copy import settle_folder
from erpsync.store.place_fault import place_faults
from erpsync.store.schema import installation
from erpsync.store.state import Store

_MACHINE = Path("/etc/machine-id")


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing of this state is fired `since` an instant (aware UTC), for the reason given."""

    since: datetime
    reason: str


def _new_generation() -> str:
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Renewal:
    """The state gets a `generation`; the place has `before` until that is written there too."""

    before: str | None
    generation: str = field(default_factory=_new_generation)


@dataclass(frozen=True, slots=True)
class Settle:
    """A process wants to go on with the state at `place`."""

    place: str
    now: datetime
    renewal: Renewal = field(default_factory=lambda: Renewal(None))


async def take_over(store: Store, now: datetime) -> Hold | None:
    """Go on with the state where it belongs to this place and is not older; else the hold that is in force.

    The caller owns the state.

    Raises:
        StoreError: the state, or the file beside it, cannot be written.
    """
    beside = _beside(store.path)
    settled = Settle(place_of(store.path), now, Renewal(_read(beside)))
    held = await store.write(settle, settled)
    _write(beside, settled.renewal.generation)  # a crash before this is no reason to hold: see `_is_older`
    return held


async def require_released(store: Store, now: datetime) -> None:
    """Go on with the state for a command that no daemon does.

    The caller owns the state.

    Raises:
        HeldError: it waits for a person to let it go on here.
        StoreError: as with `take_over`.
    """
    if held := await take_over(store, now):
        hint = "start the daemon here, then: erpsync resume --all"
        raise HeldError(f"the state is held: {held.reason}", hint=hint)


async def renew_generation(store: Store) -> None:
    """Let no copy that was made before now pass for the state.

    Raises:
        StoreError: the state, or the file beside it, cannot be written; copies of the last generation pass on.
    """
    if store.path in store.displaced():
        return  # what is beside that path is beside another file: put back, this one would be held
    beside = _beside(store.path)
    renewal = Renewal(_read(beside))
    await store.write(renew, renewal)
    _write(beside, renewal.generation)


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
        renew(connection, [wish.renewal])
        return None
    hold = Hold(known.held_since, known.held_reason) if known.held_since else _suspicion(known, wish)
    since, reason = (hold.since, hold.reason) if hold else (None, None)
    changes = {"place": wish.place, "held_since": since, "held_reason": reason}
    connection.execute(update(installation).values(changes))
    renew(connection, [wish.renewal])
    return hold


def renew(connection: Connection, renewals: Sequence[Renewal]) -> list[None]:
    """Give the state another generation."""
    for each in renewals:
        changes = {"generation": each.generation, "generation_before": each.before}
        connection.execute(update(installation).values(changes))
    return [None] * len(renewals)


def _row(place: str, **rest: object) -> dict[str, object]:
    return {"id": secrets.token_hex(8), "place": place, **rest}


def _suspicion(known: Any, wish: Settle) -> Hold | None:
    place = known.place
    if place == wish.place:
        older = _is_older(known, wish.renewal.before)
        return Hold(wish.now, "it is older than what ran here last") if older else None
    machine, other = place.split(":")[0], wish.place.split(":")[0]
    moved = machine != other and "any" not in (machine, other)
    reason = "it comes from another machine" if moved else "its file is a copy"
    return Hold(wish.now, reason)


def _is_older(known: Any, here: str | None) -> bool:
    """Whether this is not the state that the generation of this place belongs to. The state's is written first: where
    that was all before a crash, the place has the one before."""
    return here is not None and here not in (known.generation, known.generation_before)


def _beside(state: Path) -> Path:
    return state.with_name(state.name + ".generation")


def _read(beside: Path) -> str | None:
    """The generation of this place; None where no state has been here, or somebody has removed the file."""
    with place_faults(beside):
        try:
            return beside.read_text(errors="replace").strip() or None  # what is no text is another's
        except FileNotFoundError:
            return None


def _write(beside: Path, generation: str) -> None:
    """Durably, whole or not at all."""
    fresh = beside.with_name(beside.name + ".partial")
    with place_faults(beside):
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, generation.encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(fresh, beside)
        settle_folder(beside.parent)


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
