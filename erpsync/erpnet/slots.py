"""The licence slots of one instance: which sessions hold them, who reserves and who awaits one. No input or output.

A session cannot be ended by us: its slot is free when the server has ended it, by the latest reckoning and a margin.
`license_slots` is a promise: never are more sessions of ours open than that.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf

from erpsync.core.clock import Clock
from erpsync.core.event import Emit
from erpsync.core.session import ABSOLUTE, IDLE, Session, SessionKind, SlotUse
from erpsync.core.token import AccessToken

OWN_MARGIN = 1.0
"""Seconds after the end of its own session until an identity opens the next."""
MARGIN = 30.0
"""Seconds after its end until somebody else gets the slot."""
PROMISE = 60.0
"""Seconds for which the durable ledger says ahead that a session is used."""
_DOUBT = 30.0  # seconds before the idle end from which a call could come too late
_SEAM = 60.0
_AHEAD = 4.0
"""So many times earlier than the seam the successor token is fetched that serves if no younger one can be had."""
_UNDECIDED = 0.05  # seconds until it is looked again whether calls under way have opened a session
_REFUSED, _LONGEST_REFUSED = 60.0, 1200.0
_LOOK = 5.0  # seconds between two looks whether somebody has signed out
_IDLE, _ABSOLUTE = IDLE.total_seconds(), ABSOLUTE.total_seconds()


def session_key(kind: SessionKind, token: AccessToken) -> str:
    """What tells sessions of an identity apart: the one that a person's token names, else the token."""
    return (token.session if kind == "person" else "") or token.fingerprint


@dataclass(slots=True, eq=False)
class Lease:
    """One session, or those that one reference token opens; instants are seconds of the boot-time clock.

    `opened` is the latest at which the server can have opened it, None while no answer has shown that it did;
    `used` the latest, `sure` the earliest at which it can have been used last. `token` is None where no call can use
    it any more; `former`: it is of a former life of this process, and nobody has looked yet whether its token is
    still at hand. New calls of a service enter until `seam`, those of open API transactions until `over`; from
    `ahead` on they have a successor token fetched.
    """

    identity: str
    kind: SessionKind
    used: float
    fingerprint: str = ""
    token: AccessToken | None = None
    opened: float | None = None
    sure: float = 0.0
    ahead: float = inf
    seam: float = inf
    over: float = inf
    promised: float = 0.0
    former: bool = False
    doubtful: bool = False
    """A call got no answer, or one that does not tell: it may have opened the session."""
    in_flight: int = 0
    transactions: set[str] = field(default_factory=set)
    """The API transactions that may be open in it."""

    def take(self, token: AccessToken, now: float, wall: datetime) -> None:
        """Carry on with this token; a service's ends with its session, which was opened right after."""
        self.token, self.former = token, False
        self.fingerprint = self.fingerprint or session_key(self.kind, token)
        if self.kind == "service":
            obtained = token.obtained_boot
            if obtained is None:
                obtained = now + (token.obtained_at - wall).total_seconds()
            life = (token.expires_at - token.obtained_at).total_seconds()
            self.over = obtained + min(life, _ABSOLUTE)
            pause = min(_SEAM, life / 10)
            self.seam, self.ahead = self.over - pause, self.over - _AHEAD * pause

    def takes(self, now: float, lasting: float = 0.0, *, within: bool = False) -> bool:
        """Whether a call may use it that needs it for `lasting` seconds, or is `within` an API transaction."""
        if self.token is None:
            return False
        if self.kind != "service":
            return now < self.ends(now)
        if now >= self.sure + _IDLE - _DOUBT:
            return False
        return now < self.over - 1 if within else now + lasting < self.seam

    def ends(self, now: float) -> float:
        """When the server has ended it at the latest, if it is not used any more."""
        used = now if self.in_flight else self.used
        if self.kind != "service":
            return used + _IDLE
        return min(used + _IDLE, (used if self.opened is None else self.opened) + _ABSOLUTE)

    def proves(self, token: AccessToken) -> bool:
        """Whether the server has taken this token in it, and calls may still use it."""
        return self.opened is not None and self.token is not None and self.token.version == token.version

    @property
    def is_present(self) -> bool:
        """Whether calls can use it, as far as is known."""
        return self.token is not None or self.former

    @property
    def is_undecided(self) -> bool:
        """Whether calls under way will soon show if it was opened at all."""
        return self.opened is None and self.token is None and not self.doubtful and self.in_flight > 0


@dataclass(slots=True)
class _Turn:
    """How long an identity's new runs may start although others wait; one session long."""

    until: float
    opened: bool


@dataclass(slots=True)
class SlotBook:
    """Who holds, reserves and awaits the licence slots of one instance. To be used in one event loop.

    An identity *reserves* a slot while one of its runs runs. What holds a slot is a session until its end, or a
    reservation without one. While somebody waits, the holder's new runs start in its present session only and not
    after its seam, so that nobody starves; runs under way go on. `ended` knows, by identity and fingerprint, the
    sessions of people that the server has ended because they signed out.
    """

    instance: str
    slots: int
    clock: Clock
    emit: Emit
    ended: Callable[[str, str], bool] = lambda identity, fingerprint: False
    leases: list[Lease] = field(default_factory=list)
    _reserved: Counter[str] = field(default_factory=Counter)
    _waiting: dict[str, None] = field(default_factory=dict)  # in the order in which they came
    _turns: dict[str, _Turn] = field(default_factory=dict)
    _refusals: int = 0
    _refused_until: float = 0.0

    def load(self, sessions: Iterable[Session]) -> None:
        """Take sessions over from a former life of this process."""
        now, wall = self.clock.boot(), self.clock.now()
        for session in sessions:
            opened, used = (
                now + (instant - wall).total_seconds() for instant in (session.opened_at, session.used_at)
            )
            latest = now + PROMISE  # what is later was written before the wall clock was set back
            opened, used = min(opened, latest), min(used, latest)
            lease = Lease(session.identity, session.kind, used, session.fingerprint, opened=opened)
            lease.sure, lease.promised, lease.former = used - PROMISE, used, True
            if lease.ends(now) + MARGIN > now and not self._is_ended(lease):
                self.leases.append(lease)

    # -- runs ------------------------------------------------------------------------------------------------------

    def may_start(self, identity: str) -> bool:
        """Whether a run of this identity may start, and so reserve a slot."""
        now, present = self._look(), self._present(identity)
        ahead = self._ahead(identity)
        if present is None and not self._reserved[identity]:
            return now >= self._refused_until and len(self._taken(identity, now)) + ahead < self.slots
        if present is None and self.opens_in(identity) > 0:
            return False  # its runs under way wait as well
        turn = self._turns.get(identity)
        return not ahead or (now < turn.until if turn else present is not None and now < present.seam)

    def reserve(self, identity: str) -> None:
        """A run starts; a place in the queue is given up for it."""
        now, present = self.clock.boot(), self._present(identity)
        turn = self._turns.get(identity)
        is_new = present is None and not self._reserved[identity]
        if turn is None or is_new or now >= turn.until:
            seam = present.seam if present is not None and now < present.seam else inf
            self._turns[identity] = _Turn(min(seam, now + _ABSOLUTE), opened=present is not None)
        self._reserved[identity] += 1
        self._waiting.pop(identity, None)

    def release(self, identity: str) -> None:
        """A run has ended, or waits."""
        self._reserved[identity] -= 1
        if not self._reserved[identity]:
            del self._reserved[identity]

    def wait(self, identity: str) -> None:
        """Stand in the queue for a slot."""
        self._waiting.setdefault(identity)

    def keep_waiting(self, identities: Iterable[str]) -> None:
        """Only these have runs that could start: the others give up their places."""
        if self._waiting:
            kept = set(identities)
            self._waiting = {identity: None for identity in self._waiting if identity in kept}

    # -- sessions --------------------------------------------------------------------------------------------------

    def opens_in(self, identity: str) -> float:
        """Seconds until this identity may open one more session, 0: now; `inf` where nobody knows."""
        now = self._look()
        taken = self._taken(identity, now)
        if not self._reserved[identity]:
            taken += [inf] * self._ahead(identity)
        too_many = len(taken) + 1 - self.slots
        free = sorted(taken)[too_many - 1] if too_many > 0 else now
        return max(free - now, self._refused_until - now, 0.0)

    def add(self, lease: Lease) -> None:
        """A session is about to be opened; those of the same identity that are over give way."""
        now = self._look()
        for other in [other for other in self.leases if other.identity == lease.identity]:
            if other.ends(now) + OWN_MARGIN <= now and not other.in_flight:
                self.remove(other, "over")
        self.leases.append(lease)

    def entered(self, lease: Lease) -> None:
        """Its token, and so its seam, are known: the turn of its identity lasts until then."""
        turn = self._turns.get(lease.identity)
        if turn is not None and (not turn.opened or not self._ahead(lease.identity)):
            turn.until, turn.opened = min(lease.seam, self.clock.boot() + _ABSOLUTE), True

    def remove(self, lease: Lease, reason: str) -> None:
        """It is over, or was never opened; nothing where it is not in the book."""
        if lease not in self.leases:
            return
        self.leases.remove(lease)
        if lease.opened is not None:
            self._tell("session.ended", lease, reason=reason)

    def opened(self, lease: Lease) -> None:
        """An answer has shown that it is open."""
        lease.opened = self.clock.boot()
        self._refusals, self._refused_until = 0, 0.0
        ends_at = self._instant(lease.ends(lease.opened))
        self._tell("session.opened", lease, ends_at=ends_at)

    def refuse(self) -> float:
        """The server has no slot for us, whatever we believe: the seconds until somebody tries again, doubling."""
        now = self.clock.boot()
        if now >= self._refused_until:
            delay = min(_REFUSED * 2.0 ** min(self._refusals, 10), _LONGEST_REFUSED)
            self._refusals, self._refused_until = self._refusals + 1, now + delay
        return self._refused_until - now

    @property
    def is_refused(self) -> bool:
        """Whether the server had no slot for us just now."""
        return self.clock.boot() < self._refused_until

    # -- what is told ----------------------------------------------------------------------------------------------

    def next_change(self) -> float | None:
        """Seconds until a slot may be freed by time alone; None where somebody has to do something first."""
        now = self._look()
        moments = [lease.ends(now) + margin for lease in self.leases for margin in (OWN_MARGIN, MARGIN)]
        moments += [now + _LOOK for lease in self.leases if lease.kind == "person"]
        return min((at - now for at in (*moments, self._refused_until) if at > now), default=None)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody stands in the queue."""
        return bool(self._waiting)

    def use(self) -> SlotUse:
        """How the slots stand."""
        self._look()
        sessions = tuple(self.session(lease) for lease in self.leases)
        return SlotUse(self.instance, self.slots, sessions, tuple(self._reserved), tuple(self._waiting))

    def session(self, lease: Lease) -> Session:
        """Its value for people and the ledger."""
        opened = lease.used if lease.opened is None else lease.opened
        opened_at, used_at = self._instant(opened), self._instant(lease.used)
        return Session(self.instance, lease.identity, lease.fingerprint, opened_at, used_at, lease.kind)

    def explanation(self, asking: str = "") -> str:
        """Who holds the slots and until when, for people; told to the identity that is `asking`."""
        if self.is_refused:
            until = self._instant(self._refused_until)
            return f"{self.instance} has no licence slot free; asked again at {until:%H:%M:%S} UTC"
        use = self.use()
        held = {session.identity for session in use.sessions}
        holders = [
            ("an earlier session of " if lease.identity == asking and lease.token is None else "")
            + f"{lease.identity} until {self.session(lease).ends_at:%H:%M:%S} UTC"
            for lease in self.leases
        ]
        holders += [f"{identity}, whose runs run" for identity in use.reserved if identity not in held]
        slots = "the licence slot" if self.slots == 1 else f"the {self.slots} licence slots"
        return f"{slots} of {self.instance} held by {', '.join(holders) or 'nobody'}"

    def _tell(self, event: str, lease: Lease, **fields: object) -> None:
        names = {"instance": self.instance, "identity": lease.identity, "fingerprint": lease.fingerprint}
        self.emit(event, level="info", **names, **fields)

    # -- reckoning -------------------------------------------------------------------------------------------------

    def _look(self) -> float:
        """Now, with what is over for everybody taken out."""
        now = self.clock.boot()
        for lease in [lease for lease in self.leases if not lease.in_flight]:
            if lease.ends(now) + MARGIN <= now:
                self.remove(lease, "over")
            elif self._is_ended(lease):
                lease.token = None
                self.remove(lease, "signed out")
        return now

    def _is_ended(self, lease: Lease) -> bool:
        return lease.kind == "person" and self.ended(lease.identity, lease.fingerprint)

    def _present(self, identity: str) -> Lease | None:
        now = self.clock.boot()
        own = (lease for lease in self.leases if lease.identity == identity and lease.is_present)
        return next((lease for lease in own if now < lease.ends(now) + OWN_MARGIN), None)

    def _ahead(self, identity: str) -> int:
        """How many others stand in the queue, before it if it stands there too."""
        queue = list(self._waiting)
        return queue.index(identity) if identity in self._waiting else len(queue)

    def _taken(self, identity: str, now: float) -> list[float]:
        """Of each slot that this identity cannot have now, when it can."""
        taken, held = [], {identity}
        for lease in self.leases:
            free = lease.ends(now) + (OWN_MARGIN if lease.identity == identity else MARGIN)
            if lease.identity == identity and lease.is_undecided:
                free = now + _UNDECIDED
            if free > now:
                taken.append(free)
                held.add(lease.identity)
        return taken + [inf for other in self._reserved if other not in held]

    def _instant(self, boot: float) -> datetime:
        return self.clock.now() + timedelta(seconds=boot - self.clock.boot())
