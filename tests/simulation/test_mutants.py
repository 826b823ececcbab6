"""That simulated nights find mistakes: each of these, made in the code on purpose, is found."""

import traceback
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from erpsync.core.run import Run, RunTrigger
from erpsync.scheduling import handover, planner
from tests.simulation.virtual_store import empty_state
from tests.simulation.world import World, new_world

WORLDS = 60
_due, _chosen, _leave = planner._due, planner._chosen, handover._leave


def _nothing(*_: Any) -> list[Any]:
    return []


def _always(*_: Any) -> bool:
    return True


def _never(*_: Any) -> bool:
    return False


def _leave_first(connection: Any, child: str, parent: Run) -> None:
    if (child, parent.job) not in handover.read_left(connection):
        _leave(connection, child, parent)


def _only_on_time(*look: Any) -> tuple[list[Any], bool]:
    chosen, on_time = _chosen(*look)
    return (chosen[-1:] if on_time else []), on_time


MUTANTS: dict[str, tuple[str, Any]] = {
    "the oldest of what is due is forgotten": ("scheduling.planner._due", lambda *look: _due(*look)[1:]),
    "marks stay where they are": ("scheduling.claim.write_marks", _nothing),
    "the grace is nothing": ("scheduling.planner._chosen", lambda look, fires, window: ([], False)),
    "nothing is ever planned": ("scheduling.planner._plan_job", lambda look, mark: ((), None)),
    "nobody sweeps": ("scheduling.engine.Engine._sweep", _nothing),
    "a wrong clock is never corrected": ("scheduling.planner.CORRECTION", timedelta(days=9999)),
    "everything overlaps": ("scheduling.planner.room", lambda job, live, wanted: 0),
    "overlap is not looked at": ("scheduling.planner.room", lambda job, live, wanted: wanted),
    "blackouts are not looked at": ("core.calendar._dark_day", _never),
    "windows are not looked at": ("running.waiting.opens_at", lambda job, instant: None),
    "windows do not end": ("running.escalation.window_end", lambda job, instant: instant.replace(year=2099)),
    "everybody may wait for ever": (
        "running.waiting.start_deadline",
        lambda job, run, following: run.created_at.replace(year=2099),
    ),
    "back-offs of a wrong clock stay": ("running.recovery._as_drawn", lambda run, job, ended, now: run),
    "who waits is late at once": (
        "running.waiting.start_deadline",
        lambda job, run, following: run.created_at,
    ),
    "who waits is late at the next look": (
        "scheduling.claim.start_deadline",
        lambda job, run, following: run.created_at,
    ),
    "nothing is caught up": ("scheduling.planner._chosen", _only_on_time),
    "what is missed is late": ("scheduling.planner._miss", lambda job, outside_window: "late"),
    "pauses are no reason": ("scheduling.planner._Look.is_paused", _never),
    "nobody is somebody": (
        "scheduling.claim.plan",
        lambda *look, **more: planner.plan(*look, **{**more, "unable": {}}),
    ),
    "slices are ends, and retries are none": (
        "scheduling.handover.RunTrigger",
        SimpleNamespace(BACKFILL=RunTrigger.RETRY, AFTER=RunTrigger.AFTER),
    ),
    "it is always a run's turn": ("running.turns.Turns.join", _always),
    "nobody's turn comes": ("running.turns.Turns.leave", lambda turns, run: None),
    "pools have no limit": ("running.admission.Admission._is_pool_full", _never),
    "instances have no limit": ("running.admission.Admission._is_instance_full", _never),
    "slots are not given back": ("running.admission.Admission.release", _nothing),
    "priorities are not looked at": (
        "running.admission.Admission._rank",
        lambda admission, lane: admission._queues[lane][0][2:4],
    ),
    "replaced runs go on": ("running.runner.Runner.replace", _nothing),
    "children get nothing": ("scheduling.handover._leave", _nothing),
    "children get the oldest": ("scheduling.handover._leave", _leave_first),
    "what grows is handed to nobody": ("scheduling.claim.find_runs", lambda connection, ids: {}),
    "a new name knows nothing": ("store.rename._rename", _never),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MUTANTS)
def test_mistake_is_found(mistake: str, tmp_path: Path) -> None:
    """A few hundred nights with the mistake, at most, and the auditors have something to say."""
    place, mutant = MUTANTS[mistake]
    empty = empty_state(tmp_path)
    with patch(f"erpsync.{place}", mutant):
        for seed in range(WORLDS):
            error = _complaint(new_world(seed, empty))
            if error is not None:
                break
    assert error is not None, "it was not found"
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    assert Path(frame.f_code.co_filename).parent == Path(__file__).parent, "it was no auditor who said so"


def _complaint(world: World) -> AssertionError | None:
    try:
        world.live(30)
    except AssertionError as error:
        return error
    return None
