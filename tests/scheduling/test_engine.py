"""The engine over a real store: hints, claims, the clock, and a store that refuses."""

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Literal

import pytest
import sqlalchemy
from sqlalchemy import Connection, event

from erpsync.core.calendar import spread_delay
from erpsync.core.clock import Clock, ManualClock, SystemClock
from erpsync.core.errors import StoreUnavailableError
from erpsync.core.job import After, At, Calendar, Cron, Every, Job, Manual, Window
from erpsync.core.run import AttemptOutcome, Outcome, Run, RunTrigger, State
from erpsync.running.endings import Endings
from erpsync.scheduling.engine import SWEEP, Engine
from erpsync.scheduling.handover import Succession, hand_over
from erpsync.scheduling.planner import UNKNOWN
from erpsync.scheduling.timetable import schedule_text
from erpsync.scheduling.trigger import build_trigger
from erpsync.store.history import find_run
from erpsync.store.ledger import (
    Begin,
    End,
    Finish,
    Wait,
    begin_attempts,
    end_attempts,
    finish_runs,
    set_waiting,
)
from erpsync.store.marks import Mark, read_marks, write_marks
from erpsync.store.pauses import Pause, read_pauses
from erpsync.store.state import Store
from tests.running.conftest import impatient
from tests.scheduling.conftest import Witness, until

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
DAY, HOUR, MINUTE, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
HOURLY = Job("orders", "orders", "mirror", schedules=(Cron("0 * * * *"),), catch_up="all")
QUICK = Job("quick", "quick", "noop", schedules=(Every(timedelta(milliseconds=50)),), overlap="allow")


def _engine(witness: Witness, clock: Clock, *jobs: Job) -> Engine:
    named = {job.name: job for job in jobs}
    return Engine(named, witness.store, clock, witness.emit, witness.on_claimed)


async def _finish(witness: Witness, run: Run) -> None:
    assert await witness.store.write(finish_runs, Finish(run.id, Outcome.SUCCEEDED, run.created_at))


async def _begin(witness: Witness, run: Run) -> None:
    assert await witness.store.write(begin_attempts, Begin(run, "us", run.created_at))


def _succeeded(run: Run) -> End:
    return End(run.id, 1, "us", run.created_at, AttemptOutcome.SUCCEEDED, State.FINISHED, Outcome.SUCCEEDED)


Handed = tuple[Run, Mapping[str, Sequence[Succession]]]


def _hand_over(connection: Connection, items: Sequence[Handed]) -> list[list[Run]]:
    """A store operation that hands runs over which have ended."""
    return [hand_over(connection, [run], rules, run.created_at) for run, rules in items]


def _ended(run_id: str) -> Run:
    """A run of the job "other" that succeeded."""
    return Run(
        run_id,
        "other",
        run_id,
        "noop",
        RunTrigger.MANUAL,
        NOON,
        state=State.FINISHED,
        outcome=Outcome.SUCCEEDED,
    )


def _covered(job: Job, runs: Sequence[Run]) -> list[datetime]:
    """The fire times that the runs of a job stand for, ranges spread out."""
    trigger, fires = build_trigger(job), []
    for run in runs:
        assert run.fire_at is not None
        last = run.fire_until or run.fire_at
        fires += takewhile(lambda fire, last=last: fire <= last, trigger.after(run.fire_at - SECOND / 1000))
    return fires


# -- on the real clock ---------------------------------------------------------------------------------


async def test_fire_times_become_durable_runs(store: Store, witness: Witness) -> None:
    """Twenty times a second a run is in the ledger by the time it is handed over, one for each fire time."""

    class Reader(Witness):
        def on_claimed(self, runs: Sequence[Run]) -> None:
            assert all(self.store.read_now(find_run, run.id) == run for run in runs)
            super().on_claimed(runs)

    reader = Reader(store)
    engine = _engine(reader, SystemClock(), QUICK)
    await engine.start()
    await until(lambda: len(reader.claimed) >= 6)
    await engine.stop()

    fires = _covered(QUICK, reader.ledger())
    assert fires == [fires[0] + number * timedelta(milliseconds=50) for number in range(len(fires))]
    assert store.read_now(read_marks)[QUICK.name].until == fires[-1]
    assert {run.state for run in reader.claimed} == {State.PENDING}
    assert reader.told("claim.failed") == []


async def test_a_restart_loses_and_doubles_nothing(witness: Witness) -> None:
    """What came due between two engines is in the ledger too, each fire time once."""
    for seen in (3, 6):
        engine = _engine(witness, SystemClock(), QUICK)
        await engine.start()
        await until(lambda seen=seen: len(witness.claimed) >= seen)
        await engine.stop()

    fires = _covered(QUICK, witness.ledger())
    assert fires == [fires[0] + number * timedelta(milliseconds=50) for number in range(len(fires))]


async def test_a_month_of_downtime_of_every_second_is_one_range(store: Store, witness: Witness) -> None:
    """The engine starts at once, with one missed range of unknown size and the newest fire time."""
    job = replace(QUICK, schedules=(Cron("* * * * * *"),))
    since = SystemClock().now() - timedelta(days=30)
    await store.write(write_marks, Mark(job.name, schedule_text(job), since))
    engine = _engine(witness, SystemClock(), job)
    await engine.start()
    await engine.stop()

    ranges = [run.reason for run in witness.ledger() if run.fire_count == UNKNOWN]
    assert ranges == ["catch_up_window", "late"]
    assert witness.claimed[0].trigger is RunTrigger.SCHEDULE


async def test_nothing_is_claimed_after_stop(witness: Witness) -> None:
    """Stop returns when the last claim is handed over; a second stop, or one before the start, is fine."""
    engine = _engine(witness, SystemClock(), QUICK)
    await engine.start()
    await until(lambda: witness.claimed)
    await engine.stop()
    claimed = len(witness.claimed)
    await engine.stop()
    await _engine(witness, SystemClock(), QUICK).stop()

    other = _engine(witness, SystemClock(), replace(QUICK, name="other"))
    await other.start()
    await until(lambda: [run for run in witness.claimed if run.job == "other"])
    await other.stop()
    assert len([run for run in witness.claimed if run.job == QUICK.name]) == claimed


# -- on a clock that is told -----------------------------------------------------------------------------


async def test_all_that_is_due_at_once_is_claimed_together_in_start_order(witness: Witness) -> None:
    """Three hundred jobs of one second are handed over in one call, by priority."""
    jobs = [replace(HOURLY, name=f"job-{n}", priority=n % 3) for n in range(300)]
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, *jobs)
    await engine.start()
    clock.advance(HOUR)
    await until(lambda: witness.calls)
    await engine.stop()

    (runs,) = witness.calls
    assert len(runs) == 300
    assert [run.priority for run in runs] == sorted((run.priority for run in runs), reverse=True)


async def test_fire_times_while_a_run_lives_are_one_growing_skip(witness: Witness) -> None:
    """A run that takes hours makes one skipped run, which grows; after its end the next one is claimed."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, HOURLY)
    await engine.start()
    for hours in range(1, 5):
        clock.advance(HOUR)
        await until(lambda hours=hours: engine.next_fire("orders") == NOON + (hours + 1) * HOUR)
        if hours == 1:
            await _begin(witness, witness.claimed[0])
    await witness.store.write(end_attempts, _succeeded(witness.claimed[0]))
    clock.advance(HOUR)
    await until(lambda: len(witness.claimed) == 2)
    await engine.stop()

    assert [(run.fire_at, run.fire_until, run.fire_count, run.reason) for run in witness.ledger()] == [
        (NOON + HOUR, None, 1, None),
        (NOON + 2 * HOUR, NOON + 4 * HOUR, 3, "overlap"),
        (NOON + 5 * HOUR, None, 1, None),
    ]
    assert [told["outcome"] for told in witness.told("run.finished")] == ["skipped"]
    assert [told["fire_count"] for told in witness.told("run.extended")] == [2, 3]


async def test_a_suspended_machine_finds_what_it_slept_through(witness: Witness) -> None:
    """Hours pass that nobody is awake for: the next sweep finds what was due, and tells how long it slept."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, HOURLY)
    await engine.start()
    clock.suspend(3 * HOUR)
    clock.advance(SWEEP)
    await until(lambda: witness.claimed)
    await engine.stop()

    assert [(run.fire_at, run.trigger.value) for run in witness.claimed] == [
        (NOON + HOUR, "catch_up"),
        (NOON + 2 * HOUR, "catch_up"),
        (NOON + 3 * HOUR, "schedule"),
    ]
    assert witness.told("clock.jumped") == [{"level": "warning", "kind": "suspend", "seconds": 10_800}]


async def test_time_that_passes_is_no_jump(witness: Witness) -> None:
    """However long the sweep was held up while the machine was awake."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, HOURLY)
    await engine.start()
    clock.advance(3 * HOUR)
    await until(lambda: witness.claimed)
    await engine.stop()

    assert witness.told("clock.jumped") == []


async def test_a_machine_that_slept_and_was_set_tells_both(witness: Witness) -> None:
    """A suspend of an hour during which the clock was put right by two is two jumps, each with its size."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, HOURLY)
    await engine.start()
    clock.suspend(HOUR)
    clock.step(-2 * HOUR)
    clock.advance(SWEEP)
    await until(lambda: len(witness.told("clock.jumped")) == 2)
    await engine.stop()

    told = [(told["kind"], told["seconds"]) for told in witness.told("clock.jumped")]
    assert told == [("suspend", 3600), ("back", -7200)]


async def test_a_clock_set_forward_is_told_and_caught_up(witness: Witness) -> None:
    """A step of hours is an event with its size; the fire times it passed follow the catch-up policy."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, HOURLY)
    await engine.start()
    clock.step(2 * HOUR)
    clock.advance(SWEEP)
    await until(lambda: len(witness.claimed) == 2)
    await engine.stop()

    assert [(told["kind"], told["seconds"]) for told in witness.told("clock.jumped")] == [("forward", 7200)]


async def test_a_clock_set_back_a_little_repeats_nothing(witness: Witness) -> None:
    """Two hours back: what was claimed stays the past, the next fire time is the one that it was."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, HOURLY)
    await engine.start()
    clock.advance(HOUR)
    await until(lambda: witness.claimed)
    await _finish(witness, witness.claimed[0])
    clock.step(-2 * HOUR)
    clock.advance(SWEEP)
    await until(lambda: witness.told("clock.jumped"))
    held = engine.next_fire("orders")
    clock.advance(3 * HOUR)
    await until(lambda: len(witness.claimed) == 2)
    await engine.stop()

    assert held == NOON + 2 * HOUR
    assert [run.fire_at for run in witness.ledger()] == [NOON + HOUR, NOON + 2 * HOUR]
    assert [(told["kind"], told["seconds"]) for told in witness.told("clock.jumped")] == [("back", -7200)]


async def test_a_correction_returns_to_the_present_and_repeats_nothing(witness: Witness) -> None:
    """A day back: fire times begin anew at the corrected time, but what the ledger has is not run again."""
    clock = ManualClock(NOON + 24 * HOUR)
    engine = _engine(witness, clock, HOURLY)
    await engine.start()
    clock.advance(HOUR)
    await until(lambda: witness.claimed)
    await _finish(witness, witness.claimed[0])
    clock.step(-25 * HOUR)
    clock.advance(SWEEP)
    await until(lambda: engine.next_fire("orders") == NOON + HOUR)
    for hours in range(1, 27):
        clock.advance(NOON + hours * HOUR - clock.now())
        await until(lambda hours=hours: engine.next_fire("orders") == NOON + (hours + 1) * HOUR)
        if len(witness.claimed) > hours:
            await _finish(witness, witness.claimed[-1])
    await engine.stop()

    assert sorted(run.fire_at for run in witness.claimed) == [NOON + hours * HOUR for hours in range(1, 27)]
    assert [told["kind"] for told in witness.told("clock.jumped")] == ["correction"]


async def test_steps_that_make_a_correction_together_tell_it_once(witness: Witness) -> None:
    """Twice two hours back: the second makes the marks return, and is told as what it is."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, HOURLY)
    await engine.start()
    for jumps in (1, 2):
        clock.step(-2 * HOUR)
        clock.advance(SWEEP)
        await until(lambda jumps=jumps: len(witness.told("clock.jumped")) == jumps)
    await until(lambda: engine.next_fire("orders") == NOON - 3 * HOUR)
    await engine.stop()

    assert [told["kind"] for told in witness.told("clock.jumped")] == ["back", "correction"]


async def test_a_daemon_without_schedules_survives_a_clock_set_back(witness: Witness) -> None:
    """Where no job has a mark yet, the sweep tells a step back and goes on: a job that comes later is swept too."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock)
    await engine.start()
    for jumps, by in enumerate((-HOUR, -HOUR), start=1):
        clock.step(by)
        clock.advance(SWEEP)
        await until(lambda jumps=jumps: len(witness.told("clock.jumped")) == jumps)
    await engine.stop()


async def test_a_clock_corrected_while_down_is_told_once(store: Store, witness: Witness) -> None:
    """Marks of the future return to now at the start, with one event for all of them."""
    jobs = [replace(HOURLY, name=f"job-{n}") for n in range(3)]
    for job in jobs:
        await store.write(write_marks, Mark(job.name, schedule_text(job), NOON + 48 * HOUR))
    engine = _engine(witness, ManualClock(NOON), *jobs)
    await engine.start()
    next_fires = {engine.next_fire(job.name) for job in jobs}
    await engine.stop()

    told = [(told["kind"], told["seconds"]) for told in witness.told("clock.jumped")]
    assert told == [("correction", -48 * 3600)]
    assert next_fires == {NOON + HOUR}


async def test_a_fire_time_that_came_up_again_by_a_correction_is_rung(witness: Witness) -> None:
    """A job of one instant that has passed has its alarm again when the clock goes back before it."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, replace(HOURLY, schedules=(At(NOON - HOUR),)))
    await engine.start()
    gone = engine.next_fire("orders")
    clock.step(-5 * HOUR)
    clock.advance(SWEEP)
    await until(lambda: engine.next_fire("orders"))
    clock.advance(4 * HOUR)
    await until(lambda: witness.claimed)
    await engine.stop()

    assert gone is None
    assert [run.fire_at for run in witness.claimed] == [NOON - HOUR]


# -- asked for ------------------------------------------------------------------------------------------


async def test_a_run_that_is_asked_for_is_claimed_at_once(witness: Witness) -> None:
    """It is pending, durable, knows who asked and what for, and needs no started engine."""
    engine = _engine(witness, ManualClock(NOON), replace(HOURLY, schedules=(Manual(),), priority=2))

    run = await engine.claim_manual("orders", "root", {"set": {"page": "7"}, "dry_run": True})

    assert (run.trigger, run.state, run.claim) == (RunTrigger.MANUAL, State.PENDING, f"manual:{run.id}")
    assert (run.requested_by, run.params, run.priority) == (
        "root",
        {"set": {"page": "7"}, "dry_run": True},
        2,
    )
    assert witness.ledger() == witness.claimed == [run]


async def test_a_run_that_is_asked_for_does_not_overlap(witness: Witness) -> None:
    """While one lives the next is recorded as skipped, unless the job allows more."""
    engine = _engine(witness, ManualClock(NOON), HOURLY, replace(HOURLY, name="free", overlap="allow"))

    runs = [await engine.claim_manual(name, "root", {}) for name in ("orders", "orders", "free", "free")]

    assert [run.outcome for run in runs] == [None, Outcome.SKIPPED, None, None]
    assert witness.ledger() == runs
    assert [run.id for run in witness.claimed] == [runs[0].id, runs[2].id, runs[3].id]
    assert [(told["run_id"], told["reason"]) for told in witness.told("run.finished")] == [
        (runs[1].id, "overlap")
    ]


async def test_the_next_fire_time_is_known_before_and_after_the_start(witness: Witness) -> None:
    """It is the nominal one, without the spread; a job that waits to be asked has none."""
    spread = replace(HOURLY, name="spread", spread=HOUR)
    asked = replace(HOURLY, name="asked", schedules=(Manual(),))
    engine = _engine(witness, ManualClock(NOON), HOURLY, spread, asked)

    before = [engine.next_fire(name) for name in ("orders", "spread", "asked")]
    await engine.start()
    after = [engine.next_fire(name) for name in ("orders", "spread", "asked")]
    await engine.stop()

    assert before == after == [NOON + HOUR, NOON + HOUR, None]


async def test_a_job_that_comes_back_begins_anew(witness: Witness) -> None:
    """Removed for two days, a job fires nothing of that time; what it left open is one missed range."""
    clock = ManualClock(NOON)
    for jobs in ([HOURLY], [], [HOURLY]):
        engine = _engine(witness, clock, *jobs)
        await engine.start()
        next_fire = engine.next_fire("orders") if jobs else None
        await engine.stop()
        clock.advance(24 * HOUR)

    assert next_fire == NOON + 49 * HOUR
    assert [(run.fire_at, run.fire_until, run.reason) for run in witness.ledger()] == [
        (NOON + HOUR, NOON + 24 * HOUR, "schedule_changed")
    ]


# -- a store that refuses -------------------------------------------------------------------------------


def _limit_pages(connection: Connection, limits: Sequence[int]) -> list[int]:
    """Let the database grow no further than to this many pages, or than it is."""
    return [connection.exec_driver_sql(f"PRAGMA max_page_count = {limit}").scalar_one() for limit in limits]


async def test_a_full_disk_starts_nothing_and_loses_nothing(store: Store, witness: Witness) -> None:
    """While there is no room nothing is handed over; it is told once as an error, and claimed when there is."""
    jobs = [replace(HOURLY, name=f"job-{n:03}" + "x" * 500) for n in range(100)]
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, *jobs)
    await engine.start()
    await store.write(_limit_pages, 1)
    clock.advance(HOUR)
    await until(lambda: len(witness.told("claim.failed")) >= 2)
    nothing = (witness.claimed[:], witness.ledger())
    await store.write(_limit_pages, 1_000_000)
    await until(lambda: witness.claimed)
    await engine.stop()

    assert nothing == ([], [])
    assert [run.fire_at for run in witness.ledger()] == [NOON + HOUR] * 100
    failed = witness.told("claim.failed")
    assert {"error"} == {told["level"] for told in failed[:1]}
    assert {"debug"} == {told["level"] for told in failed[1:]}
    assert (failed[0]["jobs"], failed[0]["error_type"]) == (100, "StoreUnavailableError")
    assert len(witness.told("claim.recovered")) == 1


async def test_a_state_that_was_moved_away_claims_nothing(
    store: Store, witness: Witness, tmp_path: Path
) -> None:
    """From that very moment on, for another daemon may claim the same from the state that takes its place."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, HOURLY)
    await engine.start()
    store.look_again = 0.0
    store.path.rename(tmp_path / "away.db")
    clock.advance(HOUR)
    await until(lambda: witness.told("claim.failed"))
    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        await engine.claim_manual(HOURLY.name, "ann", {})
    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        await engine.claim_backfill(HOURLY.name, "ann", "may", [(NOON, NOON + HOUR)])
    nothing = (witness.claimed[:], witness.ledger())
    (tmp_path / "away.db").rename(store.path)
    await until(lambda: witness.claimed)
    await engine.stop()

    assert nothing == ([], [])
    assert [run.fire_at for run in witness.ledger()] == [NOON + HOUR]


@pytest.mark.parametrize("catch_up", ["last", "none", "all"])
async def test_a_state_that_is_locked_for_a_minute_loses_no_second(
    store: Store, witness: Witness, catch_up: Literal["last", "none", "all"]
) -> None:
    """Whatever becomes of the fire times under a lock, each is in the ledger once, and nothing starts meanwhile."""
    clock = ManualClock(NOON)
    job = Job(
        "often",
        "often",
        "noop",
        schedules=(Cron("* * * * * *"),),
        overlap="allow",
        catch_up=catch_up,
        grace=5 * SECOND,
    )
    engine = _engine(witness, clock, job)
    await engine.start()
    await store.write(impatient, None)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for refusals in (1, 2):
        clock.advance(30 * SECOND)
        await until(lambda: len(witness.told("claim.failed")) >= refusals)  # noqa: B023
    nothing = (witness.claimed[:], witness.ledger())
    other.execute("ROLLBACK")
    other.close()
    await until(lambda: witness.told("claim.recovered"))
    clock.advance(SECOND)
    await until(lambda: max(run.fire_at for run in witness.claimed if run.fire_at) == NOON + 61 * SECOND)
    await engine.stop()

    assert nothing == ([], [])
    covered = Counter(
        run.fire_at + number * SECOND
        for run in witness.ledger()
        for number in range(run.fire_count)
        if run.fire_at
    )
    assert covered == Counter(NOON + number * SECOND for number in range(1, 62))


# -- pauses, overlap, names, blackouts -------------------------------------------------------------------


async def test_what_passed_in_a_pause_follows_catch_up_when_it_is_resumed(witness: Witness) -> None:
    """One skipped range, and the newest fire time caught up; the pause is durable, its end too."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, replace(HOURLY, catch_up="last"))
    await engine.start()
    await engine.pause("orders", reason="stock-taking", requested_by="root")
    clock.advance(4 * HOUR + 30 * MINUTE)
    await engine.stop()
    held = (witness.ledger(), engine.next_fire("orders"), engine.paused("orders"))

    again = _engine(witness, clock, replace(HOURLY, catch_up="last"))
    await again.start()
    quiet = witness.ledger()
    assert await again.resume("orders") is True
    assert await again.resume("orders") is False
    await again.stop()

    assert held == ([], None, Pause("orders", NOON, None, "stock-taking", "root"))
    assert quiet == []
    assert [(run.outcome, run.reason, run.fire_count, run.trigger.value) for run in witness.ledger()] == [
        (Outcome.SKIPPED, "paused", 3, "schedule"),
        (None, None, 1, "catch_up"),
    ]
    assert again.next_fire("orders") == NOON + 5 * HOUR
    assert witness.store.read_now(read_pauses) == {}
    assert [event for event, _ in witness.events if event.startswith("job.")] == ["job.paused", "job.resumed"]


async def test_a_pause_ends_when_its_time_has_come(witness: Witness) -> None:
    """Nobody resumes: the fire times of the pause are skipped, the first one after it is claimed."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, replace(HOURLY, catch_up="none"))
    await engine.start()
    await engine.pause("orders", until=NOON + 2 * HOUR + MINUTE)
    promised = engine.next_fire("orders")
    clock.advance(3 * HOUR)
    await until(lambda: witness.claimed)
    await engine.stop()

    assert promised == NOON + 3 * HOUR
    assert [(run.fire_at, run.fire_until, run.reason) for run in witness.ledger()] == [
        (NOON + HOUR, NOON + 2 * HOUR, "paused"),
        (NOON + 3 * HOUR, None, None),
    ]


async def test_a_pause_ends_in_its_time_after_a_restart_too(witness: Witness) -> None:
    """An engine that finds the pause in the state knows when to look at the job again."""
    clock, job = ManualClock(NOON), replace(HOURLY, catch_up="none")
    engine = _engine(witness, clock, job)
    await engine.start()
    await engine.pause("orders", until=NOON + 2 * HOUR + MINUTE)
    await engine.stop()

    again = _engine(witness, clock, job)
    await again.start()
    clock.advance(3 * HOUR)
    await until(lambda: witness.claimed)
    await again.stop()

    assert witness.claimed[0].fire_at == NOON + 3 * HOUR


async def test_a_paused_job_skips_what_is_asked_for(witness: Witness) -> None:
    """The ledger says why."""
    engine = _engine(witness, ManualClock(NOON), HOURLY)
    await engine.pause("orders")

    run = await engine.claim_manual("orders", "root", {})

    assert (run.outcome, run.reason, witness.claimed) == (Outcome.SKIPPED, "paused", [])


async def test_one_may_wait_behind_a_run_that_lives(witness: Witness) -> None:
    """With overlap = "queue" the second is claimed, the newer ones are one growing skip."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, replace(HOURLY, overlap="queue"))
    await engine.start()
    for hours in range(1, 5):
        clock.advance(HOUR)
        await until(lambda hours=hours: engine.next_fire("orders") == NOON + (hours + 1) * HOUR)
        if hours <= 2:
            await _begin(witness, witness.claimed[hours - 1])
    await engine.stop()

    assert [(run.fire_at, run.fire_count, run.reason) for run in witness.ledger()] == [
        (NOON + HOUR, 1, None),
        (NOON + 2 * HOUR, 1, None),
        (NOON + 3 * HOUR, 2, "overlap"),
    ]


async def test_a_new_run_takes_the_place_of_the_one_that_lives(witness: Witness) -> None:
    """With overlap = "replace" the ids to cancel are told before the new run is handed over; asked for too."""
    clock, told = ManualClock(NOON), []
    job = replace(HOURLY, overlap="replace")
    engine = Engine(
        {job.name: job},
        witness.store,
        clock,
        witness.emit,
        witness.on_claimed,
        lambda ids: told.append((len(witness.claimed), [*ids])),
    )
    await engine.start()
    for runs in (1, 2):
        clock.advance(HOUR)
        await until(lambda runs=runs: len(witness.claimed) == runs)
        await _begin(witness, witness.claimed[-1])
    await engine.claim_manual("orders", "root", {})
    await engine.stop()

    first, second, _ = (run.id for run in witness.claimed)
    assert told == [(1, [first]), (2, [first, second])]


async def test_what_waits_too_long_for_its_start_makes_room_for_the_next(witness: Witness) -> None:
    """A run that nobody could start until the next fire time is missed, with what it waited for."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, HOURLY)
    await engine.start()
    clock.advance(HOUR)
    await until(lambda: witness.claimed)
    await witness.store.write(set_waiting, Wait(witness.claimed[0].id, "window"))
    clock.advance(HOUR)
    await until(lambda: len(witness.claimed) == 2)
    await engine.stop()

    assert [(run.fire_at, run.outcome, run.reason) for run in witness.ledger()] == [
        (NOON + HOUR, Outcome.MISSED, "window"),
        (NOON + 2 * HOUR, None, None),
    ]
    assert [told["reason"] for told in witness.told("run.finished")] == ["window"]


PARKED_FOR_A_WHILE = {  # by catch_up: what the ledger has at last, and how the newest of it came about
    "all": [("caught up", 1), ("caught up", 1), ("caught up", 1)],
    "last": [("parked", 2), ("caught up", 1)],
    "none": [("parked", 3)],
}


@pytest.mark.parametrize("how", ["restart", "reload"])
@pytest.mark.parametrize("catch_up", PARKED_FOR_A_WHILE)
async def test_what_passed_while_a_job_was_parked_follows_catch_up_once_it_can_run(
    witness: Witness, catch_up: Literal["all", "last", "none"], how: str
) -> None:
    """Until then it is one skipped range that grows, also over a restart; a neighbour misses nothing."""
    clock = ManualClock(NOON)
    job = replace(HOURLY, catch_up=catch_up)
    jobs = {job.name: job, "good": replace(HOURLY, name="good", overlap="allow")}
    for _ in range(2):
        engine = Engine(jobs, witness.store, clock, witness.emit, witness.on_claimed, parked=[job.name])
        await engine.start()
        clock.advance(HOUR)
        await until(lambda engine=engine: engine.next_fire(job.name) > clock.now())
        await engine.stop()
    engine = Engine(jobs, witness.store, clock, witness.emit, witness.on_claimed, parked=[job.name])
    await engine.start()
    clock.advance(HOUR)
    await until(lambda: engine.next_fire("orders") == NOON + 4 * HOUR)
    (range_,) = [run for run in witness.ledger() if run.job == "orders"]
    clock.advance(MINUTE * 10)
    if how == "reload":
        await engine.adopt(engine.prepare(jobs), lambda renamed: None)
    await engine.stop()
    engine = Engine(jobs, witness.store, clock, witness.emit, witness.on_claimed)
    await engine.start()
    await engine.stop()

    assert (range_.outcome, range_.reason, range_.fire_count) == (Outcome.SKIPPED, "parked", 3)
    mine = [run for run in witness.ledger() if run.job == "orders"]
    assert [
        ("caught up" if run.trigger is RunTrigger.CATCH_UP else run.reason, run.fire_count) for run in mine
    ] == PARKED_FOR_A_WHILE[catch_up]
    assert (mine[0].fire_at, mine[-1].fire_until or mine[-1].fire_at) == (NOON + HOUR, NOON + 3 * HOUR)
    assert [run.trigger.value for run in witness.ledger() if run.job == "good"] == ["schedule"] * 3


async def test_a_wish_that_is_asked_again_is_the_same_run(witness: Witness) -> None:
    """Also while its first run lives, which would else be an overlap; it is handed over once."""
    engine = _engine(witness, ManualClock(NOON), HOURLY)
    first, second = [await engine.claim_manual("orders", "root", {}, wish="wish-1") for _ in range(2)]
    other = await engine.claim_manual("orders", "root", {}, wish="wish-2")
    assert (second, other.reason) == (first, "overlap")
    assert witness.calls == [[first]]


async def test_a_parked_job_that_comes_after_another_is_skipped(witness: Witness) -> None:
    """Its parent's run is consumed, and the ledger says why nothing came of it."""
    child = Job("c", "c", "noop", schedules=(After(("orders",)),))
    jobs = {"orders": HOURLY, "c": child}
    engine = Engine(jobs, witness.store, ManualClock(NOON), witness.emit, witness.on_claimed, parked=["c"])
    await engine.start()
    run = await engine.claim_manual("orders", "root", {})
    done = replace(run, state=State.FINISHED, outcome=Outcome.SUCCEEDED)
    (handed,) = await witness.store.write(_hand_over, (done, engine.rules))
    await engine.stop()

    assert (handed.job, handed.outcome, handed.reason) == ("c", Outcome.SKIPPED, "parked")


@pytest.mark.parametrize(
    ("step", "kind", "runs", "missed", "following"),
    [
        (32 * MINUTE, "forward", ["schedule"], {}, 2 * HOUR),  # within its grace
        (3 * HOUR, "forward", ["catch_up"], {"late": 2}, 4 * HOUR),
        (30 * DAY, "forward", ["catch_up"], {"late": 23, "catch_up_window": 696}, 30 * DAY + HOUR),
        (3652 * DAY, "forward", ["catch_up"], {"late": 23, "catch_up_window": UNKNOWN}, 3652 * DAY + HOUR),
        (-HOUR, "back", [], {}, HOUR),
        (-3 * HOUR + MINUTE, "back", [], {}, HOUR),
        (-4 * HOUR, "correction", [], {}, -3 * HOUR),
        (-3652 * DAY, "correction", [], {}, -3652 * DAY + HOUR),
    ],
)
async def test_each_class_of_a_clock_jump_has_its_answer(
    witness: Witness,
    step: timedelta,
    kind: str,
    runs: list[str],
    missed: dict[str, int],
    following: timedelta,
) -> None:
    """Forward the catch-up decides, back a little the marks hold, back far they return; each is told once, and what
    comes next is due in its time."""
    clock = ManualClock(NOON - HOUR)
    engine = _engine(witness, clock, replace(HOURLY, catch_up="last", overlap="allow"))
    await engine.start()
    clock.advance(HOUR + MINUTE)
    await until(lambda: witness.claimed)
    clock.advance(30 * MINUTE)

    clock.step(step)
    clock.advance(SWEEP)
    await until(lambda: witness.told("clock.jumped"))
    await until(lambda: engine.next_fire("orders") == NOON + following)
    clock.advance(NOON + following + MINUTE - clock.now())
    await until(lambda: len(witness.claimed) == len(runs) + 2)
    await engine.stop()

    assert [told["kind"] for told in witness.told("clock.jumped")] == [kind]
    assert [run.trigger.value for run in witness.claimed] == ["schedule", *runs, "schedule"]
    assert witness.claimed[-1].fire_at == NOON + following
    ended = [run for run in witness.ledger() if run.outcome is not None]
    assert {run.reason: run.fire_count for run in ended} == missed


async def test_a_renamed_job_goes_on_where_it_was(witness: Witness) -> None:
    """What came due between the two names is caught up under the new one; nothing is left of the old."""
    clock = ManualClock(NOON)
    for job in (HOURLY, replace(HOURLY, name="sales", formerly=("orders",), catch_up="last")):
        engine = _engine(witness, clock, job)
        await engine.adopt_former()
        await engine.start()
        await engine.stop()
        clock.advance(3 * HOUR)

    assert [(run.job, run.fire_at, run.reason) for run in witness.ledger()] == [
        ("sales", NOON + HOUR, "late"),
        ("sales", NOON + 3 * HOUR, None),
    ]
    assert witness.store.read_now(read_marks).keys() == {"sales"}
    assert witness.told("job.renamed") == [{"level": "info", "job": "sales", "former": "orders"}]


async def test_a_name_that_is_known_already_takes_nothing_over_and_says_so(witness: Witness) -> None:
    """At a start and at a reload, as long as the files want what cannot be."""
    heir = replace(HOURLY, name="sales", formerly=("orders",))
    engine = _engine(witness, ManualClock(NOON), HOURLY, replace(HOURLY, name="sales"))
    await engine.start()
    await engine.adopt(engine.prepare({"sales": heir}), lambda renamed: None)
    await engine.stop()
    assert engine.left_behind == {"orders": "sales"}
    again = _engine(witness, ManualClock(NOON), heir)
    await again.adopt_former()

    assert again.left_behind == {"orders": "sales"}
    assert witness.told("job.renamed") == []
    told = witness.told("rename.refused")
    assert [(each["level"], each["job"], each["former"]) for each in told] == [
        ("warning", "sales", "orders")
    ] * 2
    assert {"orders", "sales"} <= witness.store.read_now(read_marks).keys()
    await again.adopt(again.prepare({"sales": replace(heir, formerly=())}), lambda renamed: None)
    assert again.left_behind == {}


async def test_what_passed_under_a_wrong_clock_is_given_back_by_its_correction(witness: Witness) -> None:
    """Down for two hours, up with a clock ten hours ahead: of the misses those stay that had really passed, the one
    that was caught up stays a run, and all others run when their time has come, after a restart too."""
    clock = ManualClock(NOON)
    job = replace(HOURLY, catch_up="last", overlap="allow")
    engine = _engine(witness, clock, job)
    await engine.start()
    await engine.stop()
    clock.advance(2 * HOUR + 30 * MINUTE)
    clock.step(8 * HOUR)
    engine = _engine(witness, clock, job)
    await engine.start()
    wrong = [(run.fire_at, run.fire_count, run.reason) for run in witness.ledger()]
    clock.step(-8 * HOUR)
    clock.advance(SWEEP)
    await until(lambda: engine.next_fire("orders") == NOON + 3 * HOUR)
    right = [(run.fire_at, run.fire_count, run.reason) for run in witness.ledger()]
    await engine.stop()
    engine = _engine(witness, clock, job)
    await engine.start()
    for hours in range(3, 12):
        clock.advance(NOON + hours * HOUR - clock.now())
        await until(lambda hours=hours: engine.next_fire("orders") == NOON + (hours + 1) * HOUR)
    await engine.stop()

    assert wrong == [(NOON + HOUR, 9, "late"), (NOON + 10 * HOUR, 1, None)]
    assert right == [(NOON + HOUR, 2, "late"), (NOON + 10 * HOUR, 1, None)]
    assert sorted(run.fire_at for run in witness.claimed) == [NOON + hour * HOUR for hour in range(3, 12)]
    assert [told["kind"] for told in witness.told("clock.jumped")] == ["correction"]


async def test_a_correction_counts_a_range_by_the_schedule_that_made_it(witness: Witness) -> None:
    """Every ten minutes while the clock was ahead, every seven since: what had really passed are tens, also when the
    engine that corrects it has only the state to go by."""
    clock = ManualClock(NOON)
    job = replace(HOURLY, schedules=(Every(10 * MINUTE),), catch_up="none", grace=MINUTE)
    changed = replace(job, schedules=(Every(7 * MINUTE),))
    for schedule, step in (
        (job, 8 * HOUR + 3 * MINUTE),
        (job, HOUR),
        (changed, -5 * HOUR),
        (changed, 0 * HOUR),
    ):
        engine = _engine(witness, clock, schedule)
        await engine.start()
        await engine.stop()
        clock.step(step)

    first = witness.ledger()[0]
    assert (first.fire_at, first.fire_until) == (NOON + 10 * MINUTE, NOON + 4 * HOUR)
    assert first.fire_count == 24


async def test_a_range_does_not_grow_across_a_run_of_a_wrong_clock(witness: Witness) -> None:
    """Misses before and after a fire time that ran ahead of its time are two ranges: each fire time has one run."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, replace(HOURLY, catch_up="none", overlap="allow"))
    await engine.start()
    clock.step(10 * HOUR)
    clock.advance(SWEEP)
    await until(lambda: witness.claimed)
    clock.step(-10 * HOUR)
    clock.advance(SWEEP)
    await until(lambda: engine.next_fire("orders") == NOON + HOUR)
    for hours in (9, 10, 13):
        clock.advance(NOON + hours * HOUR + 30 * MINUTE - clock.now())
        await until(lambda hours=hours: engine.next_fire("orders") == NOON + (hours + 1) * HOUR)
    await engine.stop()

    assert [(run.fire_at, run.fire_count, run.reason) for run in witness.ledger()] == [
        (NOON + 10 * HOUR, 1, None),
        (NOON + HOUR, 9, "catch_up_none"),
        (NOON + 11 * HOUR, 3, "catch_up_none"),
    ]


async def test_what_a_wrong_clock_gave_back_is_no_parent(witness: Witness) -> None:
    """A miss that is taken out of the ledger again is not what a child goes on from."""
    clock = ManualClock(NOON)
    jobs = [
        replace(HOURLY, catch_up="none"),
        replace(HOURLY, name="other", schedules=(Manual(),)),
        Job("report", "report", "noop", schedules=(After(("orders", "other")),)),
    ]
    engine = _engine(witness, clock, *jobs)
    await engine.start()
    clock.step(10 * HOUR + 30 * MINUTE)
    clock.advance(SWEEP)
    await until(lambda: engine.next_fire("orders") == NOON + 11 * HOUR)
    clock.step(-10 * HOUR - 30 * MINUTE)
    clock.advance(SWEEP)
    await until(lambda: engine.next_fire("orders") == NOON + HOUR)
    await engine.stop()

    assert witness.ledger() == []
    assert await witness.store.write(_hand_over, (_ended("other"), engine.rules)) == []


async def test_a_paused_job_is_corrected_too(witness: Witness) -> None:
    """Its mark returns to now at once, not when the pause ends: what comes meanwhile is in the ledger."""
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, replace(HOURLY, catch_up="none"))
    await engine.start()
    clock.step(10 * HOUR)
    clock.advance(SWEEP)
    await until(lambda: witness.ledger())
    await engine.pause("orders")
    clock.step(-10 * HOUR)
    clock.advance(SWEEP)
    await until(lambda: len(witness.ledger()) == 1)
    clock.advance(12 * HOUR + 30 * MINUTE)
    await engine.resume("orders")
    await engine.stop()

    assert [(run.fire_at, run.fire_count) for run in witness.ledger()] == [
        (NOON + 10 * HOUR, 1),
        (NOON + HOUR, 9),
        (NOON + 11 * HOUR, 2),
    ]


async def test_a_paused_job_that_changes_begins_anew_at_once(witness: Witness) -> None:
    """Removed, or with another schedule, its old one ends with the restart; the pause goes on with the new one."""
    clock = ManualClock(NOON)
    often = replace(HOURLY, schedules=(Every(30 * MINUTE),), catch_up="none")
    engine = _engine(witness, clock, HOURLY, replace(HOURLY, name="gone"))
    await engine.start()
    for name in ("orders", "gone"):
        await engine.pause(name)
    await engine.stop()
    clock.advance(2 * HOUR + MINUTE)
    engine = _engine(witness, clock, often)
    await engine.start()
    changed = [(run.job, run.fire_count, run.reason) for run in witness.ledger()]
    paused = engine.paused("orders")
    clock.advance(HOUR + 10 * MINUTE)
    await engine.resume("orders")
    await engine.stop()

    assert sorted(changed) == [("gone", 2, "schedule_changed"), ("orders", 2, "schedule_changed")]
    assert paused is not None
    assert [(run.fire_at, run.fire_count, run.reason) for run in witness.ledger()[2:]] == [
        (NOON + 2 * HOUR + 30 * MINUTE, 2, "paused")
    ]


async def test_a_parents_miss_is_handed_over_in_the_claim(witness: Witness) -> None:
    """What comes after a job that was missed is skipped in the same transaction."""
    clock = ManualClock(NOON)
    parent = replace(HOURLY, catch_up="none", grace=timedelta(0))
    child = Job("report", "report", "noop", schedules=(After(("orders",)),))
    engine = _engine(witness, clock, parent, child)
    await engine.start()
    clock.advance(HOUR + MINUTE)
    await until(lambda: engine.next_fire("orders") == NOON + 2 * HOUR)
    await engine.stop()

    assert [(run.job, run.outcome, run.reason) for run in witness.ledger()] == [
        ("orders", Outcome.MISSED, "catch_up_none"),
        ("report", Outcome.SKIPPED, "parent"),
    ]


async def test_a_child_that_is_replaced_by_a_claim_is_told(witness: Witness) -> None:
    """A parent's miss claims its child, whose live run is to be cancelled: its id is told before the new one."""
    clock, told = ManualClock(NOON), []
    parent = replace(HOURLY, catch_up="none", grace=timedelta(0))
    after = After(("orders",), frozenset({Outcome.MISSED}))
    child = Job("report", "report", "noop", schedules=(after,), overlap="replace")
    engine = Engine(
        {"orders": parent, "report": child}, witness.store, clock, witness.emit, witness.on_claimed,
        lambda ids: told.append((len(witness.claimed), [*ids])),
    )  # fmt: skip
    await engine.start()
    lives = await engine.claim_manual("report", "root", {})
    clock.advance(HOUR + MINUTE)
    await until(lambda: len(witness.claimed) == 2)
    await engine.stop()

    assert [run.trigger for run in witness.claimed] == [RunTrigger.MANUAL, RunTrigger.AFTER]
    assert told == [(1, [lives.id])]


async def test_each_night_has_its_own_record_of_what_comes_after(witness: Witness) -> None:
    """One parent is blacked out for two nights: the child is skipped in both, and goes on in the third."""
    clock = ManualClock(NOON)
    dark = Calendar("free", dates=frozenset({date(2026, 3, 29), date(2026, 3, 30)}))
    first = replace(HOURLY, name="a", schedules=(Cron("0 3 * * *"),), blackout=(dark,))
    second = replace(HOURLY, name="b", schedules=(Cron("0 4 * * *"),))
    child = Job("c", "c", "noop", schedules=(After(("a", "b")),))
    grandchild = Job("d", "d", "noop", schedules=(After(("c",)),))
    engine = _engine(witness, clock, first, second, child, grandchild)
    endings = Endings(lambda connection, ended, now: hand_over(connection, ended, engine.rules, now))
    nights = []
    await engine.start()
    for day in range(29, 33):
        for job, hour in (("a", 3), ("b", 4)):
            clock.advance(datetime(2026, 3, 1, hour, 1, tzinfo=UTC) + (day - 1) * DAY - clock.now())
            await until(lambda job=job: engine.next_fire(job) > clock.now())
            while live := [run for run in witness.ledger() if run.state is State.PENDING]:
                await witness.store.write(endings.finish, Finish(live[0].id, Outcome.SUCCEEDED, clock.now()))
        nights.append(Counter(run.job for run in witness.ledger() for _ in range(run.fire_count)))
    await engine.stop()

    assert nights == [{"a": n, "b": n, "c": n, "d": n} for n in range(1, 5)]
    found = [[run for run in witness.ledger() if run.job == job] for job in "abcd"]
    assert [[(run.outcome, run.fire_count) for run in runs] for runs in found[2:]] == [
        [(Outcome.SKIPPED, 2), (Outcome.SUCCEEDED, 1), (Outcome.SUCCEEDED, 1)],
    ] * 2
    assert found[2][1].parents == tuple(sorted((found[0][1].id, found[1][2].id)))


async def test_a_range_of_a_parent_is_handed_over_whenever_it_grows(witness: Witness) -> None:
    """A child that wants what was missed runs for each, by a claim of its own: the range and up to where it goes."""
    clock = ManualClock(NOON + MINUTE)
    parent = replace(HOURLY, catch_up="none", grace=timedelta(0))
    after = After(("orders",), frozenset({Outcome.MISSED}))
    child = Job("report", "report", "noop", schedules=(after,), overlap="allow")
    engine = _engine(witness, clock, parent, child)
    await engine.start()
    for hours in (1, 2, 3):
        clock.advance(HOUR)
        await until(lambda hours=hours: len(witness.claimed) == hours)
    await engine.stop()

    missed, *children = witness.ledger()
    assert (missed.fire_count, [run.claim for run in children]) == (
        3,
        [
            f"after:{missed.id}",
            f"after:{missed.id}+2026-03-28T14:00:00Z",
            f"after:{missed.id}+2026-03-28T15:00:00Z",
        ],
    )
    assert {run.parents for run in children} == {(missed.id,)}


async def test_a_look_hands_over_the_newest_end_of_a_parent(witness: Witness) -> None:
    """Two nights of downtime are a range that grows and a newer one beside it: one record of the child."""
    clock = ManualClock(NOON)
    parent = replace(HOURLY, catch_up="last", catch_up_window=2 * HOUR, grace=timedelta(0))
    child = Job("report", "report", "noop", schedules=(After(("orders",), frozenset({Outcome.MISSED})),))
    engine = _engine(witness, clock, parent, child)
    await engine.start()
    await engine.stop()
    clock.advance(6 * HOUR + MINUTE)
    again = _engine(witness, clock, parent, child)
    await again.start()
    await again.stop()

    ledger = {run.id: run for run in witness.ledger()}
    (run,) = [run for run in ledger.values() if run.job == "report"]
    assert [(ledger[parent].reason) for parent in run.parents] == ["late"]
    assert {run.reason for run in ledger.values()} == {None, "late", "catch_up_window"}


async def test_the_next_start_is_moved_by_blackout_window_and_spread(witness: Witness) -> None:
    """A skipped day is passed over, a postponed one waits for its end, then the window decides."""
    free = (Calendar("free", dates=frozenset({date(2026, 3, 28)})),)
    jobs = {
        "window": replace(HOURLY, window=Window(time(22), time(6))),
        "skip": replace(HOURLY, blackout=free),
        "postpone": replace(HOURLY, blackout=free, on_blackout="postpone", window=Window(time(1), time(2))),
        "spread": replace(HOURLY, spread=30 * MINUTE),
    }
    engine = _engine(witness, ManualClock(NOON), *(replace(job, name=name) for name, job in jobs.items()))

    assert engine.next_start("window") == NOON + 10 * HOUR
    assert engine.next_start("skip") == NOON + 12 * HOUR
    assert engine.next_start("postpone") == NOON + 13 * HOUR
    assert engine.next_start("spread") == NOON + HOUR + spread_delay("spread", 30 * MINUTE)


# -- scale ----------------------------------------------------------------------------------------------


async def test_two_thousand_jobs_of_one_second_are_one_transaction(witness: Witness) -> None:
    """They are durable before the first is handed over, in one call, in the order of their priority."""
    jobs = [replace(HOURLY, name=f"job-{n:04}", priority=n % 7) for n in range(2000)]
    clock = ManualClock(NOON)
    engine = _engine(witness, clock, *jobs)
    await engine.start()
    commits: list[object] = []

    def note(connection: Connection) -> None:
        commits.append(connection)

    event.listen(sqlalchemy.Engine, "commit", note)
    try:
        clock.advance(HOUR)
        await until(lambda: witness.calls)
        await engine.stop()
    finally:
        event.remove(sqlalchemy.Engine, "commit", note)

    assert len(commits) == 1
    (runs,) = witness.calls
    assert len(runs) == len({run.job for run in runs}) == 2000
    assert [run.priority for run in runs] == sorted((run.priority for run in runs), reverse=True)
    assert len({run.created_at for run in runs}) == 1


async def test_ten_thousand_jobs_are_planned_and_again_after_a_restart(witness: Witness) -> None:
    """The first look marks them all, the one after a restart finds nothing new."""
    jobs = [replace(HOURLY, name=f"job-{n:05}", timezone="Europe/Sofia") for n in range(10_000)]
    for _ in range(2):
        engine = _engine(witness, ManualClock(NOON), *jobs)
        await engine.start()
        await engine.stop()
        assert len(witness.store.read_now(read_marks)) == 10_000
    assert witness.ledger() == []
