"""Many nights, simulated: whatever happens, every fire time ends in exactly one run.

The ordinary run lives in the same worlds each time, so that a red run is about the change it tests. NIGHTS=1000000
looks for new ones; SEED=… replays the world of one seed, and tells its last steps.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.simulation.virtual_store import empty_state
from tests.simulation.world import World, new_world

NIGHTS = 10_000
LIFE = 250
"""Nights in one world."""

NewWorld = Callable[[int], World]


@pytest.fixture
def world_of(tmp_path: Path) -> NewWorld:
    """Makes the world of a seed."""
    empty = empty_state(tmp_path)
    return lambda seed: new_world(seed, empty)


@pytest.mark.slow
def test_whatever_happens_every_fire_time_has_exactly_one_run(
    world_of: NewWorld, record_property: Callable[[str, object], None]
) -> None:
    """Crashes, downtime, clock steps, changes, pauses: after every commit the ledger is as the oracle says."""
    seeds = _seeds(os.environ)
    for done, seed in enumerate(seeds):
        world = world_of(seed)
        with told(world, f"after {done * LIFE} good nights; replay with SEED={seed} pytest tests/simulation"):
            world.live(LIFE)
    record_property("simulated nights", len(seeds) * LIFE)


def _seeds(environment: Mapping[str, str]) -> list[int]:
    if seed := environment.get("SEED"):
        return [int(seed)]
    if nights := environment.get("NIGHTS"):
        return [secrets.randbelow(10**9) for _ in range(int(nights) // LIFE)]
    return [*range(NIGHTS // LIFE)]


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


@contextmanager
def told(world: World, replay: str) -> Iterator[None]:
    """What goes wrong inside says how to see it again, and the steps before it."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}\n{replay}\n{world.story()}") from error
