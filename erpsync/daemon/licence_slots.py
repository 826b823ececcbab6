"""Licence slots in virtual time, by a simple rule: who holds one, and until when. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from erpsync.core.run import Run

LICENCE = "licence"
"""What a run waits for whose identity holds no slot while none is free."""
IDLE = timedelta(minutes=20)
"""So long after the last run of its identity a slot stays taken."""
SESSION = timedelta(minutes=60)
"""So long a session lasts; while runs go on, the next one follows and keeps the slot."""


@dataclass(slots=True)
class _Holding:
    """A slot that an identity took at `since`; `used` is when its last run ended."""

    since: datetime
    used: datetime
    runs: int = 0

    @property
    def until(self) -> datetime:
        """When the slot is free again, if nothing of the identity starts before."""
        sessions = max(1, -((self.since - self.used) // SESSION))
        return min(self.used + IDLE, self.since + sessions * SESSION)


class LicenceSlots:
    """The slots of each instance. An identity takes one with its first run and shares it among all its runs."""

    def __init__(self, slots: Mapping[str, int]) -> None:
        self._slots = slots
        self._held: dict[str, dict[str, _Holding]] = {instance: {} for instance in slots}

    def may_start(self, run: Run, now: datetime) -> bool:
        """Whether the run's identity holds a slot or can have one."""
        held = self._holdings(run, now)
        return held is None or run.identity in held or len(held) < self._slots[run.instance or ""]

    def start(self, run: Run, now: datetime) -> bool:
        """A run begins; whether its identity took a slot for it."""
        held = self._holdings(run, now)
        if held is None or run.identity is None:
            return False
        is_new = run.identity not in held
        holding = held.setdefault(run.identity, _Holding(now, now))
        holding.runs += 1
        return is_new

    def end(self, run: Run, now: datetime) -> datetime | None:
        """A run ends or is interrupted; when its slot is free again, if nothing else of its identity runs."""
        held = self._holdings(run, now)
        holding = held.get(run.identity or "") if held is not None else None
        if holding is None:
            return None
        holding.used = now
        holding.runs -= 1
        return None if holding.runs else holding.until

    def _holdings(self, run: Run, now: datetime) -> dict[str, _Holding] | None:
        """Who holds a slot of the run's instance; None where the run needs none."""
        held = self._held.get(run.instance or "") if run.identity is not None else None
        for identity, holding in list(held.items()) if held else ():
            if not holding.runs and holding.until <= now:
                del held[identity]  # type: ignore[union-attr]
        return held
