"""Which zones are in use, and what is said of them."""

import zoneinfo
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from erpsync.scheduling.zone import zone_data


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """A folder of zones as a machine has them, the second one in which zoneinfo looks."""
    (tmp_path / "zones/Europe").mkdir(parents=True)
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([str(tmp_path / "none"), str(tmp_path / "zones")])
    yield tmp_path / "zones"
    zoneinfo.reset_tzpath(before)


def test_the_release_is_that_of_the_zones_in_use(machine: Path) -> None:
    """The machine's zones come first, by the file that names their release; the package's stand in for none."""
    package = import_module("tzdata").IANA_VERSION
    (machine / "tzdata.zi").write_text("# version 1999z\n# This zic input file\n")
    assert zone_data() == package, "a release without zones is not in use"
    (machine / "Europe/Sofia").write_bytes(b"TZif")
    assert zone_data() == "1999z"
    (machine / "+VERSION").write_text("1999y\n")
    assert zone_data() == "1999y"


def test_zones_that_do_not_say_their_release_are_the_systems(machine: Path) -> None:
    """The package's release would be a lie there."""
    (machine / "Europe/Sofia").write_bytes(b"TZif")
    assert zone_data() == "system"
