"""What is committed names no registry and no machine, and the unit file is one that systemd accepts."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
REGISTRY = re.compile(
    r"py[p]i\.(org|python)|python[h]osted\.org|npm[j]s\.(org|com)|yarn[p]kg\.com|crates\.[i]o"
)
PLACE_OPTION = re.compile(r"^\s*(--(extra-)?index(-url)?|--find-links|-i|-f)\b", re.MULTILINE)
MACHINE_PATH = re.compile(r"(?<![\w./<-])/(work|root)/")


def committed_files() -> list[Path]:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "-C", REPOSITORY, "ls-files", "-z"], capture_output=True, check=True)
    files = [REPOSITORY / os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]
    return [file for file in files if file.is_file() and not file.is_symlink()]


def test_no_committed_file_names_a_package_registry() -> None:
    """Where packages come from is the machine's own configuration, in no file of ours."""
    texts = {file: file.read_text("utf-8", errors="replace") for file in committed_files()}
    found = [f"{file}: {match[0]}" for file, text in texts.items() for match in REGISTRY.finditer(text)]
    assert found == []


def test_no_committed_file_holds_a_path_of_the_machine_it_was_written_on() -> None:
    """No file carries the work folder of its author."""
    texts = {file: file.read_text("utf-8", errors="replace") for file in committed_files()}
    found = [f"{file}: {match[0]}" for file, text in texts.items() for match in MACHINE_PATH.finditer(text)]
    assert found == []


@pytest.mark.parametrize("lock", ["run.txt", "dev.txt", "build.txt"])
def test_locked_dependencies_are_versions_with_hashes_and_nothing_else(lock: str) -> None:
    """Each requirement is pinned, carries hashes, and the file has neither an address nor an option naming one."""
    text = (REPOSITORY / "requirements" / lock).read_text()
    requirements = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert all(re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", requirement) for requirement in requirements)
    assert all("--hash=sha256:" in requirement for requirement in requirements)
    assert "://" not in text
    assert not PLACE_OPTION.search(text)


def test_everything_that_the_daemon_needs_is_tested_in_the_same_version() -> None:
    """run.txt is a part of dev.txt, line by line."""
    run, dev = (
        {line for line in (REPOSITORY / "requirements" / lock).read_text().splitlines() if "==" in line}
        for lock in ("run.txt", "dev.txt")
    )
    assert run <= dev


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None and os.environ.get("TESTS_REQUIRE_SYSTEMD"):
        pytest.fail("systemd-analyze is missing")
    if found is None:
        pytest.skip("systemd-analyze is not on this machine")
    return found


def installed_unit(folder: Path, change: tuple[str, str] | None = None) -> Path:
    """The unit as on a machine where erpsync is installed: verify looks whether the program in ExecStart exists."""
    text = (REPOSITORY / "systemd" / "erpsync.service").read_text()
    text = text.replace("/opt/erpsync/bin/erpsync", str(Path(sys.executable).with_name("erpsync")))
    unit = folder / "erpsync.service"
    unit.write_text(text.replace(*change) if change else text)
    return unit


def verify(systemd_analyze: str, unit: Path) -> str:
    command = [systemd_analyze, "verify", "--man=no", unit]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout  # verify ends with 0 for unknown keys: the verdict is what it prints


def test_systemd_accepts_the_unit(systemd_analyze: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about the unit, and does see a mistake in it."""
    assert verify(systemd_analyze, installed_unit(tmp_path)) == ""
    assert "Restrat" in verify(systemd_analyze, installed_unit(tmp_path, ("Restart=", "Restrat=")))


def test_the_unit_exposes_little(systemd_analyze: str, tmp_path: Path) -> None:
    """The exposure that `systemd-analyze security` computes stays at 2 of 10 or below."""
    command = [
        systemd_analyze,
        "security",
        "--offline=true",
        "--no-pager",
        "--threshold=20",
        installed_unit(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]


def test_systemd_waits_longer_than_the_daemon_drains() -> None:
    """A stop by systemd leaves the default drain of 60 s its time; a wrong configuration is not retried."""
    unit = (REPOSITORY / "systemd" / "erpsync.service").read_text()
    stop = re.search(r"^TimeoutStopSec=(\d+)s$", unit, re.MULTILINE)
    assert stop
    assert int(stop[1]) > 60
    assert "\nRestartPreventExitStatus=78\n" in unit
