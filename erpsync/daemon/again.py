"""Whether a run may be done again: the pure decision."""

from erpsync.control.selection import RunRefusedError
from erpsync.core.run import Outcome, Run, State


def require_repeat(run: Run, *, force: bool) -> None:
    """Raises RunRefusedError where a run has not ended, or has succeeded and nobody insists."""
    if run.state is not State.FINISHED:
        hint = f"erpsync logs {run.id} --follow, or erpsync cancel {run.id}"
        raise RunRefusedError(f"run {run.id} of {run.job} has not ended: it is {run.state}", hint=hint)
    if run.outcome is Outcome.SUCCEEDED and not force:
        raise RunRefusedError(f"run {run.id} of {run.job} has succeeded", hint="--force runs it again")
