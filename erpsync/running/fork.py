"""The fork server's client: asks for children and hears of their ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from erpsync.core.errors import ChildDiedError
from erpsync.core.fork_safety import forget, keep_from_copies

_PATIENCE = 10.0  # seconds for a fork, which takes milliseconds


@dataclass(frozen=True, slots=True)
class Child:
    """A process, and its end to be: the exit status, negative for a signal; None where the fork server died first."""

    pid: int
    ended: "asyncio.Future[int | None]"


class ForkServer:
    """Children from a fork server: it is started at its first use, and again should it die.

    It is replaced once something in our environment has become known as a secret: what a process was started with
    stays readable as long as it lives (/proc/PID/environ). Children of the one before go on to their end.
    """

    def __init__(self, is_secret: Callable[[str], bool]) -> None:
        self._is_secret = is_secret
        self._current: _Program | None = None
        self._former: list[_Program] = []

    def start(self) -> None:
        """Start the program unless it runs; it imports meanwhile what children need."""
        current = self._current
        if current is not None and current.is_open:
            if self._harmless(current.environment) == current.environment:
                return
            self._former = [each for each in self._former if each.is_open]
            self._former.append(current)
            current.retire()
        self._current = _Program(self._harmless(os.environ))

    def _harmless(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Without what is secret, by value or perhaps by name."""
        return {
            name: value
            for name, value in environment.items()
            if not name.startswith("ERPSYNC_") and not self._is_secret(value.rstrip("\r\n"))
        }

    async def fork(self, descriptors: list[int]) -> Child:
        """A new child with these descriptors: channel, requests, stdout, stderr.

        Raises:
            ChildDiedError: no child could be started.
        """
        self.start()
        assert self._current is not None
        return await self._current.fork(descriptors)

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a child's whole process group; nothing where it has ended."""
        for program in self._programs():
            program.signal(pid, number)

    async def close(self) -> None:
        """End the program and with it every child; closing twice is fine."""
        for program in self._programs():
            await program.close()
        self._current, self._former = None, []

    def _programs(self) -> list["_Program"]:
        return [*self._former, *filter(None, [self._current])]


class _Program:
    """One process that forks, and the children it has."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self._asked: deque[asyncio.Future[Child]] = deque()
        self._children: dict[int, Child] = {}
        self._is_retired = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            # -P: the folder we happen to stand in is no place to import from; no secret of ours in its environment.
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", "-m", "erpsync.running.fork_server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
            )
        self._socket: socket.socket | None = ours
        keep_from_copies(ours.fileno())
        asyncio.get_running_loop().add_reader(ours, self._read)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_open(self) -> bool:
        """Whether it can be asked, as far as we have heard."""
        return self._socket is not None

    async def fork(self, descriptors: list[int]) -> Child:
        """See `ForkServer.fork`."""
        if self._socket is None:
            raise _refused("the fork server does not answer")
        try:
            socket.send_fds(self._socket, [b'{"fork": true}'], descriptors)
        except OSError as error:
            raise _refused("the fork server does not answer") from error
        asked: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        await asyncio.wait([asked], timeout=_PATIENCE)
        if not asked.done():
            self._process.kill()  # stopped or stuck: its end is heard, and the next child has a new one
        return await asyncio.shield(asked)

    def signal(self, pid: int, number: int) -> None:
        """See `ForkServer.signal`; nothing where the child is another's."""
        if self._socket is not None and pid in self._children:
            with suppress(OSError):
                self._socket.send(json.dumps({"kill": pid, "signal": number}).encode())

    def retire(self) -> None:
        """Give no child any more, and end with the last one."""
        if not self._is_retired and self._socket is not None:
            with suppress(OSError):
                self._socket.send(b'{"retire": true}')
        self._is_retired = True
        if not (self._asked or self._children):
            self._end()

    async def close(self) -> None:
        """End it and every child; closing twice is fine."""
        self._disconnect()
        try:
            await asyncio.to_thread(self._process.wait, 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._socket is not None
        try:
            while self._socket is not None and (data := self._socket.recv(4096)):
                self._hear(json.loads(data))
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        if self._socket is not None:  # it has closed its only socket: it is dead or as good as dead
            self._end()

    def _hear(self, message: dict[str, int]) -> None:
        if "ended" in message:
            self._children.pop(message["ended"]).ended.set_result(message["status"])
        elif "started" in message:
            child = Child(message["started"], asyncio.get_running_loop().create_future())
            self._children[child.pid] = child
            self._asked.popleft().set_result(child)
        else:
            self._asked.popleft().set_exception(_refused(os.strerror(message["refused"])))
        if self._is_retired:
            self.retire()

    def _end(self) -> None:
        """It has died, or is to: what its children have started must not stay behind without them."""
        groups = list(self._children)
        self._process.kill()
        self._process.wait()
        for group in groups:  # a number of a group that has members left is nobody else's
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        self._disconnect()

    def _disconnect(self) -> None:
        """The connection has ended, by us or by its death: nobody waits for it any longer."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        forget(self._socket.fileno())
        self._socket.close()
        self._socket = None
        while self._asked:
            self._asked.popleft().set_exception(_refused("the fork server died"))
        for child in self._children.values():
            child.ended.set_result(None)
        self._children.clear()


def _refused(why: str) -> ChildDiedError:
    hint = "look at the daemon's own log"
    return ChildDiedError(f"no child process could be started: {why}", hint=hint, retryable=True)
