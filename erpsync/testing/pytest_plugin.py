"""Fixtures for plugin authors: `sandbox`, an ERP.net-like instance, and `run_job`, bound to it.

def test_it_counts(run_job, sandbox):
    sandbox.fail(path="/api/domain/odata/", status=503)
    outcome = run_job(count_rows, {"entity": "General_Products_Products"})
    assert outcome.counts.read == sandbox.rows("General_Products_Products")
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # every pytest run loads this file: the rest is imported where a fixture is used
    from erpsync.sandbox.server import Sandbox
    from erpsync.testing.run import RunOutcome


@pytest.fixture
def sandbox() -> "Iterator[Sandbox]":
    """A fresh instance on loopback with seeded data; faults are armed with `sandbox.fail(…)`."""
    from erpsync.sandbox.server import Sandbox

    with Sandbox() as instance:
        yield instance


@pytest.fixture
def run_job(sandbox: "Sandbox", tmp_path: Path) -> "Callable[..., RunOutcome]":
    """`erpsync.testing.run.run_job` against the sandbox, with one data folder for all runs of the test."""
    from erpsync.testing.run import run_job

    return partial(run_job, sandbox=sandbox, data=tmp_path / "data")
