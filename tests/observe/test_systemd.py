"""sd_notify over a real datagram socket."""

import os
import socket
from pathlib import Path

import pytest

from erpsync.observe.systemd import ServiceNotifier


def test_states_reach_the_named_socket(tmp_path: Path) -> None:
    """READY and STATUS arrive in one datagram, as sd_notify(3) says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        notifier = ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"})
        notifier.tell(READY=1, STATUS="4 jobs")
        assert listener.recv(200) == b"READY=1\nSTATUS=4 jobs"
    assert notifier.watchdog_seconds == 30.0
    notifier.tell(STOPPING=1)  # nobody listens any more


def test_children_do_not_inherit_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables leave the environment, and a watchdog meant for another process is not fed."""
    monkeypatch.setenv("NOTIFY_SOCKET", "@nobody")
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notifier = ServiceNotifier()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
    assert notifier.watchdog_seconds is None
