"""Fire time to a `def` plugin entered, in its warm child process, beside a child of multiprocessing's fork server."""

import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path

from measure import BENCH, Figure, daemon, percentile

PERIOD = 0.5  # seconds between two fire times
RUNS = 50
WARM_UP = 6


def figures() -> list[Figure]:
    """A run of ours and a bare child in turns, so that a busy moment meets both."""
    bare: list[float] = []
    command = [sys.executable, str(BENCH / "bare_child.py")]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
    ):
        assert other.stdin is not None
        assert other.stdout is not None
        folder = Path(name)
        entered = folder / "entered"
        _write(folder, entered)
        with daemon(folder, {}) as process:
            for number in range(WARM_UP + RUNS):
                _wait_for(entered, number + 1, process.said)
                other.stdin.write(b"\n")
                other.stdin.flush()
                bare.append(1000 * float(other.stdout.readline()))
        late = array("d", entered.read_bytes())
    return _compared([1000 * seconds for seconds in late[WARM_UP : WARM_UP + RUNS]], bare[WARM_UP:])


def _compared(ours: list[float], bare: list[float]) -> list[Figure]:
    what, other = "fire time → `def` plugin entered in its process", "multiprocessing forkserver"
    return [
        Figure(f"{what}, p50", percentile(ours, 50), "ms", percentile(bare, 50), other, "≤ 30 ms"),
        Figure(f"{what}, p99", percentile(ours, 99), "ms", percentile(bare, 99), other),
    ]


def _write(folder: Path, entered: Path) -> None:
    (folder / "erpsync.toml").write_text(
        f'[daemon]\ndata = "data"\nplugins = ["{BENCH / "plugins"}"]\n'
        '[metrics]\nlisten = "127.0.0.1:0"\n'
        f'[jobs.probe]\nplugin = "child-probe"\nschedule = {{ every = "{PERIOD * 1000:.0f}ms" }}\n'
        f'with = {{ entered = "{entered}", period = {PERIOD} }}\n'
    )


def _wait_for(entered: Path, runs: int, said: Callable[[], str]) -> None:
    """Until so many runs were entered."""
    end = time.monotonic() + 30
    while not entered.exists() or entered.stat().st_size < 8 * runs:
        if time.monotonic() > end:
            sys.exit(f"run {runs} was never entered:\n{said()}")
        time.sleep(0.005)
