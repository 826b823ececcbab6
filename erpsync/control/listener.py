"""The control socket: its place and its rights."""

import grp
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path

from erpsync.core.errors import ConfigError, OwnedElsewhereError
from erpsync.core.problem import Problem

_LONGEST = 107  # bytes of a Unix socket's path, unix(7)


def bind_control_socket(path: Path, mode: int, group: str | None) -> socket.socket:
    """A listening Unix socket at `path` with these rights; a dead predecessor's socket is replaced.

    Raises:
        ConfigError: see `socket_problems`.
        OwnedElsewhereError: somebody answers there already; retryable.
    """
    if problems := socket_problems(path, group):
        raise ConfigError(problems)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _remove_dead(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)  # nobody else until the rights are set
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    if group is not None:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    path.chmod(mode)
    listener.listen(64)
    return listener


def socket_problems(path: Path, group: str | None) -> list[Problem]:
    """Why this user cannot make a control socket for `group` at `path`: too long, something else there; no such
    group, or one that it may not give the socket to."""
    problems = []
    if len(os.fsencode(path)) > _LONGEST:
        problems.append(_problem(f"{path} is too long for a Unix socket", "control.socket", "a shorter path"))
    elif os.path.exists(path) and not path.is_socket():
        remedy = "move it away or name another path"
        problems.append(_problem(f"{path} is there and is no socket", "control.socket", remedy))
    if group is not None:
        problems += _group_problems(group)
    return problems


def unreachable(path: Path, mode: int, group: str | None) -> str:
    """Why the members of `group` could not use a socket at `path` although its rights let them; empty where they can.

    Folders that are not there yet are made for their owner alone.
    """
    try:
        number = grp.getgrnam(group).gr_gid if group and mode & 0o060 == 0o060 else None
    except (KeyError, ValueError):  # which is another problem
        return ""
    for folder in reversed(path.parents) if number is not None else ():
        try:
            found = folder.stat()
        except OSError:
            return f"{folder} is made for its owner alone"
        if not found.st_mode & (0o010 if found.st_gid == number else 0o001):
            return f"{folder} lets no member of it in"
    return ""


def user_name(user: int) -> str:
    """The name of a user id, or "uid 1234" where it has none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid {user}"


def _group_problems(group: str) -> Iterator[Problem]:
    try:
        number = grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        yield _problem(f'there is no group "{group}" on this machine', "control.group", f"groupadd {group}")
        return
    user = os.geteuid()
    if user != 0 and number not in (os.getegid(), *os.getgroups()):
        who = user_name(user)
        message = f'{who} cannot give the socket to the group "{group}", for it is no member'
        yield _problem(message, "control.group", f"usermod --append --groups {group} {who}, then start again")


def _remove_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a daemon that stands still may have no room for us
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OwnedElsewhereError(
        f"another daemon listens on {path}", hint="give each daemon its own data folder or [control] socket"
    )


def _problem(message: str, key: str, remedy: str) -> Problem:
    return Problem("E401", "error", message, key=key, help=remedy)
