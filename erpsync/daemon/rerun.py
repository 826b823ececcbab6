"""What is done again: whether a run may be, and the slices of a backfill; pure decisions."""

from datetime import UTC, datetime, timedelta

from erpsync.core.errors import RunRefusedError
from erpsync.core.run import Outcome, Run, State

MOST_SLICES = 1000
"""Of one backfill, which are claimed in one transaction."""
Window = tuple[datetime, datetime]


def slices(window: Window, size: timedelta) -> list[Window]:
    """Parts of a window as long as `size`, the last one perhaps shorter; of too many one more than the most."""
    begins, end = window
    starts = (begins + number * size for number in range(MOST_SLICES + 1))
    return [(start, min(start + size, end)) for start in starts if start < end]


def backfill_name(window: Window, size: timedelta) -> str:
    """The same for the same wish, so that asking again goes on with what is there."""
    begins, end = (f"{instant.astimezone(UTC):%Y%m%dT%H%M%S}" for instant in window)
    return f"{begins}-{end}-{round(size.total_seconds())}s"


def require_repeat(run: Run, *, force: bool) -> None:
    """Raises RunRefusedError where a run has not ended, or has succeeded and nobody insists."""
    if run.state is not State.FINISHED:
        hint = f"erpsync logs {run.id} --follow, or erpsync cancel {run.id}"
        raise RunRefusedError(f"run {run.id} of {run.job} has not ended: it is {run.state}", hint=hint)
    if run.outcome is Outcome.SUCCEEDED and not force:
        raise RunRefusedError(f"run {run.id} of {run.job} has succeeded", hint="--force runs it again")
