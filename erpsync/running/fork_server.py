"""The process that forks children: imports once what every plugin needs, then starts one within milliseconds.

A fork copies page tables, and whatever a process then writes to, page by page: on a virtual machine that is most of a
child's start. So one child is kept ready that has that behind it, and is given the next attempt.

Run as `python -m erpsync.running.fork_server FD`. It talks with the daemon over one SOCK_SEQPACKET socket and ends
when that socket does, taking every child's process group with it: nothing outlives a daemon that was killed.

    daemon → server   {"fork": true} with the descriptors channel, requests, stdout, stderr
                      {"kill": pid, "signal": number}      to the child's whole process group
                      {"retire": true}                     keep no child ready any more
    server → daemon   {"started": pid} or {"refused": errno}, in the order asked
                      {"ended": pid, "status": n}          n < 0 for a signal
"""

import ctypes
import errno
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SWEEPS = 100  # at the end: looks for what the killed have left, a hundredth of a second apart
_DESCRIPTORS = 4
_QUIET = 0.05  # seconds without a request after which the next child is made ready, in nobody's way
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A child that waits on the other end of `way` for the descriptors of its attempt."""

    pid: int
    way: socket.socket

    def take(self, descriptors: list[int]) -> bool:
        """Give it its attempt; False where it is known to have died."""
        with self.way:
            try:
                socket.send_fds(self.way, [b"!"], descriptors)
            except OSError:
                return False
        return True


class _Server:
    """Forks, signals and reaps until the daemon is gone."""

    def __init__(self, daemon: socket.socket) -> None:
        self._daemon = daemon
        self._children: set[int] = set()
        self._ready: _Ready | None = None
        self._wants_ready = True  # until it dies or we retire; again when there is an attempt

    def serve(self) -> None:
        """Until the daemon closes its end; then end every child."""
        wake, waker = self._wake = socket.socketpair()
        for end in self._wake:
            end.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        quiet: float | None = 0.0
        while True:
            heard, _, _ = select.select([self._daemon, wake], [], [], quiet)
            quiet = None
            if not heard:
                self._make_ready()
            if wake in heard:
                wake.recv(4096)
                self._reap()
            if self._daemon in heard:
                data, descriptors, _, _ = socket.recv_fds(self._daemon, 4096, _DESCRIPTORS, _CLOSE_ON_EXEC)
                if not data:
                    break
                self._answer(json.loads(data), descriptors)
            if self._ready is None and self._wants_ready and heard:
                quiet = _QUIET
        self._end()

    def _answer(self, request: dict[str, int], descriptors: list[int]) -> None:
        if "fork" in request:
            self._start(descriptors)
        elif "retire" in request:
            self._drop_ready()
        elif request["kill"] in self._children:  # not reaped yet, so the number is still this child's
            _signal_group(request["kill"], request["signal"])

    def _start(self, descriptors: list[int]) -> None:
        """Give the attempt to the child that is ready, or to a new one."""
        child, self._ready = self._ready, None
        self._wants_ready = True
        try:
            if child is None or not child.take(descriptors):
                child = self._fork(descriptors)
                if not child.take(descriptors):
                    raise BrokenPipeError(errno.EPIPE, "it has died at once")
        except OSError as error:
            self._tell({"refused": error.errno or 0})
        else:
            self._children.add(child.pid)
            self._tell({"started": child.pid})
        for descriptor in descriptors:
            os.close(descriptor)

    def _make_ready(self) -> None:
        with suppress(OSError):  # who wants one asks for it, and is told
            self._ready = self._fork()

    def _drop_ready(self) -> None:
        self._wants_ready = False
        if self._ready is not None:
            self._ready.way.close()  # which ends it
            self._ready = None

    def _fork(self, descriptors: Sequence[int] = ()) -> _Ready:
        """A child that waits for its attempt, and rehearses meanwhile; not where one is due, whose `descriptors` are
        here already and stay ours.

        Raises:
            OSError: there can be none.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                for end in (self._daemon, *self._wake, ours):
                    end.close()
                for descriptor in descriptors:
                    os.close(descriptor)
                _become_child(theirs, has_time=not descriptors)
        return _Ready(pid, ours)

    def _reap(self) -> None:
        """Tell who ended; what a child started and left behind ends with it."""
        for pid in filter(_has_ended, list(self._children)):
            _signal_group(pid, signal.SIGKILL)  # before reaping: until then the number cannot be another's
            _, status = os.waitpid(pid, 0)
            self._children.discard(pid)
            self._tell({"ended": pid, "status": os.waitstatus_to_exitcode(status)})
        if self._ready is not None and _has_ended(self._ready.pid):
            self._drop_ready()
        _kill_orphans(self._known())

    def _known(self) -> set[int]:
        return self._children | ({self._ready.pid} if self._ready else set())

    def _end(self) -> None:
        for pid in self._known():
            _signal_group(pid, signal.SIGKILL)
        for _ in range(_SWEEPS):
            if not _kill_orphans(set()):
                break
            time.sleep(0.01)

    def _tell(self, message: dict[str, int]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the next read sees the end
            self._daemon.send(json.dumps(message).encode())


def _has_ended(child: int) -> bool:
    """Whether it waits to be reaped."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_orphans(children: Set[int]) -> bool:
    """End what an attempt left behind in a session of its own: the kernel gave it to us when its child ended, and
    gives us what that had started in turn. Whether there was any."""
    orphans = [pid for pid in _all_children() if pid not in children]
    for pid in orphans:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in orphans:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return bool(orphans)


def _all_children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # not Linux
        return []


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
        return
    with suppress(ProcessLookupError):  # just forked: it has no group of its own yet
        os.kill(pid, number)


def _become_child(way: socket.socket, *, has_time: bool) -> NoReturn:
    """In the forked process: rehearse where nobody waits, take an attempt, run it and end."""
    code = 70
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _die_with_parent()
        _adopt_orphans()  # while it lives they are its own
        from erpsync.running.child import run_child
        from erpsync.running.rehearsal import rehearse

        if has_time:
            rehearse()
        descriptors = _await_attempt(way)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        channel, requests, stdout, stderr = descriptors
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stdout)
        os.close(stderr)
        code = run_child(socket.socket(fileno=channel), socket.socket(fileno=requests))
    except BaseException:  # noqa: BLE001 - nothing may unwind into the server's loop
        traceback.print_exc()
    finally:
        os._exit(code)


def _await_attempt(way: socket.socket) -> list[int]:
    """The descriptors of the attempt; where none comes any more this process ends."""
    with way:
        data, descriptors, _, _ = socket.recv_fds(way, 1, _DESCRIPTORS, _CLOSE_ON_EXEC)
    if not data:
        os._exit(0)
    return descriptors


def _die_with_parent() -> None:
    """Ask the kernel to kill us when the fork server ends (Linux: prctl(2)); elsewhere the channel's end must do."""
    server = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server or server == 1:
        os._exit(70)


def _adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, whatever session they are in (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def main() -> None:
    """Import, freeze, serve."""
    daemon = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGTERM):  # the daemon decides when this process ends
        signal.signal(number, signal.SIG_IGN)
    import anyio

    import erpsync.running.rehearsal  # noqa: F401 - and with it what every child needs

    anyio.run(anyio.sleep, 0)  # its first loop imports the half of anyio, which would take each child 15 ms
    _adopt_orphans()
    gc.collect()
    gc.freeze()  # what is shared with the children stays unwritten, hence shared
    _Server(daemon).serve()


if __name__ == "__main__":
    main()
