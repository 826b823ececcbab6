"""Fixtures of the acceptance tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from erpsync.sandbox.server import Sandbox
from tests.acceptance.site import BASE, MIRROR, Site
from tests.daemon.conftest import free_port

__all__ = ["free_port"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An instance of its own."""
    with Sandbox(port=0) as sandbox:
        yield sandbox


@pytest.fixture
def site(tmp_path: Path, sandbox: Sandbox) -> Site:
    """A folder with the base configuration and one mirror."""
    site = Site(tmp_path, sandbox)
    site.write(BASE + MIRROR)
    (tmp_path / "plugins").mkdir()
    return site
