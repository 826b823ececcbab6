"""The demonstration, whole."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_demonstration_ends_well_without_a_terminal(tmp_path: Path) -> None:
    """It exits 0, shows the recovered run in its table, and leaves rows that sqlite3 opens."""
    done = subprocess.run(
        [sys.executable, "-m", "erpsync.cli.main", "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
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
