"""Open ERP.net sessions and the licence slots they occupy, as values (ERP.net: session overview, revocation)."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

IDLE = timedelta(minutes=20)
ABSOLUTE = timedelta(minutes=60)

SessionKind = Literal["service", "reference", "person"]
"""A service's session ends after an hour even while it is used, and its token with it. So does one of a reference
token, but the next call opens another with the same token; a person's lives on while it is used."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session at `instance`, opened by the first call with the token of this `fingerprint`.

    `opened_at` is the latest instant at which the server can have opened it, `used_at` the latest at which it can
    have been used; both aware UTC.
    """

    instance: str
    identity: str
    fingerprint: str
    opened_at: datetime
    used_at: datetime
    kind: SessionKind = "service"

    @property
    def ends_at(self) -> datetime:
        """The instant at which the server has ended it at the latest, if it is not used any more."""
        idle = self.used_at + IDLE
        return min(idle, self.opened_at + ABSOLUTE) if self.kind == "service" else idle


@dataclass(frozen=True, slots=True)
class SlotUse:
    """How the licence slots of one instance stand; `reserved` are identities with running runs, `waiting` others."""

    instance: str
    slots: int
    sessions: tuple[Session, ...] = ()
    reserved: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()

    @property
    def in_use(self) -> int:
        """Slots that nobody else gets now."""
        held = {session.identity for session in self.sessions}
        return len(self.sessions) + len(set(self.reserved) - held)
