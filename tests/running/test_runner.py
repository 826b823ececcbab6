"""The runner: from pending to a recorded end, within limits, through retries, cancel and shut-down."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from erpsync.core.clock import ManualClock
from erpsync.core.errors import RunError
from erpsync.core.event import silent
from erpsync.core.job import Job, RetryPolicy
from erpsync.core.run import Outcome, State
from erpsync.core.session import Session
from erpsync.erpnet.slots import SlotBook
from erpsync.running.connection import Connection
from erpsync.store.history import find_run
from tests.running.conftest import impatient

MakeDesk = Callable[..., Any]
Define = Callable[..., Job]

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_run_is_told_in_one_line(desk: MakeDesk, define: Define) -> None:
    """`run.finished` alone tells what happened; an empty run writes no log."""
    clock = ManualClock()
    at = desk(define("quick", options={"instance": "acme", "identity": "night@acme"}), clock=clock)
    run = await at.run("quick", fire_at=clock.now() - timedelta(seconds=2))
    told = await at.hear("run.finished")
    assert told == {
        "level": "info",
        "run_id": run.id,
        "job": "quick",
        "instance": "acme",
        "identity": "night@acme",
        "trigger": "schedule",
        "special": False,
        "outcome": "succeeded",
        "reason": None,
        "attempts": 1,
        "duration_seconds": 0.0,
        "lag_seconds": 2.0,
        "counts": run.counts.document(),
        "cursor_before": None,
        "cursor_after": None,
        "error_type": None,
        "error_message": None,
        "hint": None,
    }
    assert (await at.hear("run.started"))["attempt"] == 1
    assert at.log(run) == []
    assert at.ledger(run) == run


async def test_retryable_error_is_tried_again_after_its_back_off(desk: MakeDesk, define: Define) -> None:
    """An error that may heal waits for its back-off and then succeeds; both attempts are in the ledger."""
    clock = ManualClock()
    job = define("failing", attempts=["UnreachableError", ""], options={"retry": RetryPolicy()})
    at = desk(job, clock=clock)
    run = await at.offer("failing")
    failed = await at.hear("attempt.failed")
    assert (failed["error_type"], failed["hint"]) == ("UnreachableError", "look there")
    waiting = at.ledger(run)
    assert (waiting.state, waiting.waiting_for) == ("waiting", "back-off")
    clock.advance(timedelta(seconds=14))
    await asyncio.sleep(0)
    assert at.ledger(run).state == "waiting"
    clock.advance(timedelta(seconds=1))
    ended = await at.finished(run)
    assert (ended.outcome, ended.error, ended.counts.read) == ("succeeded", None, 2)
    assert at.attempts(run) == ["failed", "succeeded"]


async def test_licence_wait_holds_no_slot(desk: MakeDesk, define: Define) -> None:
    """A run that waits for a licence lets others run, is charged nothing and goes on minutes later."""
    clock = ManualClock()
    job = define("failing", attempts=["LicenseExhaustedError", "LicenseExhaustedError", ""])
    at = desk(job, define("quick"), clock=clock, max_runs=1)
    run = await at.offer("failing")
    assert (await at.hear("run.waiting"))["waiting_for"] == "licence"
    assert (await at.run("quick")).outcome == "succeeded"
    clock.advance(timedelta(minutes=1))
    longer = await at.hear("run.waiting", 2)
    assert longer["next_attempt_at"] == clock.now() + timedelta(minutes=2)
    clock.advance(timedelta(minutes=2))
    ended = await at.finished(run)
    assert (ended.outcome, ended.attempts, ended.uncharged) == ("succeeded", 3, 2)


async def test_run_without_licence_slot_waits_for_it(desk: MakeDesk, define: Define) -> None:
    """The slot belongs to an identity while its runs run and its session lasts; another's run says what it awaits."""
    clock = ManualClock()
    night = {"instance": "acme", "identity": "night", "overlap": "allow"}
    books = {"acme": SlotBook("acme", 1, clock, silent)}
    at = desk(
        define("quick", options=night),
        define("quick", name="other", options=night | {"identity": "day"}),
        clock=clock,
        books=books,
    )
    session = Session("acme", "night", "tok_1", clock.now(), clock.now() + timedelta(minutes=1))
    books["acme"].load([session])
    assert (await at.run("quick")).outcome == "succeeded"
    waiting = await at.offer("other")
    told = await at.hear("run.waiting")
    assert told["waiting_for"] == "licence"
    assert told["explanation"] == "the licence slot of acme held by night until 00:21:00 UTC"
    assert books["acme"].use().waiting == ("day",)
    await at.until(lambda: at.ledger(waiting).reason)
    assert at.ledger(waiting).reason == f"{told['explanation']} (at 00:00:00 UTC)"
    clock.advance(timedelta(minutes=21, seconds=29))
    await asyncio.sleep(0.02)
    assert at.ledger(waiting).state == "waiting"
    clock.advance(timedelta(seconds=2))
    ended = await at.finished(waiting)
    assert (ended.outcome, ended.reason) == ("succeeded", None)
    assert books["acme"].use().in_use == 0


async def test_attempt_begins_with_a_token_that_outlives_it(desk: MakeDesk, define: Define) -> None:
    """Where tokens end by themselves, one is had that lives half as long again as nearly all runs took."""
    asked: list[timedelta] = []

    async def ready(lasting: timedelta) -> None:
        asked.append(lasting)

    connection = Connection(cast("Any", None), ready=ready)
    at = desk(define("quick", options={"expected_duration": timedelta(minutes=5)}), connection=connection)
    assert (await at.run("quick")).outcome == "succeeded"
    ended = at.clock.now()
    done = {"state": State.FINISHED, "outcome": Outcome.SUCCEEDED, "finished_at": ended}
    for minutes in range(1, 20):
        await at.claim("quick", **done, started_at=ended - timedelta(minutes=minutes))
    assert (await at.run("quick")).outcome == "succeeded"
    assert asked == [timedelta(minutes=5), 1.5 * timedelta(minutes=18)]


@pytest.mark.parametrize("plugin", ["writes", "writes-apart"])
@pytest.mark.parametrize(
    ("granted", "outcome"),
    [(("read", "update"), "succeeded"), (("read",), "failed"), (None, "succeeded")],
)
async def test_attempt_begins_with_the_scope_it_needs(
    desk: MakeDesk, define: Define, plugin: str, granted: tuple[str, ...] | None, outcome: str
) -> None:
    """T16: a plugin is not entered with a token that is known to lack a scope which it declares; no retry helps."""

    async def scope() -> tuple[str, ...] | None:
        return granted

    connection = Connection(cast("Any", None), identity_name="night", granted=scope)
    at = desk(define(plugin, options={"retry": RetryPolicy(attempts=3)}), connection=connection)
    ended = await at.run(plugin)
    assert (ended.outcome, ended.attempts) == (outcome, 1)
    if outcome == "failed":
        assert ended.error is not None
        assert ended.error.message == f"{plugin} needs the scope update, and night was granted read"
        assert "field Scope of the Trusted Application" in ended.error.hint


async def test_full_slots_make_runs_wait(desk: MakeDesk, define: Define) -> None:
    """A run beyond a limit is waiting, with the limit as its reason, and starts when a slot is free."""
    on_acme = {"instance": "acme", "overlap": "allow"}
    at = desk(
        define("gate", options=on_acme),
        define("gate", name="second-gate", options=on_acme),
        define("quick", options=on_acme),
        define("quick", name="elsewhere"),
        max_runs=2,
        instance_limits={"acme": 1},
    )
    first, second = await at.offer("gate"), await at.offer("quick")
    third, fourth = await at.offer("second-gate"), await at.offer("elsewhere")
    assert (await at.finished(fourth)).outcome == "succeeded"
    await at.until(lambda: at.ledger(third).waiting_for)
    assert at.ledger(second).waiting_for == at.ledger(third).waiting_for == "instance max_runs"
    assert [run.id for run in at.runner.running()] == [first.id]
    await at.runner.cancel(third.id, "alice")
    await at.runner.cancel(first.id, "alice")
    assert (await at.finished(second)).outcome == "succeeded"
    assert (at.ledger(third).outcome, at.ledger(third).attempts) == ("cancelled", 0)


async def test_one_run_of_a_job_goes_on_at_a_time(desk: MakeDesk, define: Define) -> None:
    """Several claimed runs of a job go one after another, the oldest first."""
    clock = ManualClock()
    at = desk(define("gate"), clock=clock)
    first, second, third = [await at.offer("gate") for _ in range(3)]
    await at.until(lambda: at.ledger(third).waiting_for)
    assert at.ledger(second).waiting_for == at.ledger(third).waiting_for == "queue"
    assert [run.id for run in at.runner.running()] == [first.id]
    await at.runner.cancel(second.id, "alice")
    await at.runner.cancel(first.id, "alice")
    await at.until(lambda: [run.id for run in at.runner.running()] == [third.id])
    await at.runner.cancel(third.id, "alice")
    await at.finished(third)


async def test_runs_of_a_job_that_allows_it_overlap(desk: MakeDesk, define: Define) -> None:
    """With overlap = "allow" nobody waits for an earlier run."""
    at = desk(define("gate", options={"overlap": "allow"}))
    runs = [await at.offer("gate") for _ in range(2)]
    await at.until(lambda: len(at.runner.running()) == 2)
    for run in runs:
        await at.runner.cancel(run.id, "alice")
        await at.finished(run)


async def test_what_comes_together_begins_together(desk: MakeDesk, define: Define) -> None:
    """Hundreds of runs offered at once all end, each exactly once."""
    at = desk(define("quick", options={"overlap": "allow"}), max_runs=50)
    runs = await asyncio.gather(*(at.claim("quick") for _ in range(300)))
    at.runner.offer(runs)
    at.runner.offer(runs[:100])
    ended = await asyncio.gather(*(at.finished(run) for run in runs))
    assert {run.outcome for run in ended} == {"succeeded"}
    assert {run.attempts for run in ended} == {1}
    assert len(at.told("run.finished")) == 300


async def test_thousands_enter_their_plugins_by_priority(desk: MakeDesk, define: Define) -> None:
    """Two thousand jobs that are due at once and have sixteen slots: never does a run begin before a more important
    one that waits."""
    jobs = [define("quick", name=f"job-{n}", options={"priority": n * 7 % 10}) for n in range(2000)]
    at = desk(*jobs, max_runs=16)
    runs = await asyncio.gather(*(at.claim(job.name) for job in jobs))
    at.runner.offer(runs)
    await asyncio.gather(*(at.finished(run) for run in runs))

    priorities = [at.jobs[told["job"]].priority for told in at.told("run.started")]
    assert len(priorities) == 2000
    assert priorities == sorted(priorities, reverse=True)


async def test_cancel_of_what_is_over_says_no(desk: MakeDesk, define: Define) -> None:
    """Cancelling a finished or an unknown run changes nothing and says so."""
    at = desk(define("quick"))
    run = await at.run("quick")
    assert not await at.runner.cancel(run.id, "alice")
    assert not await at.runner.cancel("unknown", "alice")
    assert at.ledger(run).outcome == "succeeded"


async def test_cancel_during_back_off(desk: MakeDesk, define: Define) -> None:
    """A run that waits for its next attempt can be cancelled."""
    job = define("failing", attempts=["UnreachableError"], options={"retry": RetryPolicy()})
    at = desk(job)
    run = await at.offer("failing")
    await at.hear("attempt.failed")
    assert await at.runner.cancel(run.id, "alice")
    ended = await at.finished(run)
    assert (ended.outcome, at.attempts(run)) == ("cancelled", ["failed"])


@pytest.mark.parametrize("again", [False, True])
async def test_time_out_of_a_task(desk: MakeDesk, define: Define, again: bool) -> None:
    """An attempt that takes too long is cancelled; it is tried again only where the job says so."""
    clock = ManualClock()
    options = {"timeout": timedelta(minutes=10), "retry": RetryPolicy(attempts=2, timed_out=again)}
    at = desk(define("gate", checkpoints=False, options=options), clock=clock)
    run = await at.offer("gate")
    await at.logged(run, "entered")
    clock.advance(timedelta(minutes=10))
    if again:
        assert (await at.hear("attempt.failed"))["error_type"] == "AttemptTimedOutError"
        await at.runner.cancel(run.id, "alice")
        assert (await at.finished(run)).outcome == "cancelled"
    else:
        assert (await at.finished(run)).outcome == "timed_out"
    assert at.attempts(run) == ["timed_out"]


async def test_deaf_task_is_abandoned_and_named(desk: MakeDesk, define: Define) -> None:
    """An async plugin that swallows its cancellation cannot be killed, but its run ends and its name is told."""
    at = desk(define("stubborn-async"), define("quick"), grace=timedelta(milliseconds=20), max_runs=1)
    run = await at.offer("stubborn-async")
    await at.logged(run, "entered")
    await at.runner.cancel(run.id, "alice")
    assert (await at.hear("attempt.abandoned"))["plugin"] == "stubborn-async"
    error = (await at.finished(run)).error
    how = "the plugin ignored its cancellation and goes on unseen in the daemon"
    assert error.message == f"cancelled by alice; {how}"
    assert "isolation" in error.hint
    assert (await at.run("quick")).outcome == "succeeded"


async def test_drain_lets_runs_end_then_interrupts(desk: MakeDesk, define: Define) -> None:
    """A shut-down stops at checkpoints what may be repeated, and starts nothing new; nobody has failed."""
    clock = ManualClock()
    at = desk(define("gate"), define("once-gate"), define("quick"), clock=clock)
    repeatable, once = await at.offer("gate"), await at.offer("once-gate")
    await at.logged(repeatable, "entered")
    await at.logged(once, "entered")
    drained = asyncio.create_task(at.runner.drain(timedelta(minutes=1)))
    await asyncio.sleep(0)
    late = await at.offer("quick")
    assert not drained.done()
    clock.advance(timedelta(minutes=1))
    await drained
    assert (at.ledger(repeatable).state, at.attempts(repeatable)) == ("pending", ["interrupted"])
    abandoned = at.ledger(once)
    assert (abandoned.outcome, abandoned.reason) == ("abandoned", "shut-down")
    assert at.ledger(repeatable).uncharged == 1
    assert at.ledger(late).state == "pending"


async def test_drain_ends_the_deaf_too(desk: MakeDesk, define: Define) -> None:
    """What has no checkpoint is cancelled after a further grace."""
    clock = ManualClock()
    at = desk(define("gate", checkpoints=False), clock=clock)
    run = await at.offer("gate")
    await at.logged(run, "entered")
    drained = asyncio.create_task(at.runner.drain(timedelta(0)))
    await at.until(lambda: at.runner._live[run.id].cause)
    clock.advance(timedelta(seconds=10))
    await drained
    assert (at.ledger(run).state, at.attempts(run)) == ("pending", ["interrupted"])


async def test_stop_is_immediate(desk: MakeDesk, define: Define) -> None:
    """`stop` waits for no checkpoint, kills children, and may be called twice."""
    at = desk(define("blocking-gate", checkpoints=False), define("gate", checkpoints=False), max_runs=2)
    child, task = await at.offer("blocking-gate"), await at.offer("gate")
    await at.logged(child, "entered")
    await at.logged(task, "entered")
    await at.runner.stop()
    await at.runner.stop()
    for run in (child, task):
        assert (at.ledger(run).state, at.attempts(run)) == ("pending", ["interrupted"])


async def test_broken_plugin_fails_its_runs_only(desk: MakeDesk, define: Define) -> None:
    """A plugin that does not exist fails its run with a message, others go on."""
    at = desk(define("quik"), define("quick"))
    run = await at.run("quik")
    assert (run.error.type, run.error.hint) == ("PluginLoadError", 'did you mean "quick"?')
    assert (await at.run("quick")).outcome == "succeeded"


async def test_removed_job_is_abandoned(desk: MakeDesk, define: Define) -> None:
    """A pending run whose job is no longer configured ends with that reason."""
    at = desk(define("quick", name="old"))
    run = await at.claim("old")
    del at.jobs["old"]
    at.runner.offer([run])
    ended = await at.finished(run)
    assert (ended.outcome, ended.reason) == ("abandoned", "the job is no longer configured")


async def test_removed_job_waits_for_nothing(desk: MakeDesk, define: Define) -> None:
    """A run of a removed job needs neither a slot nor the end of its back-off to be abandoned."""
    at = desk(define("gate"), define("quick", name="old"), define("quick", name="older"), max_runs=1)
    holder = await at.offer("gate")
    await at.logged(holder, "entered")
    queued, delayed = await at.claim("old"), await at.claim("older")
    for name in ("old", "older"):
        del at.jobs[name]
    at.runner.offer([queued, replace(delayed, next_attempt_at=delayed.created_at + timedelta(hours=1))])
    for run in (queued, delayed):
        assert (await at.finished(run)).reason == "the job is no longer configured"
    assert at.ledger(holder).state == "running"


async def test_waiting_for_nobody(desk: MakeDesk, define: Define) -> None:
    """Waiting for a run that does not exist is an error, for one that has ended no wait."""
    at = desk(define("quick"))
    run = await at.run("quick")
    assert await at.finished(run) == run
    with pytest.raises(RunError, match="no run"):
        await at.runner.wait("unknown")


async def test_who_waits_is_told_when_all_is_over(
    desk: MakeDesk, define: Define, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose end is written already, and that still holds its slot, is not over for those who wait for it."""
    at, concluded = desk(define("quick")), asyncio.Event()
    write = at.runner._writer.write

    async def slow(*args: Any) -> Any:
        answer = await write(*args)
        await concluded.wait()
        return answer

    monkeypatch.setattr(at.runner._writer, "write", slow)
    run = await at.offer("quick")
    await at.until(lambda: at.ledger(run).state is State.FINISHED)
    waiting = asyncio.create_task(at.runner.wait(run.id))
    reading = asyncio.create_task(at.store.read(find_run, run.id))
    await reading  # asked for after the other
    assert ([each.id for each in at.runner.running()], waiting.done()) == ([run.id], False)
    concluded.set()
    assert (await waiting).outcome is Outcome.SUCCEEDED
    assert at.runner.running() == []


async def test_locked_ledger_costs_time_only(desk: MakeDesk, define: Define) -> None:
    """While the state database is locked a run's end is kept, and written when the lock is gone."""
    clock = ManualClock()
    at = desk(define("gate"), clock=clock)
    run = await at.offer("gate")
    await at.logged(run, "entered")
    await at.store.write(impatient, None)
    other = sqlite3.connect(at.store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await at.runner.cancel(run.id, "alice")
    assert "locked" in str((await at.hear("store.unavailable"))["error_message"])
    other.execute("COMMIT")
    other.close()
    clock.advance(timedelta(seconds=1))
    assert (await at.finished(run)).outcome == "cancelled"


async def test_nothing_begins_in_a_state_that_was_moved_away(
    desk: MakeDesk, define: Define, tmp_path: Path
) -> None:
    """What runs ends and is written; what waits does, until the state is back."""
    clock = ManualClock()
    at = desk(define("gate"), define("quick"), clock=clock)
    running = await at.offer("gate")
    await at.logged(running, "entered")
    waiting = await at.claim("quick")
    at.store.look_again = 0.0
    at.store.path.rename(tmp_path / "away.db")
    at.runner.offer([waiting])
    assert "removed or replaced" in str((await at.hear("store.unavailable"))["error_message"])
    await at.runner.cancel(running.id, "alice")
    assert (await at.finished(running)).outcome == "cancelled"
    (tmp_path / "away.db").rename(at.store.path)
    clock.advance(timedelta(seconds=1))
    assert (await at.finished(waiting)).outcome == "succeeded"


async def test_unfinished_runs_are_taken_up_at_start(desk: MakeDesk, define: Define) -> None:
    """What a dead owner left running is lost and begins again where it may; what was waiting goes on."""
    at = desk(define("failing", attempts=[""]), define("quick"), define("once-gate"), max_runs=4)
    at.jobs["gone"] = replace(at.jobs["quick"], name="gone")
    running, once, pending = [await at.claim(name) for name in ("failing", "once-gate", "quick")]
    gone = await at.claim("gone")
    del at.jobs["gone"]
    with sqlite3.connect(at.store.path) as connection:
        for run in (running, once, gone):
            connection.execute(
                "UPDATE run SET state='running', attempts=1, owner='dead:1' WHERE id=?", [run.id]
            )
    connection.close()
    await at.runner.start()
    ended = await at.finished(running)
    assert (ended.outcome, ended.attempts, ended.losses) == ("succeeded", 2, 1)
    assert (await at.finished(pending)).outcome == "succeeded"
    assert (at.ledger(once).outcome, at.ledger(once).reason) == ("abandoned", "owner died")
    assert at.ledger(gone).reason == "the job is no longer configured"
    assert {fields["run_id"] for fields in at.told("run.recovered")} == {running.id, once.id, gone.id}


async def test_what_was_replaced_before_a_crash_ends_whatever_the_clock_said(
    desk: MakeDesk, define: Define
) -> None:
    """Of the runs that a start finds, the one written last is the newest, also where the clock was set back between;
    those that were claimed together with it stay."""
    at = desk(define("quick", options={"overlap": "replace"}))
    now = at.clock.now()
    older = await at.claim("quick", created_at=now + timedelta(hours=9))
    newer = [await at.claim("quick", created_at=now) for _ in range(2)]
    await at.runner.start()
    ended = [await at.finished(run) for run in (older, *newer)]
    assert [(run.outcome, run.reason) for run in ended] == [
        ("cancelled", "replaced"),
        ("succeeded", None),
        ("succeeded", None),
    ]
