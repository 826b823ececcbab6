"""A reload of 10 000 jobs of which one changed: how long it takes, and how long the event loop stands still."""

import tempfile
import time
from pathlib import Path

from measure import BENCH, Figure, daemon

from erpsync.control.client import ControlClient

JOBS = 10_000


def figures() -> list[Figure]:
    """The time of one reload, asked on the control socket, and the loop's longest pause while it lasts."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        pauses = folder / "pauses"
        _write(folder, pauses, "0 3 * * *")
        with daemon(folder, {}) as process, ControlClient(folder / "data" / "control.sock") as client:
            client.claim("probe", {})
            while not pauses.exists():
                time.sleep(0.05)
            _write(folder, pauses, "0 4 * * *")
            pauses.unlink()
            begin = time.perf_counter()
            plan = client.reload()
            took = time.perf_counter() - begin
            assert len(plan["jobs"]) == 1, (plan, process.said())
            pause = float(pauses.read_text())
            process.popen.terminate()
    return [
        Figure("reload of 10 000 jobs, one changed", took, "s", goal="≤ 1 s"),
        Figure("the loop's longest pause meanwhile", pause * 1000, "ms", goal="≤ 50 ms"),
    ]


_PROBE = 'plugin = "fire-probe"\nwith = { offset = 0.0, period = 1.0 }'


def _write(folder: Path, pauses: Path, schedule: str) -> None:
    lines = [
        f'[daemon]\ndata = "data"\ndrain = "1s"\nplugins = ["{BENCH / "plugins"}"]',
        '[metrics]\nlisten = "127.0.0.1:0"',
        f'[jobs.probe]\nplugin = "loop-probe"\nschedule = "manual"\ntimeout = "1h"\nwith = {{ pauses = "{pauses}" }}',
        f'[jobs.changed]\nschedule = "{schedule}"\n{_PROBE}',
    ]
    lines += [
        f'[jobs.night-{number:05}]\nschedule = "{number % 60} 3 * * *"\n{_PROBE}'
        for number in range(JOBS - 2)
    ]
    (folder / "erpsync.toml").write_text("\n".join(lines))
