"""A daemon with 10 000 jobs, none of them due: start to ready, memory, CPU while it waits."""

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from measure import BENCH, Figure, daemon

JOBS = 10_000
WATCHED = 20.0


def write_configuration(folder: Path) -> None:
    """Daily jobs whose fire times lie hours away, each minute of two hours used."""
    hour = datetime.now(UTC).hour
    lines = [
        f'[daemon]\ndata = "data"\nplugins = ["{BENCH / "plugins"}"]',
        '[metrics]\nlisten = "127.0.0.1:0"',
        '[defaults]\nplugin = "fire-probe"\nwith = { offset = 0.0, period = 1.0 }',
    ]
    for number in range(JOBS):
        schedule = f"{number % 60} {(hour + 6 + number % 2) % 24} * * *"
        lines.append(f'[jobs.night-{number:05}]\nschedule = "{schedule}"')
    (folder / "erpsync.toml").write_text("\n".join(lines))


def figures() -> list[Figure]:
    """Load, check and first plan; resident memory; idle CPU."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        write_configuration(folder)
        begin = time.perf_counter()
        with daemon(folder, {"BENCH_SAMPLES": str(folder / "samples")}) as process:
            ready = time.perf_counter() - begin
            cpu = process.cpu_seconds()
            time.sleep(WATCHED)
            idle = (process.cpu_seconds() - cpu) / WATCHED
            memory = process.resident_mib()
    return [
        Figure("10 000 jobs: start until ready (load, check, first plan)", ready, "s", goal="≤ 4 s"),
        Figure("10 000 jobs: resident memory", memory, "MiB", goal="≤ 180 MB"),
        Figure("10 000 jobs: CPU while nothing is due", idle * 100, "%", goal="≤ 1 %"),
    ]
