"""The end of a run is the beginning of those that come after it, in one transaction."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from erpsync.core.job import After, Job
from erpsync.core.run import Outcome, Run, RunTrigger
from erpsync.running.endings import HandOver
from erpsync.scheduling.handover import hand_over, successions
from erpsync.store.history import RunFilter, list_runs
from erpsync.store.ledger import Begin, begin_attempts

MakeDesk = Callable[..., Any]
Define = Callable[..., Job]
DAEMON = Path(__file__).parent / "daemon.py"

pytestmark = pytest.mark.asyncio(loop_scope="module")


def rules(*jobs: Job) -> HandOver:
    """What the daemon gives the runner."""
    known = successions(jobs)

    def handed_over(connection: Connection, finished: Sequence[Run], now: datetime) -> list[Run]:
        return hand_over(connection, finished, known, now)

    return handed_over


def after(*parents: str, on: frozenset[Outcome] | None = None, **options: Any) -> dict[str, Any]:
    return {"schedules": (After(parents, on) if on else After(parents),), **options}


def runs_of(at: Any, job: str) -> list[Run]:
    found: list[Run] = at.store.read_now(list_runs, RunFilter(jobs=(job,)))
    return found


async def run_of(at: Any, job: str) -> Run:
    """The only run of a job, once it has ended."""
    await at.until(lambda: runs_of(at, job))
    (run,) = runs_of(at, job)
    ended: Run = await at.finished(run)
    return ended


async def test_child_runs_after_all_its_parents(desk: MakeDesk, define: Define) -> None:
    """The run of a job with two parents begins when the second has ended, and knows both; so does its own child."""
    child = define("quick", name="child", options=after("a", "b"))
    grandchild = define("quick", name="grandchild", options=after("child"))
    parents = [define("quick", name=name) for name in ("a", "b")]
    at = desk(*parents, child, grandchild, hand_over=rules(child, grandchild))
    first = await at.run("a")
    assert runs_of(at, "child") == []
    second = await at.run("b")
    run = await run_of(at, "child")
    assert (run.outcome, run.trigger, set(run.parents)) == (
        "succeeded",
        RunTrigger.AFTER,
        {first.id, second.id},
    )
    assert (await run_of(at, "grandchild")).parents == (run.id,)
    assert [fields["job"] for fields in at.told("run.claimed")] == ["child", "grandchild"]


async def test_failed_parent_skips_the_child(desk: MakeDesk, define: Define) -> None:
    """An outcome that the child does not go on from records one skipped run, which is told."""
    child = define("quick", name="child", options=after("failing"))
    at = desk(define("failing", attempts=["TargetError"]), child, hand_over=rules(child))
    assert (await at.run("failing")).outcome == "failed"
    run = await run_of(at, "child")
    assert (run.outcome, run.reason, run.attempts) == ("skipped", "parent", 0)
    told = next(fields for fields in at.told("run.finished") if fields["job"] == "child")
    assert (told["level"], told["reason"]) == ("warning", "parent")


@pytest.mark.parametrize("how", ["cancelled", "replaced"])
async def test_run_that_never_began_hands_over_too(desk: MakeDesk, define: Define, how: str) -> None:
    """A parent that ends while it waits is an end like any other."""
    child = define("quick", name="child", options=after("gate", on=frozenset({Outcome.CANCELLED})))
    at = desk(define("gate"), child, hand_over=rules(child))
    first, second = await at.offer("gate"), await at.offer("gate")
    await at.until(lambda: at.ledger(second).waiting_for == "queue")
    if how == "cancelled":
        await at.runner.cancel(second.id, "alice")
    else:
        at.runner.replace([second.id])
    assert (await run_of(at, "child")).parents == (second.id,)
    await at.runner.cancel(first.id, "alice")
    await at.finished(first)


async def test_child_that_replaces_ends_its_older_run(desk: MakeDesk, define: Define) -> None:
    """A child with overlap = "replace" whose run is still going on is begun anew after its next parent."""
    child = define("gate", name="child", options=after("quick", overlap="replace"))
    at = desk(define("quick"), child, hand_over=rules(child))
    await at.run("quick")
    await at.until(lambda: len(at.runner.running()) == 1)
    (older,) = runs_of(at, "child")
    await at.run("quick")
    ended = await at.finished(older)
    assert (ended.outcome, ended.reason) == ("cancelled", "replaced")
    newer = next(run for run in runs_of(at, "child") if run.id != older.id)
    await at.until(lambda: [run.id for run in at.runner.running()] == [newer.id])
    await at.runner.cancel(newer.id, "alice")
    await at.finished(newer)


async def test_parent_without_its_child_has_not_ended(desk: MakeDesk, define: Define) -> None:
    """Where the child cannot be claimed nothing of its parent's end is written, and others' ends are."""

    def refused(connection: Connection, finished: Sequence[Run], now: datetime) -> list[Run]:
        if finished[0].job == "refused":
            raise RuntimeError("no claim today")
        return []

    at = desk(define("quick"), define("quick", name="refused"), hand_over=refused)
    run = await at.offer("refused")
    assert (await at.hear("run.lost"))["run_id"] == run.id
    assert at.ledger(run).state == "running"
    assert (await at.run("quick")).outcome == "succeeded"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_kill_at_the_end_of_the_parent_claims_once(
    desk: MakeDesk, define: Define, tmp_path: Path, when: str
) -> None:
    """A daemon killed before or after the child is written, but before the commit, leaves a parent to end again."""
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, str(DAEMON), str(tmp_path), "quick", json.dumps({}), when
    )
    async with asyncio.timeout(20):
        assert await daemon.wait() == -signal.SIGKILL
    child = define("quick", name="child", options=after("quick"))
    parent = define("quick", options={"repeatable": True})
    at = desk(parent, child, hand_over=rules(child))
    (unended,) = runs_of(at, "quick")
    assert (unended.state, runs_of(at, "child")) == ("running", [])
    await at.runner.start()
    assert (await run_of(at, "child")).outcome == "succeeded"
    assert at.attempts(unended) == ["lost", "succeeded"]


async def test_start_hands_over_what_it_gives_up(desk: MakeDesk, define: Define) -> None:
    """A parent that a start abandons is handed over by that start."""
    child = define("quick", name="child", options=after("once-gate", on=frozenset({Outcome.ABANDONED})))
    at = desk(define("once-gate"), child, hand_over=rules(child))
    run = await at.claim("once-gate")
    await at.store.write(begin_attempts, Begin(run, "dead:1", at.clock.now()))
    await at.runner.start()
    assert (await run_of(at, "child")).parents == (run.id,)
