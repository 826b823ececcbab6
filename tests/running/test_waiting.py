"""Runs that may not start yet: windows, blackouts, pauses, deadlines, pools, and those in front of them."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from erpsync.core.clock import ManualClock
from erpsync.core.job import Calendar, Job, RetryPolicy, Window
from erpsync.core.run import AttemptOutcome, Outcome, RunTrigger, State
from erpsync.store.ledger import Begin, End, Finish, begin_attempts, end_attempts, finish_runs
from erpsync.store.pauses import Pause, remove_pauses, write_pauses
from tests.running.conftest import impatient

MakeDesk = Callable[..., Any]
Define = Callable[..., Job]

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NIGHT = Window(time(22), time(6))
INTERRUPTED_NIGHT = Window(time(22), time(6), "checkpoint")
TODAY = Calendar("today", dates=frozenset({date(2026, 3, 2)}))
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def waits_for(at: Any, run: Any, reason: str | None) -> None:
    """Until the ledger says what the run waits for."""
    await at.until(lambda: at.ledger(run).waiting_for == reason)


async def settle(at: Any) -> None:
    """Let happen what is due: several turns of the loop and of the writer."""
    for _ in range(5):
        await at.store.write(remove_pauses, "nobody")


@pytest.mark.parametrize("trigger", [RunTrigger.SCHEDULE, RunTrigger.CATCH_UP, RunTrigger.MANUAL])
async def test_no_run_starts_before_its_window(desk: MakeDesk, define: Define, trigger: RunTrigger) -> None:
    """Whatever made a run, it waits for the window and starts when that opens, holding no slot meanwhile."""
    clock = ManualClock(NOON)
    job = define("quick", options={"window": NIGHT, "start_by": 12 * HOUR})
    at = desk(job, define("quick", name="other"), clock=clock, max_runs=1)
    run = await at.offer("quick", trigger=trigger)
    await waits_for(at, run, "window")
    assert (await at.run("other")).outcome == "succeeded"
    clock.advance(10 * HOUR - MINUTE)
    await settle(at)
    assert at.ledger(run).state == "waiting"
    clock.advance(MINUTE)
    assert (await at.finished(run)).started_at == NOON + 10 * HOUR


async def test_retries_wait_for_the_window_too(desk: MakeDesk, define: Define) -> None:
    """A back-off that ends outside the window is followed by a wait for it."""
    clock = ManualClock(NOON.replace(hour=5, minute=59, second=50))
    options = {"window": NIGHT, "retry": RetryPolicy(budget=24 * HOUR)}
    at = desk(define("failing", attempts=["UnreachableError", ""], options=options), clock=clock)
    run = await at.offer("failing")
    await at.hear("attempt.failed")
    clock.advance(timedelta(seconds=15))
    await waits_for(at, run, "window")
    clock.advance(16 * HOUR)
    assert (await at.finished(run)).outcome == "succeeded"


async def test_blackout_holds_a_postponed_run(desk: MakeDesk, define: Define) -> None:
    """A run that was postponed starts at the end of the blackout, and its deadline counts from there."""
    clock = ManualClock(NOON)
    options = {"blackout": (TODAY,), "on_blackout": "postpone", "start_by": MINUTE}
    at = desk(define("quick", options=options), clock=clock)
    run = await at.offer("quick")
    await waits_for(at, run, "blackout")
    clock.advance(12 * HOUR)
    assert (await at.finished(run)).started_at == NOON + 12 * HOUR


async def test_steps_of_the_clock_do_not_break_the_window(desk: MakeDesk, define: Define) -> None:
    """Half a minute after the wall clock was set forward into the window the run starts; set back, it does not."""
    clock = ManualClock(NOON)
    at = desk(define("quick", options={"window": NIGHT, "start_by": 20 * HOUR}), clock=clock)
    run = await at.offer("quick")
    await waits_for(at, run, "window")
    clock.step(-HOUR)
    clock.advance(10 * HOUR)
    await settle(at)
    assert at.ledger(run).state == "waiting"
    clock.step(HOUR)
    clock.advance(timedelta(seconds=30))
    assert (await at.finished(run)).outcome == "succeeded"


async def test_window_that_closes_before_a_slot_is_free(desk: MakeDesk, define: Define) -> None:
    """A run that waits for a slot while its window closes does not start when the slot is free."""
    clock = ManualClock(NOON.replace(hour=5))
    options = {"window": NIGHT, "start_by": 24 * HOUR}
    at = desk(define("gate"), define("quick", options=options), clock=clock, max_runs=1)
    first, run = await at.offer("gate"), await at.offer("quick")
    await waits_for(at, run, "max_runs")
    clock.advance(HOUR)
    await at.runner.cancel(first.id, "alice")
    await waits_for(at, run, "window")
    clock.advance(16 * HOUR)
    assert (await at.finished(run)).outcome == "succeeded"


async def test_end_of_window_interrupts_at_a_checkpoint(desk: MakeDesk, define: Define) -> None:
    """With at_end = "checkpoint" the attempt ends with its window, uncharged, and goes on in the next one."""
    clock = ManualClock(NOON.replace(hour=22))
    at = desk(define("gate", options={"window": INTERRUPTED_NIGHT, "timeout": 24 * HOUR}), clock=clock)
    run = await at.offer("gate")
    await at.logged(run, "entered")
    clock.advance(8 * HOUR)
    await waits_for(at, run, "window")
    assert (at.attempts(run), at.ledger(run).uncharged) == (["interrupted"], 1)
    clock.advance(16 * HOUR)
    await at.until(lambda: at.attempts(run) == ["interrupted", None])
    await at.runner.cancel(run.id, "alice")
    assert (await at.finished(run)).outcome == "cancelled"


async def test_end_of_window_gives_up_what_may_not_be_repeated(desk: MakeDesk, define: Define) -> None:
    """A job that is not repeatable is abandoned at its window's end, with the window as the reason."""
    clock = ManualClock(NOON.replace(hour=22))
    at = desk(define("once-gate", options={"window": INTERRUPTED_NIGHT, "timeout": 24 * HOUR}), clock=clock)
    run = await at.offer("once-gate")
    await at.logged(run, "entered")
    clock.advance(8 * HOUR)
    ended = await at.finished(run)
    assert (ended.outcome, ended.reason, at.attempts(run)) == ("abandoned", "window", ["interrupted"])


async def test_end_of_window_does_not_hide_a_cancel(desk: MakeDesk, define: Define) -> None:
    """An attempt that its window's end could not stop, and that somebody cancels then, is cancelled."""
    clock = ManualClock(NOON.replace(hour=22))
    options = {"window": INTERRUPTED_NIGHT, "timeout": 24 * HOUR}
    at = desk(define("gate", checkpoints=False, options=options), clock=clock)
    run = await at.offer("gate")
    await at.logged(run, "entered")
    clock.advance(8 * HOUR)
    await at.until(lambda: at.runner._live[run.id].cause == "window")
    await at.runner.cancel(run.id, "alice")
    ended = await at.finished(run)
    assert (ended.outcome, ended.reason) == ("cancelled", "requested")


async def test_end_of_window_lets_finish_what_may(desk: MakeDesk, define: Define) -> None:
    """With at_end = "finish" a run goes on beyond its window."""
    clock = ManualClock(NOON.replace(hour=22))
    at = desk(define("gate", options={"window": NIGHT, "timeout": 24 * HOUR}), clock=clock)
    run = await at.offer("gate")
    await at.logged(run, "entered")
    clock.advance(9 * HOUR)
    await settle(at)
    assert at.attempts(run) == [None]
    await at.runner.cancel(run.id, "alice")
    await at.finished(run)


async def test_run_that_waits_too_long_is_missed(desk: MakeDesk, define: Define) -> None:
    """Without a first start in time a run is missed for what it waited for, and it is the next one's turn."""
    clock = ManualClock(NOON)
    late = define("quick", options={"start_by": HOUR})
    at = desk(define("gate"), late, clock=clock, max_runs=1)
    first, run = await at.offer("gate"), await at.offer("quick")
    await waits_for(at, run, "max_runs")
    following = await at.offer("quick", fire_at=NOON + MINUTE)
    await waits_for(at, following, "queue")
    clock.advance(HOUR)
    ended = await at.finished(run)
    assert (ended.outcome, ended.reason, ended.attempts) == ("missed", "max_runs", 0)
    await at.runner.cancel(first.id, "alice")
    assert (await at.finished(following)).outcome == "succeeded"


async def test_next_fire_time_is_the_deadline(desk: MakeDesk, define: Define) -> None:
    """Where the job does not say how long a run may wait, its next fire time does."""
    clock = ManualClock(NOON)
    at = desk(
        define("quick", options={"window": NIGHT}),
        clock=clock,
        following=lambda job, instant: instant + 2 * HOUR,
    )
    run = await at.offer("quick")
    await waits_for(at, run, "window")
    clock.advance(2 * HOUR)
    assert (await at.finished(run)).reason == "window"


async def test_deadline_does_not_bind_retries(desk: MakeDesk, define: Define) -> None:
    """A run that has started once is not missed."""
    clock = ManualClock(NOON)
    options = {"start_by": timedelta(seconds=5), "retry": RetryPolicy()}
    at = desk(define("failing", attempts=["UnreachableError", ""], options=options), clock=clock)
    run = await at.offer("failing")
    await at.hear("attempt.failed")
    clock.advance(timedelta(seconds=15))
    assert (await at.finished(run)).outcome == "succeeded"


async def test_start_misses_what_is_late(desk: MakeDesk, define: Define) -> None:
    """A run whose deadline passed while no daemon was there is missed when the next one starts."""
    clock = ManualClock(NOON)
    at = desk(define("quick", options={"start_by": HOUR}), clock=clock)
    late, fresh = await at.claim("quick"), await at.claim("quick", fire_at=NOON + 2 * HOUR)
    clock.advance(2 * HOUR)
    await at.runner.start()
    ended = await at.finished(late)
    assert (ended.outcome, ended.reason) == ("missed", "start_by")
    assert (await at.finished(fresh)).outcome == "succeeded"


async def test_run_that_the_engine_gave_up_makes_room(desk: MakeDesk, define: Define) -> None:
    """A waiting run that was ended in the ledger by somebody else is nobody's obstacle, and is told to who waits."""
    clock = ManualClock(NOON)
    at = desk(define("quick", options={"window": NIGHT, "start_by": HOUR}), clock=clock)
    run = await at.offer("quick")
    await waits_for(at, run, "window")
    await at.store.write(finish_runs, Finish(run.id, Outcome.MISSED, clock.now(), "window"))
    waiter = asyncio.create_task(at.runner.wait(run.id))
    following = await at.offer("quick", fire_at=NOON + 10 * HOUR)
    await waits_for(at, following, "queue")
    clock.advance(10 * HOUR)
    assert (await waiter).outcome == "missed"
    assert (await at.finished(following)).outcome == "succeeded"


async def test_pool_holds_back_what_is_too_much(desk: MakeDesk, define: Define) -> None:
    """Jobs of one pool share its slots; the one without a slot waits for the pool, others do not."""
    pooled = {"pool": "warehouse"}
    jobs = [define("gate", name=name, options=pooled) for name in ("a", "b")]
    at = desk(*jobs, define("quick"), pools={"warehouse": 1})
    first, second = await at.offer("a"), await at.offer("b")
    await waits_for(at, second, "pool")
    assert (await at.run("quick")).outcome == "succeeded"
    await at.runner.cancel(first.id, "alice")
    await at.until(lambda: [run.id for run in at.runner.running()] == [second.id])
    await at.runner.cancel(second.id, "alice")
    await at.finished(second)


async def test_paused_job_starts_nothing(desk: MakeDesk, define: Define) -> None:
    """What runs goes on, what does not waits, also in a back-off, and goes on after the pause."""
    clock = ManualClock(NOON)
    failing = define("failing", attempts=["UnreachableError", ""], options={"retry": RetryPolicy()})
    at = desk(define("gate", options={"overlap": "allow"}), failing, clock=clock, max_runs=3)
    running, retrying = await at.offer("gate"), await at.offer("failing")
    await at.logged(running, "entered")
    await at.hear("attempt.failed")
    for job in ("gate", "failing"):
        at.runner.pause(Pause(job, NOON))
    waiting = await at.offer("gate")
    await waits_for(at, waiting, "paused")
    await waits_for(at, retrying, "paused")
    assert at.ledger(retrying).next_attempt_at == NOON + timedelta(seconds=15)
    clock.advance(MINUTE)
    await settle(at)
    assert [run.id for run in at.runner.running()] == [running.id]
    for job in ("gate", "failing"):
        at.runner.resume(job)
    assert (await at.finished(retrying)).outcome == "succeeded"
    await at.until(lambda: len(at.runner.running()) == 2)
    for run in (running, waiting):
        await at.runner.cancel(run.id, "alice")
        await at.finished(run)


async def test_resumed_run_keeps_its_back_off(desk: MakeDesk, define: Define) -> None:
    """A pause that ends within a back-off does not shorten it."""
    clock = ManualClock(NOON)
    job = define("failing", attempts=["UnreachableError", ""], options={"retry": RetryPolicy()})
    at = desk(job, clock=clock)
    run = await at.offer("failing")
    await at.hear("attempt.failed")
    at.runner.pause(Pause("failing", NOON))
    await waits_for(at, run, "paused")
    at.runner.resume("failing")
    await waits_for(at, run, "back-off")
    clock.advance(timedelta(seconds=15))
    assert (await at.finished(run)).started_at == NOON


async def test_back_off_is_as_long_as_it_was(desk: MakeDesk, define: Define) -> None:
    """A clock that is set back does not lengthen a back-off within which its job is paused."""
    clock = ManualClock(NOON)
    retry = {"retry": RetryPolicy()}
    at = desk(define("failing", attempts=["UnreachableError", ""], options=retry), clock=clock)
    run = await at.offer("failing")
    await at.hear("run.waiting")
    clock.step(-HOUR)
    at.runner.pause(Pause("failing", NOON))
    at.runner.resume("failing")
    await waits_for(at, run, "back-off")
    clock.advance(MINUTE)
    assert (await at.finished(run)).outcome == "succeeded"


async def test_back_off_of_a_wrong_clock_is_as_long_as_it_was(desk: MakeDesk, define: Define) -> None:
    """A restart with the right clock waits no longer than was drawn while it was a month ahead; nor do later ones."""
    clock, ahead = ManualClock(NOON), NOON + timedelta(days=30)
    at = desk(define("quick", options={"retry": RetryPolicy()}), clock=clock)
    run = await at.claim("quick", created_at=ahead, fire_at=ahead)
    await at.store.write(begin_attempts, Begin(run, "dead:1", ahead))
    ended = (ahead + MINUTE, AttemptOutcome.FAILED, State.WAITING)
    waits = {"waiting_for": "back-off", "next_attempt_at": ahead + 6 * MINUTE}
    await at.store.write(end_attempts, End(run.id, 1, "dead:1", *ended, **waits))
    for left in (5, 3):  # minutes
        assert [(found.id, found.next_attempt_at) for found in await at.runner.recover()] == [
            (run.id, clock.now() + left * MINUTE)
        ]
        await at.until(lambda: at.ledger(run).next_attempt_at == NOON + 5 * MINUTE)
        clock.advance(2 * MINUTE)
    await at.runner.start()
    clock.advance(MINUTE)
    assert (await at.finished(run)).outcome == "succeeded"


async def test_pause_is_known_at_start_and_ends_by_itself(desk: MakeDesk, define: Define) -> None:
    """A pause in the state holds what a start takes up, until its time is over."""
    clock = ManualClock(NOON)
    at = desk(define("quick"), clock=clock)
    await at.store.write(write_pauses, Pause("quick", NOON, NOON + HOUR))
    run = await at.claim("quick")
    await at.runner.start()
    await waits_for(at, run, "paused")
    clock.advance(HOUR)
    assert (await at.finished(run)).started_at == NOON + HOUR


async def test_pause_that_is_over_stays_over(desk: MakeDesk, define: Define) -> None:
    """A clock that is set back behind the end of a pause does not revive it."""
    clock = ManualClock(NOON)
    at = desk(define("quick"), clock=clock)
    at.runner.pause(Pause("quick", NOON, NOON + HOUR))
    await settle(at)
    clock.advance(HOUR)
    await settle(at)
    clock.step(-MINUTE)
    run = await at.offer("quick")
    assert (await at.finished(run)).started_at == NOON + HOUR - MINUTE


async def test_replaced_runs_end_before_the_new_one_begins(desk: MakeDesk, define: Define) -> None:
    """The newer run cancels those in front of it, running or not, and waits for their end."""
    at = desk(define("gate", options={"overlap": "replace"}), grace=timedelta(seconds=5))
    first, second = await at.offer("gate"), await at.offer("gate")
    await at.logged(first, "entered")
    await waits_for(at, second, "queue")
    at.runner.replace([first.id, second.id])
    third = await at.offer("gate")
    for run in (first, second):
        ended = await at.finished(run)
        assert (ended.outcome, ended.reason) == ("cancelled", "replaced")
    await at.logged(third, "entered")
    assert at.ledger(third).started_at >= at.ledger(first).finished_at
    await at.runner.cancel(third.id, "alice")
    await at.finished(third)


async def test_waiting_is_over_for_a_job_that_was_removed(desk: MakeDesk, define: Define) -> None:
    """A run that waits for the window of a job that is gone is abandoned at the next look."""
    clock = ManualClock(NOON)
    at = desk(define("quick", options={"window": NIGHT, "start_by": 20 * HOUR}), clock=clock)
    run = await at.offer("quick")
    await waits_for(at, run, "window")
    del at.jobs["quick"]
    clock.advance(timedelta(seconds=30))
    assert (await at.finished(run)).outcome == "abandoned"


async def test_drain_leaves_waiting_runs_alone(desk: MakeDesk, define: Define) -> None:
    """After a shut-down has begun neither window nor deadline moves a waiting run: the next start does."""
    clock = ManualClock(NOON)
    job = define("quick", options={"window": NIGHT, "start_by": HOUR})
    at = desk(
        job, define("quick", name="open", options={"window": replace(NIGHT, opens=time(13))}), clock=clock
    )
    late, opening = await at.offer("quick"), await at.offer("open")
    for run in (late, opening):
        await waits_for(at, run, "window")
    await at.runner.drain(timedelta(0))
    clock.advance(2 * HOUR)
    await settle(at)
    assert {at.ledger(run).state for run in (late, opening)} == {"waiting"}


async def test_a_run_that_is_late_by_new_rules_is_missed_at_once(desk: MakeDesk, define: Define) -> None:
    """A reload that shortens `start_by` ends what has waited longer; what has time left waits on, and no longer."""
    clock = ManualClock(NOON)
    patient = define("quick", options={"window": NIGHT, "start_by": 20 * HOUR})
    at = desk(patient, clock=clock)
    first = await at.offer("quick")
    await waits_for(at, first, "window")
    clock.advance(HOUR)
    adopt(at, replace(patient, start_by=MINUTE))
    assert ((ended := await at.finished(first)).outcome, ended.reason) == ("missed", "window")
    adopt(at, patient)
    second = await at.offer("quick")
    await waits_for(at, second, "window")
    adopt(at, replace(patient, start_by=MINUTE))
    clock.advance(MINUTE)
    assert (await at.finished(second)).outcome == "missed"


@pytest.mark.parametrize("plugin", ["quick", "once-gate"])
async def test_a_window_that_closes_while_a_beginning_is_written_is_kept(
    desk: MakeDesk, define: Define, monkeypatch: pytest.MonkeyPatch, plugin: str
) -> None:
    """The plugin is not entered; the run waits for the next window, also where it may not be repeated."""
    clock = ManualClock(NOON.replace(hour=5, minute=59, second=59))
    at = desk(define(plugin, options={"window": NIGHT, "start_by": 24 * HOUR}), clock=clock)
    write = at.store.write

    async def slow(operation: Any, item: Any) -> Any:
        written = await write(operation, item)
        if operation is begin_attempts:
            clock.advance(timedelta(seconds=2))
        return written

    monkeypatch.setattr(at.store, "write", slow)
    run = await at.offer(plugin)
    await waits_for(at, run, "window")
    assert at.attempts(run) == ["interrupted"]
    assert at.log(run, "entered") == []


async def test_what_waits_goes_where_its_job_goes(desk: MakeDesk, define: Define) -> None:
    """A run that waits while its job moves to another instance is limited there, and the ledger says where it ran."""
    clock = ManualClock(NOON)
    at_acme = replace(define("quick", options={"window": NIGHT}), instance="acme", identity="night@acme")
    at = desk(at_acme, clock=clock)
    run = await at.offer("quick")
    await waits_for(at, run, "window")
    at_beta = replace(at_acme, instance="beta", identity="night@beta")
    at.runner.adopt({"quick": at_beta}, {"quick"}, {}, max_runs=4, instance_limits={"acme": 0}, pools={})
    clock.advance(10 * HOUR)
    ended = await at.finished(run)
    assert (ended.outcome, ended.instance, ended.identity) == ("succeeded", "beta", "night@beta")


async def test_runs_that_may_overlap_no_more_wait_for_each_other(desk: MakeDesk, define: Define) -> None:
    """A reload that forbids what it allowed holds what has not begun behind what runs."""
    allowing = define("gate", options={"overlap": "allow"})
    at = desk(allowing, max_runs=1)
    first, second = await at.offer("gate"), await at.offer("gate")
    await at.logged(first, "entered")
    await waits_for(at, second, "max_runs")
    adopt(at, replace(allowing, overlap="skip"))
    await waits_for(at, second, "queue")
    await at.runner.cancel(first.id, "alice")
    await at.logged(second, "entered")


async def test_a_pause_goes_on_under_a_new_name(desk: MakeDesk, define: Define) -> None:
    """What a paused job has waiting stays held when the job is renamed, until the new name is resumed."""
    clock = ManualClock(NOON)
    old = define("quick", options={"window": replace(NIGHT, opens=time(13))})
    at = desk(old, clock=clock)
    run = await at.offer("quick")
    await waits_for(at, run, "window")
    at.runner.pause(Pause("quick", NOON))
    await waits_for(at, run, "paused")
    adopt(at, replace(old, name="quicker"), renamed={"quick": "quicker"})
    clock.advance(2 * HOUR)
    await settle(at)
    assert at.ledger(run).waiting_for == "paused"
    at.runner.resume("quicker")
    assert (await at.finished(run)).outcome == "succeeded"


def adopt(at: Any, job: Job, renamed: Mapping[str, str] | None = None) -> None:
    at.runner.adopt({job.name: job}, {job.name}, renamed or {}, max_runs=4, instance_limits={}, pools={})


async def test_a_beginning_that_the_state_refuses_keeps_no_slot_and_waits_for_its_window(
    desk: MakeDesk, define: Define
) -> None:
    """While the state is locked the window closes: the run starts with the next one, not when the lock goes."""
    clock = ManualClock(NOON.replace(hour=5))
    options = {"window": NIGHT, "start_by": 24 * HOUR}
    at = desk(define("quick", options=options), clock=clock)
    await at.store.write(impatient, None)
    run = await at.claim("quick")
    other = sqlite3.connect(at.store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    at.runner.offer([run])
    await at.hear("store.unavailable")
    clock.advance(2 * HOUR)
    other.execute("COMMIT")
    other.close()
    await settle(at)
    clock.advance(timedelta(seconds=1))
    await waits_for(at, run, "window")
    clock.advance(15 * HOUR)
    assert (await at.finished(run)).started_at >= NOON.replace(hour=22)
