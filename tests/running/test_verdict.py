"""What becomes of an attempt, decided without running anything."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from erpsync.core.errors import (
    ForbiddenError,
    LicenseExhaustedError,
    ServerFaultError,
    ThrottledError,
    TokenEndpointError,
    UnreachableError,
)
from erpsync.core.job import Calendar, Job, RetryPolicy, Window
from erpsync.core.run import AttemptOutcome, Counts, Outcome, Run, RunTrigger, State
from erpsync.plugins.contract import AuthFailed, ConfigProblem, Retry, Skip
from erpsync.running.channel import Done
from erpsync.running.fault import Fault, fault_of
from erpsync.running.verdict import Ending, judge, lost
from erpsync.store.ledger import End

NOW = datetime(2026, 1, 1, 2, 15, tzinfo=UTC)
RUN = Run("r1", "orders", "manual:r1", "mirror", RunTrigger.SCHEDULE, NOW, attempts=1, started_at=NOW)
JOB = Job("orders", "orders", "mirror")
STOPPED = Fault("stopped", "RunCancelledError", "stopped at a checkpoint")


def verdict(
    answer: Any, *, job: Job = JOB, run: Run = RUN, repeatable: bool = True, waits: int = 0, **ending: Any
) -> End:
    given, how = fault_of(answer) if isinstance(answer, BaseException) else answer, lambda: 0.5
    ended = Ending(given, **ending)
    return judge(job, run, ended, repeatable=repeatable, now=NOW, jitter=how, licence_waits=waits)


def done(failed: int = 0, note: str = "", cursor: str | None = None) -> Done:
    return Done(Counts(read=10, failed=failed).document(), note, cursor)


def test_result_succeeds_and_moves_the_cursor() -> None:
    """A result succeeds; its counts, note and staged cursor are kept."""
    end = verdict(done(note="10 rows", cursor="c2"), run=replace(RUN, cursor_before="c1"))
    assert (end.run_outcome, end.reason, end.counts.read) == (Outcome.SUCCEEDED, "10 rows", 10)
    assert (end.cursor_before, end.cursor_after, end.store_cursor) == ("c1", "c2", True)


@pytest.mark.parametrize("params", [{"set": {"filter": "x"}}, {"dry_run": True}])
def test_runs_by_hand_move_no_cursor(params: dict[str, Any]) -> None:
    """A dry run, or one with values of its own, leaves the cursor alone."""
    end = verdict(done(cursor="c2"), run=replace(RUN, params=params))
    assert (end.run_outcome, end.cursor_after, end.store_cursor) == (Outcome.SUCCEEDED, None, False)


@pytest.mark.parametrize(
    ("failed", "allowed", "outcome"),
    [(0, 0, "succeeded"), (1, 0, "failed"), (5, 5, "partial"), (6, 5, "failed")],
)
def test_failed_rows_are_never_plain_green(failed: int, allowed: int, outcome: str) -> None:
    """Failed rows make a run partial up to `max_failed`, failed beyond; the cursor moves in neither case."""
    end = verdict(done(failed, cursor="c2"), job=replace(JOB, max_failed=allowed))
    assert end.run_outcome == outcome
    assert end.store_cursor is (failed == 0)


def test_skip_succeeds_with_its_reason() -> None:
    """Nothing to do is a success that says why."""
    end = verdict(Skip("no orders today"))
    assert (end.outcome, end.run_outcome, end.reason, end.error) == (
        AttemptOutcome.SUCCEEDED,
        Outcome.SUCCEEDED,
        "no orders today",
        None,
    )


@pytest.mark.parametrize("charged", [1, 2])
def test_retryable_errors_back_off_with_full_jitter(charged: int) -> None:
    """The delay is a random part of the doubled back-off."""
    end = verdict(UnreachableError("no answer"), run=replace(RUN, attempts=charged))
    assert (end.outcome, end.state, end.waiting_for) == (AttemptOutcome.FAILED, State.WAITING, "back-off")
    assert end.next_attempt_at == NOW + timedelta(seconds=30) * 2 ** (charged - 1) * 0.5


def test_attempts_are_used_up() -> None:
    """The last attempt's error becomes the run's; uncharged attempts do not count."""
    end = verdict(UnreachableError("no answer"), run=replace(RUN, attempts=3))
    assert (end.run_outcome, end.reason, end.error and end.error.type) == (
        Outcome.FAILED,
        "attempts used up",
        "UnreachableError",
    )
    again = verdict(UnreachableError("no answer"), run=replace(RUN, attempts=3, uncharged=1))
    assert again.state is State.WAITING


def test_budget_ends_the_run_before_the_night_does() -> None:
    """No retry begins later than the budget after the first start."""
    run = replace(RUN, started_at=NOW - timedelta(minutes=59, seconds=50))
    assert verdict(UnreachableError("no answer"), run=run).reason == "retry budget used up"


def test_budget_leaves_out_what_no_start_was_allowed_in() -> None:
    """A run of yesterday's window has in today's what was left of its budget; so it is after a blackout."""
    begun = NOW - timedelta(
        hours=21, minutes=45
    )  # half an hour before the window closed, and it is open since 02:00
    late = replace(begun_run := replace(RUN, started_at=begun), started_at=begun - timedelta(minutes=20))
    window = replace(JOB, window=Window(time(2), time(5)))
    dark = replace(JOB, blackout=(Calendar("free", dates=frozenset({NOW.date() - timedelta(days=1)})),))

    assert verdict(UnreachableError("x"), run=begun_run).reason == "retry budget used up"
    assert verdict(UnreachableError("x"), run=begun_run, job=window).waiting_for == "back-off"
    assert verdict(UnreachableError("x"), run=late, job=window).reason == "retry budget used up"
    eve = replace(RUN, started_at=NOW.replace(hour=0) - timedelta(days=1, minutes=20))
    assert verdict(UnreachableError("x"), run=eve, job=dark).reason == "retry budget used up"
    young = replace(dark, retry=RetryPolicy(budget=timedelta(hours=3)))
    assert verdict(UnreachableError("x"), run=eve, job=young).waiting_for == "back-off"


@pytest.mark.parametrize("error", [ThrottledError, ServerFaultError])
def test_retry_after_is_a_lower_bound(error: type) -> None:
    """A server's Retry-After is waited for; less is never waited."""
    assert verdict(error("slow", retry_after=timedelta(minutes=5))).next_attempt_at == NOW + timedelta(
        minutes=5
    )
    assert verdict(error("slow", retry_after=timedelta(seconds=1))).next_attempt_at == NOW + timedelta(
        seconds=15
    )


def test_plugin_says_when() -> None:
    """`Retry(after)` is waited for exactly; without a time the policy's back-off holds."""
    assert verdict(Retry("2m")).next_attempt_at == NOW + timedelta(minutes=2)
    assert verdict(Retry()).next_attempt_at == NOW + timedelta(seconds=15)


@pytest.mark.parametrize(
    "error",
    [
        ForbiddenError("no"),
        AuthFailed("no"),
        ConfigProblem("url", "is wrong"),
        ValueError("x"),
        TokenEndpointError("invalid_client", hint="check the secret"),
        ExceptionGroup("two", [UnreachableError("x"), ForbiddenError("no")]),
    ],
)
def test_permanent_errors_end_the_run_at_once(error: Exception) -> None:
    """What will not heal is not tried again; a hint of the error reaches the ledger."""
    end = verdict(error)
    assert (end.state, end.run_outcome) == (State.FINISHED, Outcome.FAILED)
    if isinstance(error, TokenEndpointError):
        assert end.error is not None
        assert end.error.hint == "check the secret"


@pytest.mark.parametrize(("waits", "minutes"), [(0, 1), (1, 2), (4, 16), (5, 20), (40, 20)])
def test_licence_is_waited_for_in_minutes(waits: int, minutes: int) -> None:
    """An exhausted licence charges no attempt and waits 1, 2, 4 … 20 minutes, however often."""
    run = replace(RUN, attempts=waits + 1, uncharged=waits)
    end = verdict(LicenseExhaustedError("all slots taken"), run=run, waits=waits)
    assert (end.state, end.waiting_for, end.uncharged) == (State.WAITING, "licence", True)
    assert end.next_attempt_at == NOW + timedelta(minutes=minutes)


def test_licence_is_waited_for_as_long_as_is_known() -> None:
    """Where it is known when a slot is free, the run waits until then, an hour and a bit at most."""
    for known, waited in ((95, 95), (7200, 3700)):
        error = LicenseExhaustedError("taken", retry_after=timedelta(seconds=known))
        end = verdict(error, run=RUN, waits=3)
        assert (end.next_attempt_at, end.uncharged) == (NOW + timedelta(seconds=waited), True)


def test_interruptions_do_not_lengthen_a_licence_wait() -> None:
    """Stopped at the end of four windows, it waits a minute for its first licence all the same."""
    end = verdict(LicenseExhaustedError("all slots taken"), run=replace(RUN, attempts=5, uncharged=4))
    assert end.next_attempt_at == NOW + timedelta(minutes=1)


@pytest.mark.parametrize(("again", "state"), [(False, State.FINISHED), (True, State.WAITING)])
def test_time_out_is_retried_on_request_only(again: bool, state: State) -> None:
    """`retry.timed_out` decides; whatever the plugin still answered does not count."""
    job = replace(JOB, retry=RetryPolicy(timed_out=again))
    end = verdict(done(), job=job, cause="timed_out", cause_text="too long", forced=True)
    assert (end.outcome, end.state) == (AttemptOutcome.TIMED_OUT, state)
    assert end.run_outcome == (None if again else Outcome.TIMED_OUT)


@pytest.mark.parametrize(("repeatable", "state"), [(True, State.PENDING), (False, State.FINISHED)])
def test_interrupted_is_nobodys_failure(repeatable: bool, state: State) -> None:
    """What a shut-down interrupts goes back to pending if it may be repeated, else it is abandoned."""
    end = verdict(STOPPED, repeatable=repeatable, cause="stopping")
    assert (end.outcome, end.state) == (AttemptOutcome.INTERRUPTED, state)
    assert end.run_outcome == (None if repeatable else Outcome.ABANDONED)


@pytest.mark.parametrize(("cause", "reason"), [("stopping", "shut-down"), ("window", "window")])
def test_interrupted_for_good_says_why(cause: str, reason: str) -> None:
    """What may not be repeated is abandoned with the cause of its interruption, at a checkpoint or by force."""
    for forced in (False, True):
        end = verdict(STOPPED, repeatable=False, cause=cause, forced=forced)
        assert (end.run_outcome, end.reason) == (Outcome.ABANDONED, reason)


def test_replaced_is_a_cancel_with_its_own_reason() -> None:
    """A run that a newer one replaces is cancelled, whatever it still answers."""
    end = verdict(done(), cause="replaced", cause_text="replaced by a newer run", forced=True)
    assert (end.outcome, end.run_outcome, end.reason) == (
        AttemptOutcome.CANCELLED,
        Outcome.CANCELLED,
        "replaced",
    )


def test_result_at_a_shut_down_stands() -> None:
    """An attempt that was asked to stop and finished its work instead has finished it; so has one that failed."""
    assert verdict(done(), cause="stopping").run_outcome is Outcome.SUCCEEDED
    assert verdict(ForbiddenError("no"), cause="stopping").run_outcome is Outcome.FAILED


def test_cancelled_says_by_whom() -> None:
    """A cancelled run names who asked, outside the reason that becomes a label."""
    end = verdict(STOPPED, cause="cancelled", cause_text="cancelled by alice", forced=True)
    assert (end.run_outcome, end.reason, end.error and end.error.message) == (
        Outcome.CANCELLED,
        "requested",
        "cancelled by alice",
    )


@pytest.mark.parametrize(
    ("losses", "repeatable", "job", "state", "outcome", "reason"),
    [
        (0, True, JOB, State.PENDING, None, None),
        (2, True, JOB, State.PENDING, None, None),
        (3, True, JOB, State.FINISHED, Outcome.FAILED, "lost 4 times"),
        (0, False, JOB, State.FINISHED, Outcome.ABANDONED, "owner died"),
        (0, True, None, State.FINISHED, Outcome.ABANDONED, "the job is no longer configured"),
    ],
)
def test_lost_attempts(
    losses: int, repeatable: bool, job: Job | None, state: State, outcome: Outcome | None, reason: str | None
) -> None:
    """A dead owner's run starts again at most three times, and only if it may be repeated."""
    end = lost(job, replace(RUN, losses=losses), repeatable=repeatable, now=NOW)
    assert (end.outcome, end.state, end.run_outcome, end.reason) == (
        AttemptOutcome.LOST,
        state,
        outcome,
        reason,
    )


@pytest.mark.parametrize(("losses", "repeatable"), [(0, True), (3, True), (0, False)])
def test_a_run_lost_with_its_daemon_says_what_else_may_have_ended_that(losses: int, repeatable: bool) -> None:
    """A plugin in the daemon can end it; where only a child process was lost, that is no question."""
    end = lost(JOB, replace(RUN, losses=losses), repeatable=repeatable, now=NOW)
    assert end.error is not None
    assert 'isolation = "process"' in end.error.hint
    assert ("erpsync trigger" in end.error.hint) == (not repeatable)
    end = lost(JOB, replace(RUN, losses=losses), repeatable=repeatable, now=NOW, how="the fork server died")
    assert end.error is not None
    assert "isolation" not in end.error.hint
