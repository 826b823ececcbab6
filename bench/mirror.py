"""Rows a second from a sandbox in its own process into SQLite: `erpsync run` with mirror, and a plain loop."""

import json
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import BENCH, ERPSYNC, Figure, memory_watched, started

ROWS = 200_000
SELECT = "Id,PartNumber,Name,Active,StandardPricePerLot,AggregateLastUpdateTimeUtc"
SECRET = {"BENCH_SECRET": "sandbox-secret"}


@contextmanager
def sandbox(folder: Path) -> Iterator[str]:
    """The address of a sandbox with ROWS products."""
    command = [ERPSYNC, "sandbox", "--port", "0", "--rows", str(ROWS)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            ready = re.search(r"ready (\S+)", process.stdout.readline())
            assert ready, "the sandbox did not start"
            yield ready[1].rstrip("/")
        finally:
            process.terminate()


def write_configuration(folder: Path, url: str) -> None:
    """One job that mirrors the products when asked."""
    select = json.dumps(SELECT.split(","))
    (folder / "erpsync.toml").write_text(f"""
[daemon]
data = "data"
[identities.night]
grant = "client_credentials"
instance = "sandbox"
client_id = "erpsync.sandbox/service"
client_secret = {{ env = "BENCH_SECRET" }}
scope = ["read", "update"]
[instances.sandbox]
url = "{url}"
[jobs.products]
plugin = "mirror"
identity = "night"
schedule = "manual"
[jobs.products.with]
entity = "General_Products_Products"
select = {select}
target = {{ url = "sqlite:///ours.db", table = "products" }}
""")


def mirrored(database: Path) -> int:
    """How many rows are in the target."""
    with sqlite3.connect(database) as connection:
        return int(connection.execute("SELECT count(*) FROM products").fetchone()[0])


def figures() -> list[Figure]:
    """Rate, memory and its growth, for both."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        with sandbox(folder) as url:
            write_configuration(folder, url)
            command = [ERPSYNC, "--config", "erpsync.toml", "run", "products", "--format", "json"]
            with started(command, folder, "ours", SECRET) as process, memory_watched(process) as memory:
                assert process.popen.wait() == 0, process.said()
            run = json.loads(process.log.read_text())
            command = [sys.executable, str(BENCH / "bare_mirror.py"), url, "bare.db", SELECT]
            with started(command, folder, "bare", {}) as process, memory_watched(process) as bare_memory:
                assert process.popen.wait() == 0, process.said()
            rows, seconds = process.log.read_text().split()
        assert mirrored(folder / "data" / "ours.db") == mirrored(folder / "bare.db") == int(rows) == ROWS
    half = memory[len(memory) // 2]
    return [
        Figure(
            "mirror into SQLite, 200 000 rows in pages of 1 000",
            ROWS / run["duration_seconds"],
            "rows/s",
            ROWS / float(seconds),
            "plain SQLAlchemy loop",
            "≥ 30 000 rows/s",
        ),
        Figure(
            "its memory at most", max(memory), "MiB", max(bare_memory), "plain SQLAlchemy loop", "≤ 120 MB"
        ),
        Figure(
            "what it grew by in the second half", max(memory[len(memory) // 2 :]) - half, "MiB", goal="flat"
        ),
    ]
