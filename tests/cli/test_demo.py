"""The demonstration, whole."""

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from erpsync.cli.demo import program_text


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for that of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield Path(folder)


def test_the_program_is_named_so_that_it_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name where it is on PATH, else by its path, relative where it lies below the current folder."""
    program = tmp_path / "bin" / "erpsync"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    monkeypatch.setenv("PATH", str(program.parent))
    assert program_text() == "erpsync"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program_text() == str(program)
    monkeypatch.chdir(tmp_path)
    assert program_text() == "./bin/erpsync"
    program.chmod(0o644)
    assert program_text() == f"{sys.executable} -m erpsync.cli.main"


@pytest.mark.slow
def test_the_demonstration_ends_well_without_a_terminal(short_folder: Path) -> None:
    """It exits 0, shows the recovered run in its table, and leaves rows that sqlite3 opens."""
    done = subprocess.run(
        [sys.executable, "-m", "erpsync.cli.main", "demo"],
        env={**os.environ, "TMPDIR": str(short_folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9" in done.stdout
    assert re.search(r"stock-take +schedule .* succeeded, try 2", done.stdout)
    database = re.search(r"sqlite3 (\S+) ", done.stdout)
    assert database is not None
    connection = sqlite3.connect(database[1])
    assert connection.execute("SELECT count(*), count(DISTINCT Id) FROM products").fetchone() == (1250, 1250)
    connection.close()
