"""Requests that nobody sane would send to the control socket of a real daemon: answered, and never by a fault."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from tests.acceptance.site import BASE, MIRROR, Site

EXAMPLES = 25


@pytest.mark.slow
def test_no_request_makes_a_fault_of_the_daemon(site: Site) -> None:
    """Each operation of the API's own description gets odd and malformed requests; none is answered with 500."""
    site.write(BASE + MIRROR)
    with site.daemon() as daemon, _bridged(site.folder / "data" / "control.sock") as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        operations = [each.ok() for each in schema.get_all_operations()]
        assert len(operations) >= 10
        for operation in operations:

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                phases=(Phase.explicit, Phase.generate),
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def attack(case: schemathesis.Case) -> None:
                case.call_and_validate(checks=[not_a_server_error])

            attack()
        assert site.json("status")["daemon"]["pid"] == daemon.pid
        assert site.stop(daemon) == 0
    assert "control.failed" not in site.outputs[-1]
    assert "daemon.faulted" not in site.outputs[-1]


@contextmanager
def _bridged(path: Path) -> Iterator[str]:
    """A port on loopback whose connections end at a Unix socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=_accept, args=(listener, path))
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(listener: socket.socket, path: Path) -> None:
    with suppress(OSError):  # closed
        while True:
            near, _ = listener.accept()
            threading.Thread(target=_serve, args=(near, path), daemon=True).start()


def _serve(near: socket.socket, path: Path) -> None:
    """One connection, until both sides have ended."""
    with near, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as far:
        far.connect(str(path))
        there = threading.Thread(target=_carry, args=(near, far))
        there.start()
        _carry(far, near)
        there.join()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
