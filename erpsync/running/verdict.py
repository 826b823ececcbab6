"""What becomes of an attempt: the pure decision between result, another try, waiting and the end."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from erpsync.core.calendar import open_time
from erpsync.core.job import Job, RetryPolicy
from erpsync.core.run import AttemptOutcome, Counts, Outcome, Run, RunFailure, State
from erpsync.running.channel import Done, counts_of
from erpsync.running.fault import Fault
from erpsync.store.dead_letters import FAILED_ROWS
from erpsync.store.ledger import End

MAX_LOSSES = 3
DAEMON_DIED = "the daemon died while the run was running"
_MAY_HAVE_DONE_IT = (
    "if an `async def` plugin did that, as by a crash of a C extension, "
    'isolation = "process" for its job contains it'
)
LICENCE = "licence"
"""What a run waits for to which no slot was given."""
UNCONFIGURED = "the job is no longer configured"
"""Why a run is abandoned that nobody can say how to run."""
_LICENCE_WAIT = timedelta(minutes=1)
_LONGEST_LICENCE_WAIT = timedelta(minutes=20)
_LONGEST_EXPECTED = 3700.0  # seconds: a session's whole life

Cause = Literal["timed_out", "cancelled", "replaced", "stopping", "window"]
GENTLE: tuple[Cause, ...] = ("stopping", "window")
"""Interrupted for a shut-down, or because its window is over: charged to nobody."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended.

    `cause` is why it was asked to end, None where it was not; `forced` that it was told to end at once rather than
    at its next checkpoint. `cause_text` is for people: "cancelled by alice", and how it resisted;
    `hint` is against that.
    """

    answer: Done | Fault
    counts: Counts = Counts()
    cause: Cause | None = None
    cause_text: str = ""
    forced: bool = False
    hint: str = ""


def judge(
    job: Job,
    run: Run,
    ending: Ending,
    *,
    repeatable: bool,
    now: datetime,
    jitter: Callable[[], float],
    licence_waits: int = 0,
) -> End:
    """Where the run goes. `run` is as it was when its attempt began, `jitter` gives numbers in [0, 1).

    `licence_waits` is how often the run has waited for a licence already.

    Told to end at once, an attempt ends for that cause whatever it answers: a result may be half the work. Asked to
    end at its next checkpoint, it ends for that cause only if it did; a result or an error before stands.
    """
    end = End(
        run.id,
        run.attempts,
        run.owner,
        now,
        AttemptOutcome.FAILED,
        State.FINISHED,
        counts=ending.counts,
        cursor_before=run.cursor_before,
    )
    answer = ending.answer
    if isinstance(answer, Fault) and answer.kind == "lost" and not ending.forced:
        return lost(
            job, replace(run, counts=ending.counts), repeatable=repeatable, now=now, how=answer.message
        )
    stopped = isinstance(answer, Fault) and answer.kind == "stopped"
    if ending.cause is not None and (ending.forced or stopped):
        return _asked_to_end(job, run, ending, end, repeatable=repeatable, jitter=jitter)
    if isinstance(answer, Done):
        return _with_result(job, run, end, answer)
    if answer.kind == "skip":
        return replace(
            end, outcome=AttemptOutcome.SUCCEEDED, run_outcome=Outcome.SUCCEEDED, reason=answer.message
        )
    end = replace(end, error=RunFailure(answer.type, answer.message, answer.hint))
    if answer.kind == "licence":
        return _wait_for_licence(end, answer, licence_waits)
    return _retry_or(job, run, end, answer, Outcome.FAILED, jitter)


def lost(job: Job | None, run: Run, *, repeatable: bool, now: datetime, how: str = DAEMON_DIED) -> End:
    """A run whose owner died in the middle of it; `job` None where it is no longer configured."""
    error = RunFailure("AttemptLost", how, _MAY_HAVE_DONE_IT if how == DAEMON_DIED else "")
    end = End(
        run.id,
        run.attempts,
        run.owner,
        now,
        AttemptOutcome.LOST,
        State.FINISHED,
        counts=run.counts,
        error=error,
        cursor_before=run.cursor_before,
    )
    if job is None:
        return replace(end, run_outcome=Outcome.ABANDONED, reason=UNCONFIGURED)
    if run.losses >= MAX_LOSSES:
        return replace(end, run_outcome=Outcome.FAILED, reason=f"lost {run.losses + 1} times")
    if not repeatable:
        hint = "look at what it has done, then `erpsync trigger` it, or declare the job `repeatable`"
        error = replace(error, hint=f"{hint}; {error.hint}".removesuffix("; "))
        return replace(end, run_outcome=Outcome.ABANDONED, reason="owner died", error=error)
    return replace(end, state=State.PENDING)


def _with_result(job: Job, run: Run, end: End, result: Done) -> End:
    counts = counts_of(result.counts)
    failed = counts.failed
    if failed > job.max_failed:
        rows = "1 row" if failed == 1 else f"{failed} rows"
        hint = "the run's log and `erpsync dead` say which and why; `max_failed` of the job allows some"
        error = RunFailure("JobFailedError", f"{rows} failed; the job allows {job.max_failed}", hint)
        return replace(end, run_outcome=Outcome.FAILED, reason=FAILED_ROWS, error=error, counts=counts)
    moves = result.cursor is not None and not failed and not run.is_special
    return replace(
        end,
        outcome=AttemptOutcome.SUCCEEDED,
        run_outcome=Outcome.PARTIAL if failed else Outcome.SUCCEEDED,
        reason=result.note or None,
        counts=counts,
        cursor_after=result.cursor if moves else None,
        store_cursor=moves,
    )


def _asked_to_end(
    job: Job, run: Run, ending: Ending, end: End, *, repeatable: bool, jitter: Callable[[], float]
) -> End:
    match ending.cause:
        case "cancelled" | "replaced":
            error = RunFailure("RunCancelledError", ending.cause_text, ending.hint)
            return replace(
                end,
                outcome=AttemptOutcome.CANCELLED,
                run_outcome=Outcome.CANCELLED,
                reason="replaced" if ending.cause == "replaced" else "requested",
                error=error,
            )
        case "timed_out":
            fault = Fault(
                "error",
                "AttemptTimedOutError",
                ending.cause_text,
                ending.hint or "give the job a longer `timeout`, or the plugin less to do",
                retryable=job.retry.timed_out,
            )
            timed_out = replace(
                end,
                outcome=AttemptOutcome.TIMED_OUT,
                error=RunFailure(fault.type, fault.message, fault.hint),
            )
            return _retry_or(job, run, timed_out, fault, Outcome.TIMED_OUT, jitter)
        case _:
            interrupted = replace(end, outcome=AttemptOutcome.INTERRUPTED)
            if repeatable:
                return replace(interrupted, state=State.PENDING)
            error = RunFailure("RunCancelledError", ending.cause_text, ending.hint)
            reason = "window" if ending.cause == "window" else "shut-down"
            return replace(interrupted, run_outcome=Outcome.ABANDONED, reason=reason, error=error)


def _wait_for_licence(end: End, fault: Fault, waits: int) -> End:
    """Until a slot is expected, else minutes, doubling: time alone frees slots, however often one asks."""
    delay = min(_LONGEST_LICENCE_WAIT, _LICENCE_WAIT * 2 ** min(waits, 10))
    if fault.retry_after is not None:
        delay = timedelta(seconds=min(max(fault.retry_after, 0), _LONGEST_EXPECTED))
    return replace(
        end,
        state=State.WAITING,
        waiting_for=LICENCE,
        next_attempt_at=end.at + delay,
        uncharged=True,
    )


def _retry_or(
    job: Job, run: Run, end: End, fault: Fault, outcome: Outcome, jitter: Callable[[], float]
) -> End:
    """Another attempt where the error and the policy allow one, else the end of the run.

    The budget is spent from the first attempt's start on, by time in which the job may start: what lies outside its
    window or in its blackouts costs nothing.
    """
    policy = job.retry
    charged = run.attempts - run.uncharged
    delay = _delay(policy, charged, fault, jitter)
    next_at = end.at + delay
    if not fault.retryable:
        return replace(end, run_outcome=outcome)
    if charged >= policy.attempts:
        return replace(end, run_outcome=outcome, reason="attempts used up" if policy.attempts > 1 else None)
    if open_time(job, run.started_at or end.at, next_at) > policy.budget:
        return replace(end, run_outcome=outcome, reason="retry budget used up")
    return replace(end, state=State.WAITING, waiting_for="back-off", next_attempt_at=next_at)


def _delay(policy: RetryPolicy, charged: int, fault: Fault, jitter: Callable[[], float]) -> timedelta:
    """Full jitter: anything up to the doubled back-off, so that many failing together do not return together."""
    ceiling = min(policy.max_backoff, policy.backoff * 2 ** min(max(charged, 1) - 1, 30))
    drawn: timedelta = ceiling * jitter()
    if fault.retry_after is None:
        return drawn
    asked = timedelta(seconds=min(max(fault.retry_after, 0), 86_400))
    return asked if fault.kind == "retry" else max(asked, drawn)
