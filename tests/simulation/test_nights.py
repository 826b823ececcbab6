"""Many nights, simulated: whatever happens, every fire time ends in exactly one run. See `nights`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulation.nights import live_half, seeds_of, told
from tests.simulation.virtual_store import empty_state
from tests.simulation.world import World, new_world


@pytest.mark.slow
def test_whatever_happens_every_fire_time_has_exactly_one_run(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Crashes, downtime, clock steps, changes, pauses: after every commit the ledger is as the oracle says."""
    live_half(0, tmp_path, record_property)


def test_a_night_that_goes_wrong_says_how_to_see_it_again(tmp_path: Path) -> None:
    """The message names the seed that replays the world, and ends with its last steps; the seed gives that world."""
    world = new_world(7, empty_state(tmp_path))
    with pytest.raises(AssertionError) as caught:
        _go_wrong(world, "replay with SEED=7 pytest tests/simulation")

    first, replay, *story = str(caught.value).splitlines()
    assert (first, replay) == ("LookupError: something", "replay with SEED=7 pytest tests/simulation")
    assert any("run.claimed" in line for line in story)
    assert seeds_of({"SEED": "7"}) == [7]
    assert len(seeds_of({"NIGHTS": "1000"})) == 4


def _go_wrong(world: World, replay: str) -> None:
    with told(world, replay):
        world.live(3)
        raise LookupError("something")


@pytest.mark.slow
def test_a_seed_tells_the_whole_story(tmp_path: Path) -> None:
    """The same seed lives through the same steps in another process, whatever order that gives to its sets."""
    tell = (
        "from pathlib import Path; from tests.simulation.virtual_store import empty_state; "
        "from tests.simulation.world import new_world; "
        f"world = new_world(20261025, empty_state(Path({str(tmp_path)!r}))); "
        "world.live(60); print(world.clock.now(), [row[:6] for row in world.rows()])"
    )
    stories = [_output(tell, hash_seed) for hash_seed in ("1", "2")]

    assert stories[0] == stories[1]
    assert len(stories[0]) > 1000


def _output(program: str, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
