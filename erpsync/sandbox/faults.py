"""Faults on demand: answers that come wrong, late, in pieces or not at all.

A fault is armed for requests by `where` (token, api, discovery), by path (prefix or glob) and method. The first armed
fault that matches a request takes it; after `times` requests it is used up.
"""

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Where = Literal["token", "api", "discovery", "other"]


class Fault(
    msgspec.Struct, frozen=True, rename={"pass_": "pass"}, forbid_unknown_fields=True, omit_defaults=True
):
    """What to do with matching requests.

    Without `pass` the request never reaches the instance and the answer is made of `status`, `headers` and one of
    `body` (JSON), `raw` (text) or `error` (fields of an ERP.net error object). With `pass` the real answer is used,
    changed by `status`, `headers` and `merge`.
    """

    where: Literal["token", "api", "discovery", "other", ""] = ""
    path: str = ""
    """A prefix, or a glob when it holds `*`; matched against the path with its query string."""
    method: str = ""
    times: int = 1
    """How many requests it takes; -1 for all."""
    after: int = 0
    """How many matching requests it lets through first."""
    status: int | None = None
    headers: dict[str, str] = {}
    body: Any = None
    raw: str | None = None
    error: dict[str, Any] | None = None
    pass_: bool = False
    merge: dict[str, Any] | None = None
    """Keys to set in the JSON object of the real answer; None removes a key."""
    delay_ms: int = 0
    drip_ms: int = 0
    """A pause after each of twenty pieces in which the body is sent."""
    truncate: int | None = None
    """Bytes of the body after which the connection is closed; the length announced is that of the whole."""
    reset: bool = False
    """The connection is reset and nothing is answered; with `pass` the instance has done what it was asked to."""

    def matches(self, where: Where, method: str, target: str) -> bool:
        """Whether it is meant for such a request."""
        path_fits = fnmatchcase(target, self.path) if "*" in self.path else target.startswith(self.path)
        return path_fits and self.where in ("", where) and self.method.upper() in ("", method)


@dataclass(slots=True)
class _Armed:
    fault: Fault
    after: int
    times: int


class Faults:
    """The queue of armed faults."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def arm(self, fault: Fault) -> None:
        """Puts a fault at the end of the queue."""
        self._armed.append(_Armed(fault, fault.after, fault.times))

    def clear(self) -> None:
        """Disarms all."""
        self._armed.clear()

    def listing(self) -> list[dict[str, Any]]:
        """The armed faults with what is left of them as `times` and `after`."""
        return [
            msgspec.to_builtins(item.fault) | {"times": item.times, "after": item.after}
            for item in self._armed
        ]

    def take(self, where: Where, method: str, target: str) -> Fault | None:
        """The fault for this request, if any; what it takes is counted down."""
        for item in self._armed:
            if not item.fault.matches(where, method, target):
                continue
            if item.after > 0:
                item.after -= 1
                continue
            item.times -= item.times > 0
            if item.times == 0:
                self._armed.remove(item)
            return item.fault
        return None


@dataclass(slots=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def perform(
    fault: Fault,
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    transport: asyncio.Transport | None,
) -> None:
    """Answers one request as the fault says."""
    await asyncio.sleep(fault.delay_ms / 1000)
    if fault.reset:
        if fault.pass_:
            await _real_answer(app, scope, receive)
        _reset(transport)
        return
    answer = await _real_answer(app, scope, receive) if fault.pass_ else _made_up_answer(fault)
    await _send(fault, _changed(fault, answer), receive, send, transport)


def _reset(transport: asyncio.Transport | None) -> None:
    """Closes with RST, which needs a linger time of zero."""
    if transport is not None:
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


def _made_up_answer(fault: Fault) -> _Answer:
    kind = "text/html; charset=utf-8" if fault.raw is not None else "application/json; charset=utf-8"
    if fault.raw is not None:
        body = fault.raw.encode()
    elif fault.error is not None:
        body = msgspec.json.encode(
            {"error": {"message": "", "code": 0, "type": "", "info": ""} | fault.error}
        )
    else:
        body = b"" if fault.body is None else msgspec.json.encode(fault.body)
    return _Answer(500, {"content-type": kind}, body)


async def _real_answer(app: ASGIApp, scope: Scope, receive: Receive) -> _Answer:
    messages: list[Message] = []

    async def keep(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, keep)
    headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return _Answer(messages[0]["status"], headers, b"".join(item.get("body", b"") for item in messages[1:]))


def _changed(fault: Fault, answer: _Answer) -> _Answer:
    body = _merged(answer.body, fault.merge) if fault.merge is not None else answer.body
    headers = answer.headers | {name.lower(): value for name, value in fault.headers.items()}
    headers["content-length"] = str(len(body))
    return _Answer(fault.status or answer.status, headers, body)


def _merged(body: bytes, changes: Mapping[str, Any]) -> bytes:
    merged = msgspec.json.decode(body) | changes
    return msgspec.json.encode({key: value for key, value in merged.items() if value is not None})


async def _send(
    fault: Fault, answer: _Answer, receive: Receive, send: Send, transport: asyncio.Transport | None
) -> None:
    headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = answer.body if fault.truncate is None else answer.body[: fault.truncate]
    piece = max(1, len(body) // 20) if fault.drip_ms else max(1, len(body))
    for start in range(0, len(body), piece):
        await send({"type": "http.response.body", "body": body[start : start + piece], "more_body": True})
        await asyncio.sleep(fault.drip_ms / 1000)
    if fault.truncate is None:
        await send({"type": "http.response.body", "body": b""})
    elif transport is not None:
        transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass
