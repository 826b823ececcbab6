"""The other half of the nights: see `nights`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulation.nights import live_half


@pytest.mark.slow
def test_whatever_happens_every_fire_time_has_exactly_one_run(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Crashes, downtime, clock steps, changes, pauses: after every commit the ledger is as the oracle says."""
    live_half(1, tmp_path, record_property)
