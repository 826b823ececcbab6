"""What daemon and child process say to each other: versioned JSON messages, each with its length before it.

JSON and nothing cleverer, because what a child sends is never trusted: it cannot name code to run.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Self, TypeVar

import msgspec

from erpsync.core.redaction import LONGEST_FOREIGN
from erpsync.core.run import Counts
from erpsync.plugins.contract import JobResult
from erpsync.running.fault import Fault, nonsense, type_name, unusable

VERSION = 5
LOST_CHANNEL = 71  # a child's exit status where its answer could not be sent
LEVELS = 20
"""How deep a logged value may be: for people to read, and for JSON to be read at all."""
ELEMENTS = 1_000
"""How many elements a logged value may have in all: each is searched for secrets in the event loop."""
_LENGTH = struct.Struct("!I")
Rows = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_LONGEST = 64 * 2**20  # bytes of one message; a child in a loop must not fill the daemon's memory


class Order(msgspec.Struct, frozen=True, tag=True):
    """The first message to a child: everything it needs for one attempt. `path` is where to import the plugin from,
    `stamps` are those of the files in the plugin `folders`.

    `settings` is the raw table of the job, `secrets` the values of the references in it. `root` is the instance's
    API address, None where the job has no ERP.net instance. `timeout` holds the HTTP time-outs in seconds and
    is None where there is nobody to talk to. `memory` is in bytes, on top of what an idle child maps.
    """

    version: int
    job: str
    formerly: list[str]
    run_id: str
    attempt: int
    plugin: str
    path: str
    folders: list[str]
    stamps: dict[str, str]
    settings: dict[str, Any]
    secrets: dict[str, str]
    cursor: str | None
    params: dict[str, Any]
    dry_run: bool
    data: str
    artifacts: str
    dead_letters: str
    window: tuple[datetime, datetime] | None
    dead: list[dict[str, Any]] | None
    root: str | None
    timeout: dict[str, float | None] | None
    memory: int | None


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End at the next checkpoint."""


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """End now, wherever that is possible without breaking anything."""


class Log(msgspec.Struct, frozen=True, tag=True):
    level: str
    event: str
    fields: dict[str, Any]


class Counted(msgspec.Struct, frozen=True, tag=True):
    """All rows so far, by what happened to them."""

    counts: dict[str, int]


class Progress(msgspec.Struct, frozen=True, tag=True):
    done: int
    total: int | None


class Done(msgspec.Struct, frozen=True, tag=True):
    """The plugin returned a result; `cursor` is what it staged."""

    counts: dict[str, Rows]
    note: str = ""
    cursor: str | None = None


class Failed(msgspec.Struct, frozen=True, tag=True):
    fault: Fault


ToChild = Order | Stop | Cancel
FromChild = Log | Counted | Progress | Done | Failed
Message = TypeVar("Message")

_to_child: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ToChild)
_from_child: msgspec.json.Decoder[Any] = msgspec.json.Decoder(FromChild)


class BrokenChannelError(Exception):
    """What came is not a message of ours."""


def encode(message: ToChild | FromChild) -> bytes:
    """A message as it travels.

    Raises:
        TypeError, ValueError: it holds what JSON cannot say, or too much of it.
    """
    body = msgspec.json.encode(message)
    if len(body) > _LONGEST:
        raise ValueError(f"a message of {len(body)} bytes is too long for the channel")
    return _LENGTH.pack(len(body)) + body


async def messages_of_child(reader: asyncio.StreamReader) -> AsyncIterator[FromChild]:
    """What the child says, until it closes its end.

    Raises:
        BrokenChannelError: half a message, or something that is none.
    """
    while True:
        try:
            head = await reader.readexactly(_LENGTH.size)
            body = await reader.readexactly(_checked(_LENGTH.unpack(head)[0]))
        except asyncio.IncompleteReadError as error:
            if error.partial or error.expected != _LENGTH.size:
                raise BrokenChannelError("it ends in the middle of a message") from error
            return
        except ConnectionError:
            return  # the process is gone; how it ended says more
        yield _decoded(_from_child, body)


def counts_of(numbers: dict[str, int]) -> Counts:
    """Rows as a message has them, as a value; what cannot be a number of rows counts as none."""
    sane = {
        name: number for name, number in numbers.items() if isinstance(number, int) and 0 <= number <= 2**53
    }
    return Counts(**{name: sane.get(name, 0) for name in Counts.__slots__})


def answer_of(result: object, cursor: str | None) -> Done | Fault:
    """What a plugin returned, as a message; a fault where it is no result, or holds what is none of one."""
    if not isinstance(result, JobResult):
        return nonsense(result)
    note = result.note[:LONGEST_FOREIGN] if isinstance(result.note, str) else result.note
    done = Done(result.counts.document(), note, cursor)
    try:
        return msgspec.convert(msgspec.to_builtins(done), Done)
    except (TypeError, ValueError) as error:
        return unusable(error)


def shallow(value: object) -> object:
    """A value of JSON, or of Python's collections, to be logged: what lies too deep is named by its type, and what is
    too much is counted. Doing it twice changes nothing."""
    left = ELEMENTS

    def within(value: object, levels: int) -> object:
        nonlocal left
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            return value
        if not levels or (value and not left):
            return f"<{type_name(value)}>"
        some = list(value if len(value) <= left else islice(value, left - 1))
        rest = f"… ({len(value) - len(some)} more)" if len(value) > left else ""
        left = max(left - len(value), 0)
        if isinstance(value, Mapping):
            return {name: within(value[name], levels - 1) for name in some} | ({rest: None} if rest else {})
        return [within(inner, levels - 1) for inner in some] + ([rest] if rest else [])

    return within(value, LEVELS)


class ChildEnd:
    """The child's end of the channel: blocking, and safe to send on from several threads."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._file = end.makefile("rb")
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()
        self._end.close()

    def send(self, message: FromChild) -> None:
        data = encode(message)
        with self._lock:
            self._end.sendall(data)

    def receive(self) -> ToChild | None:
        """The next message; None once the daemon is gone."""
        head = self._file.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        length = _checked(_LENGTH.unpack(head)[0])
        body = self._file.read(length)
        return _decoded(_to_child, body) if len(body) == length else None


def _checked(length: int) -> int:
    if length > _LONGEST:
        raise BrokenChannelError("it announces a message that is too long")
    return length


def _decoded(decoder: msgspec.json.Decoder[Message], body: bytes) -> Message:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BrokenChannelError("it holds what is no message") from error
