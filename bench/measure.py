"""Starting real processes and reading their clock, memory and samples: what every bench here needs."""

import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BENCH = Path(__file__).parent
ERPSYNC = str(Path(sys.executable).with_name("erpsync"))
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report; `unit` belongs to both values, `goal` is words."""

    what: str
    ours: float
    unit: str
    other: float | None = None
    other_name: str = ""
    goal: str = ""

    @property
    def ratio(self) -> float | None:
        return None if not self.other else self.ours / self.other


@dataclass(slots=True)
class Process:
    """A running process, watched from outside."""

    popen: subprocess.Popen[bytes]
    log: Path

    def cpu_seconds(self) -> float:
        """User and system time that it has used until now, its own children not counted."""
        stat = Path(f"/proc/{self.popen.pid}/stat").read_text()
        user, system = stat.rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / _TICK

    def resident_mib(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def said(self) -> str:
        """The end of what it wrote, for people."""
        return self.log.read_text()[-2000:] + self.log.with_suffix(".err").read_text()[-2000:]

    def stop(self) -> None:
        """SIGTERM, and wait while it drains."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        self.popen.wait(90)


@contextmanager
def started(
    command: Sequence[str], folder: Path, name: str, environment: Mapping[str, str]
) -> Iterator[Process]:
    """The process with its output in `<folder>/<name>.log` (errors in `.err`); ended when the block is left."""
    log = folder / f"{name}.log"
    with log.open("wb") as output, log.with_suffix(".err").open("wb") as errors:
        popen = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
        process = Process(popen, log)
        try:
            yield process
        finally:
            process.stop()


@contextmanager
def daemon(folder: Path, environment: Mapping[str, str], patience: float = 60) -> Iterator[Process]:
    """`erpsync daemon` with `<folder>/erpsync.toml`, once it has told its supervisor READY=1."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        address = folder / "notify"
        address.unlink(missing_ok=True)
        supervisor.bind(str(address))
        supervisor.settimeout(patience)
        command = [ERPSYNC, "--config", str(folder / "erpsync.toml"), "daemon"]
        with started(command, folder, "daemon", {**environment, "NOTIFY_SOCKET": str(address)}) as process:
            try:
                while b"READY=1" not in supervisor.recv(4096):
                    pass
            except TimeoutError:
                sys.exit(f"the daemon did not become ready:\n{process.said()}")
            yield process


@contextmanager
def memory_watched(process: Process) -> Iterator[list[float]]:
    """Resident memory in MiB ten times a second while the block runs."""
    samples: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            try:
                samples.append(process.resident_mib())
            except (OSError, IndexError):  # it has ended
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of a hundred do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def table(figures: Sequence[Figure]) -> str:
    """The report as a Markdown table."""
    rows = [
        ("what", "erpsync", "compared with", "", "ratio", "to reach"),
        ("---", "---:", "---", "---:", "---:", "---"),
    ]
    for figure in figures:
        other = "" if figure.other is None else f"{figure.other:,.2f} {figure.unit}"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        rows.append(
            (figure.what, f"{figure.ours:,.2f} {figure.unit}", figure.other_name, other, ratio, figure.goal)
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
