"""One attempt in a child process, from the daemon's side."""

import asyncio
import os
import signal
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import IO, Any

import httpx2

from erpsync.core.errors import ChildDiedError
from erpsync.core.event import Level
from erpsync.running.channel import (
    LOST_CHANNEL,
    BrokenChannelError,
    Cancel,
    Counted,
    Done,
    Failed,
    FromChild,
    Log,
    Order,
    Progress,
    Stop,
    ToChild,
    counts_of,
    encode,
    messages_of_child,
)
from erpsync.running.fault import Fault, fault_of
from erpsync.running.fork import ForkServer
from erpsync.running.proxy import serve_requests
from erpsync.running.reporter import RunReporter

_LAST_WORDS = 5.0  # seconds for a child that has said its result, or closed its channel, to be gone
_FORK_SERVER_DIED = "the fork server died and took the child process with it"
_LINE = 64 * 1024  # bytes; a longer line of output becomes several
_AT_ONCE = 100  # lines or messages of a child in one turn of the loop, which others share


class ProcessAttempt:
    """A plugin in a process of its own, which can be killed whatever it does."""

    def __init__(
        self,
        server: ForkServer,
        order: Order,
        transport: httpx2.AsyncBaseTransport | None,
        reporter: RunReporter,
    ) -> None:
        self._server = server
        self._order = order
        self._transport = transport
        self._reporter = reporter
        self._pid: int | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._unsent: list[ToChild] = []
        self._signals: list[int] = []
        self._answer: Done | Fault | None = None

    async def run(self) -> Done | Fault:
        """From the fork to the end of the whole process group."""
        with ExitStack() as stack:
            pipes = _Pipes.open(stack)
            reader, self._writer = await asyncio.open_connection(sock=pipes.channel)
            for message in (self._order, *self._unsent):
                self._send(message)
            try:
                child = await self._server.fork(pipes.theirs)
            except ChildDiedError as error:
                self._writer.close()
                return fault_of(error)
            self._pid = child.pid
            pipes.close_theirs()
            for number in self._signals:  # asked for while the child was being born
                self._server.signal(child.pid, number)
            helpers = [asyncio.create_task(self._listen(pipe, name)) for name, pipe in pipes.outputs.items()]
            if self._transport is not None:
                helpers.append(asyncio.create_task(serve_requests(pipes.requests, self._transport)))
            try:
                return await self._accompany(reader, child.ended, helpers)
            finally:
                self._writer.close()
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)

    def interrupt(self) -> None:
        """Ask for the end at the next checkpoint."""
        self._send(Stop())

    def cancel(self) -> None:
        """Ask for the end now."""
        self._send(Cancel())

    def kill(self, number: int) -> None:
        """Send a signal to the whole process group."""
        self._signals.append(number)
        if self._pid is not None:
            self._server.signal(self._pid, number)

    def _send(self, message: ToChild) -> None:
        if self._writer is None:
            self._unsent.append(message)
            return
        with suppress(OSError, RuntimeError):  # a child that is gone hears nothing
            self._writer.write(encode(message))

    async def _accompany(
        self,
        reader: asyncio.StreamReader,
        ended: "asyncio.Future[int | None]",
        helpers: list["asyncio.Task[None]"],
    ) -> Done | Fault:
        """Listen until the child has ended; what it has left in its pipes is heard too."""
        talk = asyncio.create_task(self._converse(reader))
        both: list[asyncio.Future[Any]] = [talk, ended]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and not (talk.done() and talk.exception()):
                await asyncio.wait([ended], timeout=_LAST_WORDS)
            lingered = not ended.done()
            if lingered:
                self.kill(signal.SIGKILL)
            status = await ended
            await asyncio.wait([talk, *helpers[:2]], timeout=_LAST_WORDS)
            broken = talk.exception() if talk.done() else None
        finally:
            talk.cancel()
        if lingered and broken is None:
            broken = BrokenChannelError("the plugin closed it")
        return self._answer or self._obituary(status, broken)

    async def _converse(self, reader: asyncio.StreamReader) -> None:
        heard = 0
        async for message in messages_of_child(reader):
            self._hear(message)
            if self._answer is not None:
                return
            heard += 1
            if heard % _AT_ONCE == 0:  # what has arrived is read without a pause
                await asyncio.sleep(0)

    def _hear(self, message: FromChild) -> None:
        match message:
            case Log():
                self._reporter.log(_level(message.level), message.event, message.fields)
            case Counted():
                self._reporter.counted(counts_of(message.counts))
            case Progress():
                self._reporter.progress(message.done, message.total)
            case Failed():
                self._answer = message.fault
            case Done():
                self._answer = message

    async def _listen(self, pipe: IO[bytes], stream: str) -> None:
        """What the plugin prints becomes lines of its log."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            rest = b""
            while chunk := await reader.read(_LINE):
                if self._reporter.is_full():
                    rest = b""
                    await asyncio.sleep(0)
                    continue
                *lines, rest = (rest + chunk).split(b"\n")
                if (
                    len(rest) > 2 * _LINE
                ):  # the second half is longer than any secret that begins in the first
                    begun, rest = self._parted(rest)
                    lines.append(begun)
                await self._print(lines, stream)
            await self._print([rest], stream)
        finally:
            transport.close()

    def _parted(self, line: bytes) -> tuple[bytes, bytes]:
        """A line that is too long as two, without parting a secret."""
        text = line.decode(errors="surrogateescape")
        at = self._reporter.parting(text, _LINE)
        return text[:at].encode(errors="surrogateescape"), text[at:].encode(errors="surrogateescape")

    async def _print(self, lines: list[bytes], stream: str) -> None:
        for begin in range(0, len(lines), _AT_ONCE):
            some = lines[begin : begin + _AT_ONCE]
            texts = [text for line in some if (text := line.decode(errors="replace").rstrip())]
            self._reporter.printed(texts, "info" if stream == "stdout" else "warning", stream)
            await asyncio.sleep(0)

    def _obituary(self, status: int | None, broken: BaseException | None) -> Fault:
        """Why there is no result."""
        if status == LOST_CHANNEL:
            broken = BrokenChannelError("the plugin closed it")
        if isinstance(broken, BrokenChannelError):
            return Fault.died(
                f"the channel to the child process broke: {broken}",
                "the plugin touches descriptors that are not its own",
            )
        if status is None:
            return Fault("lost", "ChildDiedError", _FORK_SERVER_DIED)
        if -status in self._signals:
            return Fault.died(f"the child process was ended by {_signal_name(-status)}")
        if status < 0:
            hint = {
                signal.SIGKILL: "perhaps the kernel did it for lack of memory: look at `dmesg`, limit `memory`",
                signal.SIGSEGV: "a C extension of the plugin crashed; the run's log holds where",
            }
            return Fault.died(
                f"the child process was killed by {_signal_name(-status)}",
                hint.get(signal.Signals(-status), ""),
            )
        return Fault.died(
            f"the child process exited with status {status} and without a result",
            "the plugin, or a library of it, called os._exit",
        )


@dataclass(slots=True)
class _Pipes:
    """The four ways between daemon and child; `theirs` are the child's ends in the fork server's order."""

    channel: socket.socket
    requests: socket.socket
    outputs: dict[str, IO[bytes]]
    theirs: list[int] = field(default_factory=list)

    @classmethod
    def open(cls, stack: ExitStack) -> "_Pipes":
        """Open all; the stack closes what is still open."""
        channel, their_channel = socket.socketpair()
        requests, their_requests = socket.socketpair()
        theirs = [their_channel.detach(), their_requests.detach()]
        outputs: dict[str, IO[bytes]] = {}
        for name in ("stdout", "stderr"):
            ours, other = os.pipe()
            outputs[name] = stack.enter_context(open(ours, "rb", buffering=0))  # noqa: SIM115
            theirs.append(other)
        pipes = cls(channel, requests, outputs, theirs)
        stack.callback(pipes.close_theirs)
        stack.enter_context(channel)
        stack.enter_context(requests)
        return pipes

    def close_theirs(self) -> None:
        while self.theirs:
            os.close(self.theirs.pop())


def _level(level: str) -> Level:
    return level if level in ("debug", "info", "warning", "error") else "info"  # type: ignore[return-value]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
