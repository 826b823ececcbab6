"""Runs, attempts and their states: what the ledger keeps and the commands show."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum


class State(StrEnum):
    """Where a run is; finished is the end and has an outcome."""

    PENDING = "pending"
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Outcome(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    MISSED = "missed"
    ABANDONED = "abandoned"


class AttemptOutcome(StrEnum):
    """How one attempt ended; interrupted (shut-down) and lost (owner died) are nobody's failure."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    LOST = "lost"


class RunTrigger(StrEnum):
    """What made the run."""

    SCHEDULE = "schedule"
    CATCH_UP = "catch_up"
    AFTER = "after"
    MANUAL = "manual"
    RETRY = "retry"
    BACKFILL = "backfill"


MOVES: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.WAITING, State.RUNNING, State.FINISHED}),
    State.WAITING: frozenset({State.PENDING, State.RUNNING, State.FINISHED}),
    State.RUNNING: frozenset({State.PENDING, State.WAITING, State.FINISHED}),
    State.FINISHED: frozenset(),
}
"""The transition table: from each state, where a run may go."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by what happened to them."""

    read: int = 0
    written: int = 0
    unchanged: int = 0
    deleted: int = 0
    failed: int = 0
    skipped: int = 0

    def plus(self, **more: int) -> "Counts":
        """These counts and `more` of the named ones."""
        return Counts(**{name: getattr(self, name) + more.get(name, 0) for name in self.__slots__})

    def document(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class RunFailure:
    """Why a run or an attempt did not end well: the error's class name, its message, what to do; redacted."""

    type: str
    message: str
    hint: str = ""

    def document(self) -> dict[str, str]:
        return {"type": self.type, "message": self.message, "hint": self.hint}


@dataclass(frozen=True, slots=True)
class Run:
    """One run: the work for one claim, or the record that it was skipped or missed. Instants are aware UTC.

    `claim` is unique within the job: "at:<instant>", "after:<parent runs>" (a range: "<id>+<its last fire time>"),
    "backfill:<id>:<slice>", "manual:<id>". `fire_until` and `fire_count` make a range of misses one run (count −1:
    more than were counted). `params` holds what was asked for
    by hand ({"set": {...}, "dry_run": bool, "window": [from, to], "dead": [runs whose dead letters it is given]}), a
    retry has those of the run that it does again. `attempts` counts all that were started; `uncharged` of them were
    interrupted or lost, `losses` of them lost. `parents` are the runs that an `after` consumed. `reason` says why it
    ended so, or who has the licence slot that it waits for.
    """

    id: str
    job: str
    claim: str
    plugin: str
    trigger: RunTrigger
    created_at: datetime
    instance: str | None = None
    identity: str | None = None
    fire_at: datetime | None = None
    fire_until: datetime | None = None
    fire_count: int = 1
    state: State = State.PENDING
    waiting_for: str | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    attempts: int = 0
    uncharged: int = 0
    losses: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    next_attempt_at: datetime | None = None
    counts: Counts = Counts()
    cursor_before: str | None = None
    cursor_after: str | None = None
    error: RunFailure | None = None
    requested_by: str | None = None
    retry_of: str | None = None
    parents: tuple[str, ...] = ()
    params: Mapping[str, object] = field(default_factory=dict)
    priority: int = 0
    owner: str | None = None

    @property
    def window(self) -> tuple[datetime, datetime] | None:
        """The time that the run is about, its end excluded; None in a normal run."""
        window = self.params.get("window")
        if not isinstance(window, list):
            return None
        first, last = (datetime.fromisoformat(str(instant)) for instant in window)
        return first, last

    @property
    def is_special(self) -> bool:
        """Whether it does something else than its job's own work: with values or a window of its own (slices of a
        backfill have one), for dead letters, or dry. It moves no cursor, and its success does not make data fresh."""
        return bool(self.params)

    @property
    def duration_seconds(self) -> float | None:
        """From the first attempt's start to the end; None before."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()

    @property
    def lag_seconds(self) -> float | None:
        """From the fire time to the first attempt's start; None before, and for runs asked for by hand."""
        if self.started_at is None or self.fire_at is None:
            return None
        return (self.started_at - self.fire_at).total_seconds()

    def document(self) -> dict[str, object]:
        """The public JSON form (design section 4)."""
        return {
            "id": self.id,
            "job": self.job,
            "instance": self.instance,
            "plugin": self.plugin,
            "identity": self.identity,
            "trigger": self.trigger.value,
            "fire_at": utc_text(self.fire_at),
            "fire_until": utc_text(self.fire_until),
            "fire_count": self.fire_count,
            "state": self.state.value,
            "waiting_for": self.waiting_for,
            "outcome": self.outcome.value if self.outcome else None,
            "reason": self.reason,
            "attempts": self.attempts,
            "started_at": utc_text(self.started_at),
            "finished_at": utc_text(self.finished_at),
            "next_attempt_at": utc_text(self.next_attempt_at),
            "duration_seconds": self.duration_seconds,
            "lag_seconds": self.lag_seconds,
            "counts": self.counts.document(),
            "cursor": {"before": self.cursor_before, "after": self.cursor_after},
            "error": self.error.document() if self.error else None,
            "requested_by": self.requested_by,
            "retry_of": self.retry_of,
            "parents": list(self.parents),
            "window": {"from": utc_text(self.window[0]), "to": utc_text(self.window[1])}
            if self.window
            else None,
        }


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try within a run; `outcome` is None while it goes on."""

    run_id: str
    number: int
    owner: str
    started_at: datetime
    finished_at: datetime | None = None
    outcome: AttemptOutcome | None = None
    error: RunFailure | None = None

    def document(self) -> dict[str, object]:
        return {
            "number": self.number,
            "started_at": utc_text(self.started_at),
            "finished_at": utc_text(self.finished_at),
            "outcome": self.outcome.value if self.outcome else None,
            "error": self.error.document() if self.error else None,
        }


def utc_text(instant: datetime | None) -> str | None:
    """ISO 8601 in UTC with Z; microseconds only where there are any."""
    if instant is None:
        return None
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def new_run_id(now: datetime) -> str:
    """An identifier of 20 letters and digits that sorts by time: milliseconds, then 50 random bits."""
    return _run_id(now, secrets.randbits(50))


def run_id_floor(instant: datetime) -> str:
    """No run made at `instant` or later has a smaller identifier."""
    return _run_id(instant, 0)


def _run_id(instant: datetime, rest: int) -> str:
    number = (int(instant.timestamp() * 1000) << 50) | rest
    digits = []
    for _ in range(20):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
