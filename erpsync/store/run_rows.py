"""Runs and attempts as rows of their tables, and rows as runs and attempts."""

import json
from collections.abc import Mapping
from typing import Any

from erpsync.core.run import Attempt, AttemptOutcome, Counts, Outcome, Run, RunFailure, RunTrigger, State

COUNTS = Counts.__slots__


def run_values(run: Run) -> dict[str, Any]:
    """A run as the columns of its row."""
    return {
        "id": run.id,
        "job": run.job,
        "claim": run.claim,
        "plugin": run.plugin,
        "trigger": run.trigger.value,
        "created_at": run.created_at,
        "instance": run.instance,
        "identity": run.identity,
        "fire_at": run.fire_at,
        "fire_until": run.fire_until,
        "fire_count": run.fire_count,
        "state": run.state.value,
        "waiting_for": run.waiting_for,
        "outcome": run.outcome.value if run.outcome else None,
        "reason": run.reason,
        "attempts": run.attempts,
        "uncharged": run.uncharged,
        "losses": run.losses,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "next_attempt_at": run.next_attempt_at,
        "cursor_before": run.cursor_before,
        "cursor_after": run.cursor_after,
        "requested_by": run.requested_by,
        "retry_of": run.retry_of,
        "params": json.dumps(dict(run.params)) if run.params else None,
        "priority": run.priority,
        "owner": run.owner,
        "parents": " ".join(run.parents) or None,
        **error_values(run.error, "error_"),
        **run.counts.document(),
    }


def to_run(values: Mapping[Any, Any]) -> Run:
    """A row as the run that it is."""
    return Run(
        id=values["id"],
        job=values["job"],
        claim=values["claim"],
        plugin=values["plugin"],
        trigger=RunTrigger(values["trigger"]),
        created_at=values["created_at"],
        instance=values["instance"],
        identity=values["identity"],
        fire_at=values["fire_at"],
        fire_until=values["fire_until"],
        fire_count=values["fire_count"],
        state=State(values["state"]),
        waiting_for=values["waiting_for"],
        outcome=Outcome(values["outcome"]) if values["outcome"] else None,
        reason=values["reason"],
        attempts=values["attempts"],
        uncharged=values["uncharged"],
        losses=values["losses"],
        started_at=values["started_at"],
        finished_at=values["finished_at"],
        next_attempt_at=values["next_attempt_at"],
        counts=Counts(**{name: values[name] for name in COUNTS}),
        cursor_before=values["cursor_before"],
        cursor_after=values["cursor_after"],
        error=_failure(values),
        requested_by=values["requested_by"],
        retry_of=values["retry_of"],
        params=json.loads(values["params"]) if values["params"] else {},
        priority=values["priority"],
        owner=values["owner"],
        parents=tuple((values["parents"] or "").split()),
    )


def to_attempt(values: Mapping[Any, Any]) -> Attempt:
    """A row as the attempt that it is."""
    return Attempt(
        run_id=values["run_id"],
        number=values["number"],
        owner=values["owner"],
        started_at=values["started_at"],
        finished_at=values["finished_at"],
        outcome=AttemptOutcome(values["outcome"]) if values["outcome"] else None,
        error=_failure(values),
    )


def error_values(error: RunFailure | None, prefix: str) -> dict[str, str | None]:
    """An error as three columns, or parameters, whose names begin so."""
    return {
        f"{prefix}type": error.type if error else None,
        f"{prefix}message": error.message if error else None,
        f"{prefix}hint": error.hint if error else None,
    }


def _failure(values: Any) -> RunFailure | None:
    if values["error_type"] is None:
        return None
    return RunFailure(values["error_type"], values["error_message"] or "", values["error_hint"] or "")
