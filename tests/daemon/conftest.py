"""A folder, a sandbox, and daemons as processes of their own."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from erpsync.control.client import ControlClient
from erpsync.core.errors import NoDaemonError
from erpsync.sandbox.server import Sandbox
from tests.servers.program import Program, started

CONFIGURATION = """
[daemon]
data = "data"
plugins = ["plugins"]
drain = "5s"
log = {{ format = "json", level = "debug" }}

[metrics]
listen = "127.0.0.1:{port}"

[identities.service]
client_id = "erpsync.sandbox/service"
client_secret = {{ env = "BOX_SECRET" }}
scope = ["read"]
instance = "box"

[instances.box]
url = "{url}"
license_slots = 100

[jobs.look]
plugin = "look"
identity = "service"
schedule = {{ every = "200ms" }}

[jobs.long]
plugin = "long"
schedule = "manual"
"""

PLUGINS = '''
import asyncio
from erpsync import JobContext, JobResult, Settings, job

@job("look", repeatable=True)
async def look(ctx: JobContext[Settings]) -> JobResult:
    """One read."""
    ctx.count(read=await ctx.erp.count("General_Currencies_Currencies"))
    return ctx.result()

@job("long", repeatable=True)
async def long(ctx: JobContext[Settings]) -> JobResult:
    """Says how far it is, and goes on until it may not."""
    ctx.progress(3, 10)
    while True:
        ctx.checkpoint()
        await asyncio.sleep(0.01)
'''


def eventually(condition: Callable[[], Any], what: str, patience: float = 30.0) -> Any:
    """The first truthy answer of `condition`."""
    end = time.monotonic() + patience
    while not (answer := condition()):
        if time.monotonic() > end:
            pytest.fail(f"never came true: {what}")
        time.sleep(0.02)
    return answer


class Site:
    """The folder and what is started in it."""

    def __init__(self, folder: Path, url: str, port: int) -> None:
        self.folder = folder
        self.metrics = f"http://127.0.0.1:{port}"
        self.environment = {**os.environ, "BOX_SECRET": "sandbox-secret"}
        self.file = folder / "erpsync.toml"
        self.file.write_text(CONFIGURATION.format(url=url, port=port))
        (folder / "plugins").mkdir(mode=0o755)
        (folder / "plugins" / "mine.py").write_text(PLUGINS)

    @contextmanager
    def daemon(self, **environment: str) -> Iterator[Program]:
        """A daemon, perhaps not ready yet; killed with the block if it still runs."""
        with (self.folder / "daemon.log").open("ab") as log:
            everything = {**self.environment, **environment}
            process = started("daemon", folder=self.folder, environment=everything, out=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def client(self) -> ControlClient:
        return ControlClient(self.folder / "data" / "control.sock")

    def status(self) -> dict[str, Any] | None:
        """What the daemon says; None where none answers."""
        try:
            with self.client() as client:
                return client.status()
        except NoDaemonError:
            return None

    def ready(self) -> dict[str, Any]:
        """Waits for a daemon that is ready."""
        found: dict[str, Any] = eventually(
            lambda: (status := self.status()) and status["ready"] and status, "the daemon is ready"
        )
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the log has of one event; a line that is still being written is not there yet."""
        whole = (self.folder / "daemon.log").read_text().rpartition("\n")[0].splitlines()
        records = (json.loads(line) for line in whole if line.startswith("{"))
        return [record for record in records if record["event"] == name]

    def succeeded(self) -> list[dict[str, Any]]:
        """The runs that ended well so far."""
        return [event for event in self.events("run.finished") if event["outcome"] == "succeeded"]

    def stop(self, process: Program) -> int:
        process.send_signal(signal.SIGTERM)
        return process.wait(30)


@pytest.fixture
def site(tmp_path: Path, sandbox: Sandbox, free_port: int) -> Site:
    return Site(tmp_path, sandbox.url, free_port)


@pytest.fixture
def free_port() -> int:
    """A port that was free a moment ago: the daemon binds it itself."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
