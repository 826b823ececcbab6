"""The fork server's client: asks for children and hears of their ends."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from erpsync.core.errors import ChildDiedError

_PATIENCE = 10.0  # seconds for a fork, which takes milliseconds


@dataclass(frozen=True, slots=True)
class Child:
    """A process, and its end to be: the exit status, negative for a signal; None where the fork server died first."""

    pid: int
    ended: "asyncio.Future[int | None]"


class ForkServer:
    """The fork server of this daemon: started at its first use, and again should it die."""

    def __init__(self, is_secret: Callable[[str], bool]) -> None:
        self._is_secret = is_secret
        self._program: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._asked: deque[asyncio.Future[Child]] = deque()
        self._children: dict[int, Child] = {}

    def start(self) -> None:
        """Start the program unless it runs; it imports meanwhile what children need."""
        if self._socket is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            # -P: the folder we happen to stand in is no place to import from; no secret of ours in its environment.
            self._program = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", "-m", "erpsync.running.fork_server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=self._environment(),
            )
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours, self._read)

    def _environment(self) -> dict[str, str]:
        """Ours without what is secret, by value or perhaps by name."""
        items = os.environ.items()
        return {
            name: value
            for name, value in items
            if not name.startswith("ERPSYNC_") and not self._is_secret(value.rstrip("\r\n"))
        }

    async def fork(self, descriptors: list[int]) -> Child:
        """A new child with these descriptors: channel, requests, stdout, stderr.

        Raises:
            ChildDiedError: no child could be started.
        """
        self.start()
        assert self._socket is not None
        try:
            socket.send_fds(self._socket, [b'{"fork": true}'], descriptors)
        except OSError as error:
            raise _refused("the fork server does not answer") from error
        asked: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        await asyncio.wait([asked], timeout=_PATIENCE)
        if not asked.done() and self._program is not None:
            self._program.kill()  # stopped or stuck: its end is heard, and the next child has a new one
        return await asyncio.shield(asked)

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a child's whole process group; nothing where it has ended."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.send(json.dumps({"kill": pid, "signal": number}).encode())

    async def close(self) -> None:
        """End the program and with it every child; closing twice is fine."""
        self._disconnect()
        program, self._program = self._program, None
        if program is not None:
            try:
                await asyncio.to_thread(program.wait, 5)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()

    def _read(self) -> None:
        assert self._socket is not None
        try:
            while data := self._socket.recv(4096):
                self._hear(json.loads(data))
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        self._disconnect()
        assert self._program is not None
        self._program.kill()  # it has closed its only socket: it is dead or as good as dead
        self._program.wait()

    def _hear(self, message: dict[str, int]) -> None:
        if "ended" in message:
            self._children.pop(message["ended"]).ended.set_result(message["status"])
        elif "started" in message:
            child = Child(message["started"], asyncio.get_running_loop().create_future())
            self._children[child.pid] = child
            self._asked.popleft().set_result(child)
        else:
            self._asked.popleft().set_exception(_refused(os.strerror(message["refused"])))

    def _disconnect(self) -> None:
        """The connection has ended, by us or by its death: nobody waits for it any longer."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        while self._asked:
            self._asked.popleft().set_exception(_refused("the fork server died"))
        for child in self._children.values():
            child.ended.set_result(None)
        self._children.clear()


def _refused(why: str) -> ChildDiedError:
    return ChildDiedError(f"no child process could be started: {why}", hint="look at the daemon's own log")
