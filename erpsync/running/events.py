"""What the room tells about runs: each event with the names by which it is searched."""

from collections.abc import Mapping
from typing import Any

from erpsync.core.errors import ErpsyncError, StoreError
from erpsync.core.event import Emit, Level
from erpsync.core.run import Outcome, Run

_LEVELS: Mapping[Outcome | None, Level] = {
    Outcome.SUCCEEDED: "info",
    Outcome.CANCELLED: "info",
    Outcome.PARTIAL: "warning",
    Outcome.SKIPPED: "warning",
    Outcome.MISSED: "warning",
}


class RunEvents:
    """Tells; decides nothing but the level."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def claimed(self, run: Run) -> None:
        """A run was claimed because those it comes after have ended."""
        self._emit(
            "run.claimed",
            level="debug",
            run_id=run.id,
            job=run.job,
            trigger=run.trigger.value,
            fire_at=run.fire_at,
        )

    def started(self, run: Run) -> None:
        """An attempt is durably begun."""
        self._emit("run.started", **_names(run), attempt=run.attempts, trigger=run.trigger.value)

    def failed(self, run: Run) -> None:
        """An attempt failed, and the run goes on; `finished` tells it where it does not."""
        self._emit(
            "attempt.failed",
            level="warning",
            **_names(run),
            attempt=run.attempts,
            **_error(run),
            next_attempt_at=run.next_attempt_at,
        )

    def waiting(self, run: Run, explanation: str = "") -> None:
        """A run waits; for a slot it does so often and shortly, and the metrics tell it too."""
        level: Level = "info" if run.next_attempt_at or explanation else "debug"
        self._emit(
            "run.waiting",
            level=level,
            **_names(run),
            waiting_for=run.waiting_for,
            next_attempt_at=run.next_attempt_at,
            explanation=explanation or None,
        )

    def finished(self, run: Run) -> None:
        """The canonical line of a run."""
        self._emit(
            "run.finished",
            level=_LEVELS.get(run.outcome, "error"),
            **_names(run),
            trigger=run.trigger.value,
            outcome=run.outcome.value if run.outcome else None,
            reason=run.reason,
            attempts=run.attempts,
            duration_seconds=run.duration_seconds,
            lag_seconds=run.lag_seconds,
            counts=run.counts.document(),
            cursor_before=run.cursor_before,
            cursor_after=run.cursor_after,
            special=run.is_special,
            **_error(run),
        )

    def recovered(self, before: Run, after: Run) -> None:
        """A run that a dead owner left running is taken up or given up."""
        self._emit(
            "run.recovered",
            level="warning",
            **_names(after),
            attempt=after.attempts,
            losses=after.losses,
            owner=before.owner,
            state=after.state.value,
            outcome=after.outcome.value if after.outcome else None,
        )

    def killed(self, run: Run, signal: str, cause: str | None) -> None:
        """A child was sent a signal."""
        self._emit("child.killed", level="warning", **_names(run), signal=signal, reason=cause)

    def abandoned(self, run: Run, *, in_child: bool) -> None:
        """A plugin ignores its cancellation in the daemon's own process, or its child not even dies of SIGKILL."""
        remedy = 'give the job isolation = "process", so that it can be killed'
        self._emit(
            "attempt.abandoned",
            level="error",
            **_names(run),
            plugin=run.plugin,
            hint="look at the process in the machine: it waits for something" if in_child else remedy,
        )

    def unwritten(self, run: Run, error: StoreError) -> None:
        """The ledger cannot be written just now; it is tried again."""
        self._emit("store.unavailable", level="error", **_names(run), error_message=error.message)

    def lost(self, run: Run, error: Exception) -> None:
        """What became of a run could not be recorded; the next start of the daemon finds it unfinished."""
        known = error if isinstance(error, ErpsyncError) else None
        self._emit(
            "run.lost",
            level="error",
            **_names(run),
            error_type=type(error).__name__,
            error_message=known.message if known else "",
            hint=(known.hint if known else "") or "restart the daemon: it finds the run and goes on",
        )


def _names(run: Run) -> dict[str, Any]:
    return {"run_id": run.id, "job": run.job, "instance": run.instance, "identity": run.identity}


def _error(run: Run) -> dict[str, Any]:
    error = run.error
    return {
        "error_type": error.type if error else None,
        "error_message": error.message if error else None,
        "hint": (error.hint or None) if error else None,
    }
