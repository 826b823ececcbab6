"""The owner's lock: one process writes a state; whoever comes second is told who."""

import fcntl
import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from erpsync.core.errors import OwnedElsewhereError
from erpsync.core.fork_safety import forget, keep_from_copies
from erpsync.store.place_fault import place_faults


def lock_file(state: Path) -> Path:
    """The file that the owner of a state has locked."""
    return state.with_name(state.name + ".lock")


class OwnerLock:
    """An exclusive lock beside the state database; the kernel frees it however its holder ends."""

    def __init__(self, state: Path) -> None:
        self._path = lock_file(state)
        self._descriptor: int | None = None

    def acquire(self, purpose: str) -> None:
        """Become the owner; `purpose` ("daemon", "run products") is shown to whoever comes second.

        Raises:
            OwnedElsewhereError: somebody else is; retryable.
            StoreUnavailableError: the lock file cannot be made; retryable.
        """
        with place_faults(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            note = os.pread(descriptor, 4096, 0)
            owner = _describe(note)
            os.close(descriptor)
            raise OwnedElsewhereError(
                f"the state {self._path.with_suffix('')} is owned by {owner}",
                owner=owner,
                hint=_remedy(note),
            ) from error
        mine = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "purpose": purpose,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(mine).encode(), 0)
        self._descriptor = descriptor
        keep_from_copies(descriptor)

    def release(self) -> None:
        """Stop being the owner; the file stays, for a lock file that is deleted can be locked twice."""
        if self._descriptor is not None:
            with suppress(OSError):  # it cannot be written any more; the kernel frees it nevertheless
                os.ftruncate(self._descriptor, 0)
            forget(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


def owner_of(state: Path) -> str | None:
    """Who owns a state: purpose, pid, host and since when; None where nobody does, or nobody may know."""
    try:
        descriptor = os.open(lock_file(state), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        note = os.pread(descriptor, 4096, 0)
        if _may_be_alive(note):  # else it is free, and who wants to own it must not meet us there
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _describe(note)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _may_be_alive(note: bytes) -> bool:
    """Whether the process of a note may be there still; what crashed has left its note."""
    try:
        owner = json.loads(note)
        if owner["host"] == socket.gethostname():
            os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except (ValueError, KeyError, TypeError, OSError):
        return bool(note)
    return True


def _describe(note: bytes) -> str:
    try:
        owner = json.loads(note)
        return f"{owner['purpose']} (pid {owner['pid']} on {owner['host']}, since {owner['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _remedy(note: bytes) -> str:
    with suppress(ValueError, KeyError, TypeError):
        owner = json.loads(note)
        if owner["purpose"] == "daemon":
            return f"erpsync status asks it; to stop it: systemctl stop, or kill {int(owner['pid'])}"
    return "wait until it has ended"
