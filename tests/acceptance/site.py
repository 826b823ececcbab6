"""A site: a folder with a configuration, a sandbox, and the real `erpsync` run in it as its users run it."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from erpsync.sandbox.server import Sandbox
from tests.servers.program import Program, Start, started, typed

SECRET = "sandbox-secret"
PATIENCE = 60.0  # seconds until a condition that must come true is given up


def eventually(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first truthy answer of `condition`; fails with `what` after `patience` seconds."""
    end = time.monotonic() + patience
    while not (answer := condition()):
        if time.monotonic() > end:
            pytest.fail(f"never came true: {what}")
        time.sleep(0.05)
    return answer


class Site:
    """One user's folder, and the commands typed in it."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ERPSYNC_")},
            "BOX_SECRET": SECRET,
        }
        self.start: Start = started
        self.outputs: list[str] = []

    def write(self, text: str, name: str = "erpsync.toml") -> Path:
        """Write a file, `{url}` standing for the sandbox's address."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{url}", self.sandbox.url))
        return path

    def erpsync(
        self, *arguments: str, patience: float = PATIENCE, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Type a command and wait for its end."""
        everything = {**self.environment, **environment}
        done = typed(
            *arguments, folder=self.folder, environment=everything, patience=patience, start=self.start
        )
        self.outputs += [done.stdout, done.stderr]
        return done

    def json(self, *arguments: str) -> Any:
        """The one JSON document a command prints."""
        done = self.erpsync(*arguments, "--format", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def spawn(self, output: BinaryIO, *arguments: str) -> Program:
        """A daemon that may not be ready yet, or another command, saying all to `output`; who asks ends it."""
        return self.start(
            *(arguments or ("daemon",)), folder=self.folder, environment=self.environment, out=output
        )

    @contextmanager
    def daemon(self) -> Iterator[Program]:
        """A daemon that is ready; killed at the end if it still runs. Its log is added to `outputs`."""
        log = self.folder / f"daemon-{len(self.outputs)}.log"
        with log.open("wb") as file:
            process = self.spawn(file)
            try:
                eventually(
                    lambda: process.poll() is not None or "daemon.started" in log.read_text(),
                    "the daemon starts",
                )
                assert process.poll() is None, log.read_text()
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                self.outputs.append(log.read_text())

    def stop(self, process: Program) -> int:
        """End a daemon as systemd does, and its exit code."""
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE)

    def rows(self, database: str, query: str) -> list[tuple[Any, ...]]:
        """What `sqlite3` shows."""
        connection = sqlite3.connect(self.folder / "data" / database)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def runs(self, job: str, **filters: str) -> list[dict[str, Any]]:
        """The ledger's runs of a job, the newest first."""
        extra = [text for name, value in filters.items() for text in (f"--{name}", value)]
        return self.json("runs", job, "--limit", "5000", *extra)  # type: ignore[no-any-return]


BASE = """
[daemon]
data = "data"
plugins = ["plugins"]
drain = "10s"
log = { format = "json", level = "info" }

[metrics]
listen = false

[identities.service]
client_id = "erpsync.sandbox/service"
client_secret = { env = "BOX_SECRET" }
scope = ["read", "update"]
instance = "box"

[instances.box]
url = "{url}"
license_slots = 100
"""

MIRROR = """
[jobs.products]
plugin = "mirror"
identity = "service"
schedule = "manual"

[jobs.products.with]
entity = "General_Products_Products"
select = ["Id", "PartNumber", "Name"]
page_size = 100
target = { url = "sqlite:///products.db", table = "products" }
"""
