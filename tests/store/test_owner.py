"""The owner's lock and the run logs."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from erpsync.core.errors import OwnedElsewhereError, StoreUnavailableError
from erpsync.store.owner import OwnerLock, owner_of
from erpsync.store.run_log import RunLog

HOLDER = """
import sys, pathlib
from erpsync.store.owner import OwnerLock
OwnerLock(pathlib.Path(sys.argv[1])).acquire("daemon")
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_is_told_who_owns_the_state(tmp_path: Path) -> None:
    """The lock names its holder, and is free again after kill -9."""
    state = tmp_path / "state.db"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert (owner_of(state) or "").startswith(f"daemon (pid {holder.pid} on")
    with pytest.raises(OwnedElsewhereError, match=f"daemon \\(pid {holder.pid} on") as caught:
        OwnerLock(state).acquire("run products")
    assert f"kill {holder.pid}" in caught.value.hint
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert owner_of(state) is None
    lock = OwnerLock(state)
    lock.acquire("run products")
    lock.release()
    lock.release()


def test_a_lock_that_cannot_lie_anywhere_is_named(tmp_path: Path) -> None:
    """A file where the data folder should be, and a folder where the lock should be, are told with the place."""
    (tmp_path / "data").write_text("a file")
    (tmp_path / "state.db.lock").mkdir()
    for state in (tmp_path / "data" / "state.db", tmp_path / "state.db"):
        with pytest.raises(StoreUnavailableError, match=str(state)) as caught:
            OwnerLock(state).acquire("daemon")
        assert caught.value.hint


def test_run_logs_are_read_on_from_where_one_was(tmp_path: Path) -> None:
    """Records come back whole and in order; a torn line is left out until it is whole."""
    log = RunLog(tmp_path / "logs")
    log.append("0123456789", {"event": "page.read", "rows": 3})
    records, offset = log.read("0123456789")
    assert records == [{"event": "page.read", "rows": 3}]
    path = next((tmp_path / "logs").rglob("*.jsonl"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open("ab") as file:
        file.write(b'{"event": "late", "text": "')
    assert log.read("0123456789", offset) == ([], offset)
    with path.open("ab") as file:
        file.write('цяла"}\n'.encode())
    assert log.read("0123456789", offset)[0] == [{"event": "late", "text": "цяла"}]
    assert log.read("unknown") == ([], 0)


def test_a_talkative_run_is_cut_with_a_word(tmp_path: Path) -> None:
    """A log ends at its limit with a record that says so."""
    log = RunLog(tmp_path)
    for _ in range(30):
        log.append("run", {"event": "noise", "text": "x" * 250_000})
    records, size = log.read("run")
    assert records[-1]["event"] == "log.truncated"
    assert size < 6 * 2**20
    assert os.listdir(tmp_path) == ["run"]
