"""Many nights, told: in which worlds they pass, and what is said when one goes wrong.

The ordinary run lives in the same worlds each time, so that a red run is about the change it tests. NIGHTS=1000000
looks for new ones; SEED=… replays the world of one seed, and tells its last steps. Two files have half of the worlds
each, so that two processes share them.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.simulation.virtual_store import empty_state
from tests.simulation.world import World, new_world

NIGHTS = 10_000
LIFE = 250
"""Nights in one world."""


def live_half(half: int, folder: Path, record: Callable[[str, object], None]) -> None:
    """Live in every other world, from the first (0) or the second (1) on."""
    empty, seeds = empty_state(folder), seeds_of(os.environ)[half::2]
    for done, seed in enumerate(seeds):
        world = new_world(seed, empty)
        with told(world, f"after {done * LIFE} good nights; replay with SEED={seed} pytest tests/simulation"):
            world.live(LIFE)
    record("simulated nights", len(seeds) * LIFE)


def seeds_of(environment: Mapping[str, str]) -> list[int]:
    if seed := environment.get("SEED"):
        return [int(seed)]
    if nights := environment.get("NIGHTS"):
        return [secrets.randbelow(10**9) for _ in range(int(nights) // LIFE)]
    return [*range(NIGHTS // LIFE)]


@contextmanager
def told(world: World, replay: str) -> Iterator[None]:
    """What goes wrong inside says how to see it again, and the steps before it."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}\n{replay}\n{world.story()}") from error
