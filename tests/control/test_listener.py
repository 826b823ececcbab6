"""The control socket's rights and its predecessors."""

import grp
import os
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from erpsync.control.listener import (
    bind_control_socket,
    socket_problems,
    unreachable,
    user_name,
)
from erpsync.control.peer import peer_name
from erpsync.core.errors import ConfigError, OwnedElsewhereError


def test_rights_are_as_configured(tmp_path: Path) -> None:
    """The socket has the configured mode and group whatever the umask is."""
    group = grp.getgrgid(os.getgid()).gr_name
    with bind_control_socket(tmp_path / "control.sock", 0o660, group):
        found = (tmp_path / "control.sock").stat()
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert found.st_gid == os.getgid()


def test_a_dead_socket_is_replaced_a_living_one_is_not(tmp_path: Path) -> None:
    """The socket of a killed daemon is replaced; where somebody answers the second comer is told so."""
    path = tmp_path / "control.sock"
    bind_control_socket(path, 0o600, None).close()
    with bind_control_socket(path, 0o600, None), pytest.raises(OwnedElsewhereError):
        bind_control_socket(path, 0o600, None)


def test_bad_paths_and_groups_are_problems(tmp_path: Path) -> None:
    """A path longer than a Unix socket may have, and an unknown group, are configuration errors with their key."""
    with pytest.raises(ConfigError) as too_long:
        bind_control_socket(tmp_path / ("x" * 120), 0o600, None)
    with pytest.raises(ConfigError) as no_group:
        bind_control_socket(tmp_path / "control.sock", 0o600, "no-such-group")
    assert [caught.value.problems[0].key for caught in (too_long, no_group)] == [
        "control.socket",
        "control.group",
    ]


def test_the_kernel_names_the_peer() -> None:
    """The peer of a socket pair is ourselves; a user id without a name is shown as a number."""
    left, right = socket.socketpair()
    with left, right:
        assert peer_name(left) == user_name(os.getuid())
    assert user_name(3_999_999_999) == "uid 3999999999"


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    """What is no socket is never removed; the problem names it."""
    path = tmp_path / "control.sock"
    path.write_text("somebody's notes")
    with pytest.raises(ConfigError) as caught:
        bind_control_socket(path, 0o600, None)
    assert "no socket" in caught.value.problems[0].message
    assert path.read_text() == "somebody's notes"


def as_somebody(group: int, does: Callable[[], object]) -> str:
    """What a user without any rights but those of a group comes to; a fork, for that user may not read our files."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setgroups([])
        os.setgid(group)
        os.setuid(65534)
        try:
            found = str(does())
        except OSError as error:
            found = str(error)
        os.write(writing, found.encode())
        os._exit(0)
    os.wait()
    return os.read(reading, 4000).decode()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("rights", [0o700, 0o710])
def test_whether_a_member_of_the_group_gets_to_the_socket_is_known(rights: int) -> None:
    """As another user of that group: through folders that are their owner's alone there is no way, and it is said."""
    group = grp.getgrall()[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "data")
        path = folder / "control.sock"
        Path(name).chmod(0o755)
        assert "owner alone" in unreachable(path, 0o660, group.gr_name)
        folder.mkdir()
        os.chown(folder, -1, group.gr_gid)
        folder.chmod(rights)
        with bind_control_socket(path, 0o660, group.gr_name):
            said = unreachable(path, 0o660, group.gr_name)
            came = as_somebody(group.gr_gid, lambda: socket.socket(socket.AF_UNIX).connect(str(path)))
    assert (said == "", came == "None") == (rights == 0o710,) * 2
    assert unreachable(path, 0o600, group.gr_name) == "", "then the group is not meant to"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_group_of_others_is_a_problem_of_the_configuration() -> None:
    """A user who is no member may not give the socket to a group: said with the command that makes them one."""
    other = next(group for group in grp.getgrall() if group.gr_gid not in (0, 65534))
    said = as_somebody(65534, lambda: socket_problems(Path("/nowhere/s"), other.gr_name)[0].text())
    assert said.startswith("error[E401]")
    assert f"usermod --append --groups {other.gr_name} nobody" in said
