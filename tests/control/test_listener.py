"""The control socket's rights and its predecessors."""

import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from erpsync.control.listener import bind_control_socket, peer_name, user_name
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
