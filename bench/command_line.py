"""How long commands take from start to end, against the bare interpreter."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measure import ERPSYNC, Figure

JOBS = 1000


def seconds(command: Sequence[str], folder: Path) -> float:
    """One run of a command that must end well."""
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    took = time.perf_counter() - begin
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return took


def medians(commands: dict[str, Sequence[str]], folder: Path, times: int) -> dict[str, float]:
    """The median of each, in milliseconds; taken in turns, so that a busy moment meets all alike."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(times + 1):
        for name, command in commands.items():
            taken[name].append(seconds(command, folder) * 1000)
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def write_configuration(folder: Path) -> None:
    """1 000 mirrors, each written out, of one instance."""
    lines = [
        '[daemon]\ndata = "data"',
        '[instances.acme]\nurl = "https://acme.example"',
        '[identities.night]\ngrant = "client_credentials"\ninstance = "acme"\nclient_id = "my.trusted.app/service"',
        'client_secret = { env = "HOME" }\nscope = ["read"]',
    ]
    for number in range(JOBS):
        lines.append(
            f'[jobs.mirror-{number:04}]\nplugin = "mirror"\nidentity = "night"\n'
            f'schedule = "{number % 60} {number % 24} * * *"\n'
            'with = { entity = "General_Products_Products", select = ["Id", "PartNumber"], '
            f'target = {{ url = "sqlite:///{number}.db", table = "products" }} }}'
        )
    (folder / "erpsync.toml").write_text("\n".join(lines))


def figures() -> list[Figure]:
    """`--version` and `check` of 1 000 jobs."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        write_configuration(folder)
        python = [sys.executable, "-c", "pass"]
        version = medians({"python": python, "erpsync": [ERPSYNC, "--version"]}, folder, 15)
        check = medians(
            {"python": python, "erpsync": [ERPSYNC, "--config", "erpsync.toml", "check"]}, folder, 3
        )
    return [
        Figure(
            "erpsync --version", version["erpsync"], "ms", version["python"], "python -c pass", "≤ 150 ms"
        ),
        Figure(
            "erpsync check, 1 000 jobs",
            check["erpsync"],
            "ms",
            check["python"],
            "python -c pass",
            "≤ 1 500 ms",
        ),
    ]
