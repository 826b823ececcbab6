"""Sessions and licence slots: one slot a session, opened by the first call, ended by idleness or age alone.

A service's session ends after an hour, a person's when they sign out; idleness ends both.
Source: auth/sessions (overview, session-revocation, license-slot). Times of sessions run on a clock that can be
scaled and set forward; tokens and update times stay on the machine's own.
"""

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Final

IDLE_SECONDS: Final = 20 * 60
ABSOLUTE_SECONDS: Final = 60 * 60


class Clock:
    """Two readings: `wall` for what clients see, `elapsed` for how long something lasts inside the instance."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.skew = 0.0
        """Seconds by which the instance's wall clock is ahead of the machine's."""
        self._ahead = 0.0
        self._base = 0.0
        self._since = time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970 as the instance believes."""
        return time.time() + self.skew

    def lifetime(self) -> float:
        """Seconds by which tokens age: not scaled, but moved by `advance`."""
        return time.monotonic() + self._ahead

    def elapsed(self) -> float:
        """Seconds by which sessions and API transactions age."""
        return self._base + (time.monotonic() - self._since) * self.scale

    def advance(self, seconds: float) -> None:
        """Time passes for sessions, transactions and tokens already issued."""
        self._base += seconds
        self._ahead += seconds

    def rescale(self, scale: float) -> None:
        """From now on sessions age `scale` times as fast."""
        self._base, self._since, self.scale = self.elapsed(), time.monotonic(), scale


class LicensesExhaustedError(Exception):
    """Every licence slot is taken."""


@dataclass(slots=True)
class Session:
    """An open session; `opened` and `used` are readings of `Clock.elapsed`."""

    key: str
    client_id: str
    user: str
    person: bool
    opened: float
    used: float

    def is_over(self, now: float) -> bool:
        """Idle for too long or, a service's, too old."""
        return now - self.used >= IDLE_SECONDS or (not self.person and now - self.opened >= ABSOLUTE_SECONDS)


class Sessions:
    """The open sessions of the instance and what was counted about them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[str, Session] = {}
        self._occupied = 0
        self._newest: dict[str, tuple[str, float]] = {}
        self._seen: set[str] = set()
        self._parallel: set[tuple[str, str]] = set()
        self._signed_out: set[str] = set()
        self.opened_total = 0
        self.most_open = 0
        self.refused_total = 0
        self.violations: Counter[str] = Counter()

    def use(self, key: str, client_id: str, user: str, slots: int, *, person: bool = False) -> None:
        """A call within a session, which is opened if need be. Raises LicensesExhaustedError."""
        now = self._clock.elapsed()
        self._end_over(now)
        session = self._open.get(key)
        if session is not None:
            session.used = now
            return
        if len(self._open) + self._occupied >= slots:
            self.refused_total += 1
            raise LicensesExhaustedError
        if key in self._signed_out:
            self._signed_out.remove(key)
            self.violations["session_cycled"] += 1
        self._open[key] = Session(key, client_id, user, person, now, now)
        self.opened_total += 1
        self.most_open = max(self.most_open, len(self._open))

    def watch(self, client_id: str, token_id: str, grace: float) -> None:
        """Notices traffic under an older token when a newer one of the same application is in use already."""
        newest, since = self._newest.get(client_id, ("", 0.0))
        if token_id not in self._seen:
            self._seen.add(token_id)
            self._newest[client_id] = token_id, time.monotonic()
        elif token_id != newest and time.monotonic() - since > grace:
            self._parallel.add((token_id, newest))
            self.violations["parallel_tokens"] = len(self._parallel)

    def occupy(self, slots: int) -> None:
        """Lets other people hold `slots` of the slots from now on."""
        self._occupied = slots

    def sign_out(self, key: str) -> None:
        """Ends a person's session; a token that opens it again is cycling sessions, which the terms forbid."""
        self._open.pop(key, None)
        self._signed_out.add(key)

    def end_all(self) -> None:
        """What a restart of the server does; tokens stay."""
        self._open.clear()

    def listing(self) -> list[dict[str, object]]:
        """The open sessions, with their age and idle time in seconds in place of clock readings."""
        now = self._clock.elapsed()
        self._end_over(now)
        rows = [asdict(session) for session in self._open.values()]
        for row in rows:
            row["age_seconds"] = now - row.pop("opened")
            row["idle_seconds"] = now - row.pop("used")
        return rows

    def _end_over(self, now: float) -> None:
        self._open = {key: session for key, session in self._open.items() if not session.is_over(now)}
