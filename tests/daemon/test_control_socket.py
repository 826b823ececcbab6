"""The control socket against those who remove it, or put something else in its place."""

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from erpsync.config.configuration import Control
from erpsync.daemon.control_socket import ControlSocket
from tests.daemon.test_server import GET, greet


class Bench:
    """A socket that serves, and what was told of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[str] = []
        self.words = ""  # of the newest error
        self.control = ControlSocket(Control(path, 0o600, None), self._tell)

    def _tell(self, event: str, **fields: Any) -> None:
        self.told.append(event)
        self.words = str(fields.get("error_message", ""))

    async def answer(self) -> bytes:
        """The first line of what is said there."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        writer.write(GET)
        line = await reader.readline()
        writer.close()
        return line


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "control.sock")
    await bench.control.serve(greet)
    yield bench
    await bench.control.stop()
    bench.control.close()


async def test_what_is_removed_is_made_anew(bench: Bench) -> None:
    """With the same rights, and told; what is in its place is left alone."""
    await bench.control.mend()
    assert bench.told == []
    bench.path.unlink()
    await bench.control.mend()
    assert bench.told == ["control.renewed"]
    assert b"200" in await bench.answer()
    assert bench.path.stat().st_mode & 0o777 == 0o600


async def test_what_stands_in_its_way_is_told_once(bench: Bench) -> None:
    """A file of somebody else is left alone; when it is gone all goes on."""
    bench.path.unlink()
    bench.path.write_text("theirs")
    for _ in range(2):
        await bench.control.mend()
    assert bench.told == ["control.lost"]
    assert str(bench.path) in bench.words
    bench.path.unlink()
    await bench.control.mend()
    assert b"200" in await bench.answer()


async def test_the_socket_of_another_daemon_stays(tmp_path: Path) -> None:
    """Nobody takes it away at his own end."""
    bench = Bench(tmp_path / "control.sock")
    await bench.control.serve(greet)
    bench.path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as theirs:
        theirs.bind(str(bench.path))
        theirs.listen()
        await bench.control.mend()
        await bench.control.stop()
        bench.control.close()
        assert bench.path.exists()
    assert bench.told == ["control.lost"]


def test_a_socket_that_cannot_be_removed_is_told() -> None:
    """As on a file system that has become read-only: it is no reason to end otherwise than well."""
    with tempfile.TemporaryDirectory() as folder:  # whose parents let everybody in
        bench = Bench(Path(folder) / "control.sock")
        os.chmod(folder, 0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            bench.control.close()
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o700)
    assert bench.told == ["control.left"]
