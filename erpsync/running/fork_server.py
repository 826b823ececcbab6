"""The process that forks children: imports once what every plugin needs, then starts one within milliseconds.

Run as `python -m erpsync.running.fork_server FD`. It talks with the daemon over one SOCK_SEQPACKET socket and ends
when that socket does, taking every child's process group with it: nothing outlives a daemon that was killed.

    daemon → server   {"fork": true} with the descriptors channel, requests, stdout, stderr
                      {"kill": pid, "signal": number}      to the child's whole process group
    server → daemon   {"started": pid} or {"refused": errno}, in the order asked
                      {"ended": pid, "status": n}          n < 0 for a signal
"""

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Set
from contextlib import suppress
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SWEEPS = 100  # at the end: looks for what the killed have left, a hundredth of a second apart
_DESCRIPTORS = 4
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def serve(daemon: socket.socket) -> None:
    """Fork, signal and reap until the daemon is gone."""
    wake, waker = socket.socketpair()
    for end in (wake, waker):
        end.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([daemon, wake], [], [])
        if wake in ready:
            wake.recv(4096)
            _reap(children, daemon)
        if daemon in ready:
            data, descriptors, _, _ = socket.recv_fds(daemon, 4096, _DESCRIPTORS, _CLOSE_ON_EXEC)
            if not data:
                break
            request = json.loads(data)
            if "fork" in request:
                _fork(descriptors, children, daemon, [daemon, wake, waker])
            elif request["kill"] in children:  # not reaped yet, so the number is still this child's
                _signal_group(request["kill"], request["signal"])
    for pid in children:
        _signal_group(pid, signal.SIGKILL)
    for _ in range(_SWEEPS):
        if not _kill_orphans(set()):
            break
        time.sleep(0.01)


def _fork(
    descriptors: list[int], children: set[int], daemon: socket.socket, private: list[socket.socket]
) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        _tell(daemon, {"refused": error.errno or 0})
    else:
        if pid == 0:
            for end in private:
                end.close()
            _become_child(descriptors)
        children.add(pid)
        _tell(daemon, {"started": pid})
    for descriptor in descriptors:
        os.close(descriptor)


def _reap(children: set[int], daemon: socket.socket) -> None:
    """Tell who ended; what a child started and left behind ends with it."""
    for pid in list(children):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            continue
        _signal_group(pid, signal.SIGKILL)  # before reaping: until then the number cannot be another's
        _, status = os.waitpid(pid, 0)
        children.discard(pid)
        _tell(daemon, {"ended": pid, "status": os.waitstatus_to_exitcode(status)})
    _kill_orphans(children)


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


def _tell(daemon: socket.socket, message: dict[str, int]) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the next read sees the end
        daemon.send(json.dumps(message).encode())


def _become_child(descriptors: list[int]) -> NoReturn:
    """Run one attempt in the forked process and end it."""
    code = 70
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        _die_with_parent()
        _adopt_orphans()  # while it lives they are its own
        channel, requests, stdout, stderr = descriptors
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stdout)
        os.close(stderr)
        from erpsync.running.child import run_child

        code = run_child(socket.socket(fileno=channel), socket.socket(fileno=requests))
    except BaseException:  # noqa: BLE001 - nothing may unwind into the server's loop
        traceback.print_exc()
    finally:
        os._exit(code)


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

    import erpsync.running.child  # noqa: F401 - what every child needs

    anyio.run(anyio.sleep, 0)  # its first loop imports the half of anyio, which would take each child 15 ms
    _adopt_orphans()
    gc.collect()
    gc.freeze()  # what is shared with the children stays unwritten, hence shared
    serve(daemon)


if __name__ == "__main__":
    main()
