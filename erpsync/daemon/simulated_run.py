"""A run in virtual time: on its way, and as it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from erpsync.core.run import Outcome, Run, RunTrigger, utc_text
from erpsync.scheduling.timetable import Timetable


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """One run, or a range of skips; `waits` says what it waited for, and how long for each.

    `held_until` is when a window or a blackout let go of it, or of what it came after or waited behind.
    """

    job: str
    instance: str | None
    trigger: RunTrigger
    fire_at: datetime
    outcome: Outcome
    reason: str | None = None
    fire_until: datetime | None = None
    fire_count: int = 1
    started_at: datetime | None = None
    finished_at: datetime | None = None
    waits: Mapping[str, timedelta] = field(default_factory=dict)
    held_until: datetime | None = None

    def document(self) -> dict[str, object]:
        """The public JSON form; the keys that a run has too mean the same."""
        return {
            "job": self.job,
            "instance": self.instance,
            "trigger": self.trigger.value,
            "fire_at": utc_text(self.fire_at),
            "fire_until": utc_text(self.fire_until),
            "fire_count": self.fire_count,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "started_at": utc_text(self.started_at),
            "finished_at": utc_text(self.finished_at),
            "waits": {reason: waited.total_seconds() for reason, waited in self.waits.items()},
        }


@dataclass(slots=True, eq=False)
class Course:
    """A run on its way."""

    run: Run
    table: Timetable
    left: timedelta  # of its work
    waits: dict[str, timedelta] = field(default_factory=dict)
    waiting: tuple[str, datetime] | None = None
    started_at: datetime | None = None
    runs: bool = False
    outcome: Outcome | None = None
    held_until: datetime | None = None

    def wait(self, reason: str | None, now: datetime) -> None:
        """It waits for `reason` from now on, None: for nothing any more."""
        if self.waiting is not None:
            before, since = self.waiting
            self.waits[before] = self.waits.get(before, timedelta(0)) + (now - since)
            if before in ("blackout", "window"):
                self.held_until = now
        self.waiting = (reason, now) if reason else None

    def ended(self, outcome: Outcome, reason: str | None, now: datetime) -> SimulatedRun:
        """It ends, or never starts."""
        self.wait(None, now)
        self.outcome = outcome
        run = self.run
        assert run.fire_at is not None
        return SimulatedRun(
            run.job,
            run.instance,
            run.trigger,
            run.fire_at,
            outcome,
            reason,
            started_at=self.started_at,
            finished_at=now if self.started_at else None,
            waits={reason: waited for reason, waited in self.waits.items() if waited},
            held_until=self.held_until,
        )
