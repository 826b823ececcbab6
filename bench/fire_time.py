"""Fire time to plugin entered, and CPU a run: 1 000 jobs in the real daemon and in bare APScheduler."""

import os
import sqlite3
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from measure import BENCH, Figure, Process, daemon, percentile, started

JOBS = 1000
WARM_UP = 5.0  # after each job had its first run
SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """How late the probe was entered (milliseconds), how often, and the CPU that a run took (milliseconds)."""

    p50: float
    p99: float
    cpu: float
    runs_a_second: float


def observe(start: Callable[[], AbstractContextManager[Process]], period: int, samples: Path) -> Load:
    """Let it run warm, then look at what happened between two readings of its CPU clock."""
    samples.unlink(missing_ok=True)
    with start() as process:
        time.sleep(period + WARM_UP)
        begin, cpu_before = time.time(), process.cpu_seconds()
        time.sleep(SECONDS)
        end, cpu_after = time.time(), process.cpu_seconds()
    pairs = array("d", samples.read_bytes())
    late = [late for moment, late in zip(pairs[::2], pairs[1::2], strict=True) if begin <= moment < end]
    return Load(
        p50=percentile(late, 50) * 1000,
        p99=percentile(late, 99) * 1000,
        cpu=(cpu_after - cpu_before) / len(late) * 1000,
        runs_a_second=len(late) / (end - begin),
    )


def write_configuration(folder: Path, period: int) -> None:
    """1 000 jobs, each every `period` seconds, their fire times spread evenly."""
    lines = [
        f'[daemon]\ndata = "data"\nplugins = ["{BENCH / "plugins"}"]\nmax_runs = 200',
        '[metrics]\nlisten = "127.0.0.1:0"',
        '[defaults]\nplugin = "fire-probe"',
    ]
    for number in range(JOBS):
        offset = number * period / JOBS
        schedule = f'{{ every = "{period}s", offset = "{offset * 1000:.0f}ms" }}'
        lines.append(
            f"[jobs.probe-{number:04}]\nschedule = {schedule}\nwith = {{ offset = {offset}, period = {period}.0 }}"
        )
    (folder / "erpsync.toml").write_text("\n".join(lines))


def fire_times_lost(state: Path) -> str:
    """What the ledger says beside plain successes, "" where there is nothing else."""
    with sqlite3.connect(f"file:{state}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT outcome, reason, count(*) FROM run GROUP BY 1, 2").fetchall()
    return ", ".join(
        f"{count} {outcome} ({reason})" for outcome, reason, count in rows if outcome != "succeeded"
    )


@contextmanager
def one_core() -> Iterator[None]:
    """What is started in here stays on one core, as by `CPUAffinity=` of systemd."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def bench(rate: int, where: str = "") -> list[Figure]:
    """Latency and CPU at `rate` runs a second."""
    period = JOBS // rate
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        samples = folder / "samples"
        environment = {"BENCH_SAMPLES": str(samples)}
        write_configuration(folder, period)
        ours = observe(lambda: daemon(folder, environment), period, samples)
        if lost := fire_times_lost(folder / "data" / "erpsync.db"):
            print(f"at {rate} runs/s the ledger also holds: {lost}", file=sys.stderr)
        command = [sys.executable, str(BENCH / "bare_timer.py"), str(JOBS), str(period)]
        bare = observe(lambda: started(command, folder, "bare", environment), period, samples)
    print(
        f"at {rate} runs/s: measured {ours.runs_a_second:.0f}/s and {bare.runs_a_second:.0f}/s",
        file=sys.stderr,
    )
    goal = "≤ 6 ms" if rate <= 100 else "≤ 10 ms"
    at = f"at {rate:,} runs/s{where}"
    return [
        Figure(f"fire time → plugin entered, p50, {at}", ours.p50, "ms", bare.p50, "bare APScheduler"),
        Figure(f"fire time → plugin entered, p99, {at}", ours.p99, "ms", bare.p99, "bare APScheduler", goal),
        Figure(
            f"CPU a run, {at}", ours.cpu, "ms", bare.cpu, "bare APScheduler", "≤ 1 ms" if rate >= 1000 else ""
        ),
    ]


def commits() -> list[Figure]:
    """What one durable commit costs on this disk: two of them lie between a fire time and its plugin."""
    milliseconds = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        connection = sqlite3.connect(Path(name) / "commits.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE entry (text)")
        for _ in range(500):
            begin = time.perf_counter()
            connection.execute("INSERT INTO entry VALUES ('one')")
            milliseconds.append((time.perf_counter() - begin) * 1000)
        connection.close()
    return [
        Figure("one durable SQLite commit on this disk, p50", percentile(milliseconds, 50), "ms"),
        Figure("one durable SQLite commit on this disk, p99", percentile(milliseconds, 99), "ms"),
    ]


def figures() -> list[Figure]:
    """The disk, then both rates, the higher one also on one core."""
    spread = [*commits(), *bench(100), *bench(1000)]
    with one_core():
        return [*spread, *bench(1000, ", on one core")]
