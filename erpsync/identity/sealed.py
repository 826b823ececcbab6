"""Tokens at rest: one sealed file an identity, bound to this machine, written whole or not at all.

A file is a header (magic, id of the key, nonce) and AES-256-GCM of the token as JSON. What else it belongs to
(machine, server, client, identity) is authenticated and not written, so a file that was copied elsewhere is noise.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from erpsync.config.seal import SHORTEST_KEY
from erpsync.core.errors import StoreUnavailableError
from erpsync.core.event import Emit
from erpsync.core.instance import Identity
from erpsync.store.place_fault import place_faults

_MAGIC = b"erpsync sealed 1\n"
_KEY_ID = 8
_NONCE = 12
_LARGEST = 1 << 20
_LOCK_PATIENCE = 60.0  # an exchange under the lock is over in half a minute
_STALE_SECONDS = 3600.0
_ENDED_KEPT = 50


@dataclass(frozen=True, slots=True)
class Attempt:
    """A refresh token on its way: noted before it is sent, so that a crash in between is seen afterwards."""

    fingerprint: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StoredToken:
    """What is kept of one identity. `lifetime` in seconds counts from `sent_at`; instants are aware UTC. `basis`
    tells with what it was asked for.

    The rest is a person's: `refreshed_at` is when the refresh token came, `subject` who signed in, `attempt` an
    exchange whose answer nobody has seen yet, `refused` why the server does not take the refresh token any more.
    """

    access_token: str = field(repr=False)
    sent_at: datetime
    lifetime: float
    scope: tuple[str, ...]
    refresh_token: str | None = field(default=None, repr=False)
    refreshed_at: datetime | None = None
    id_token: str | None = field(default=None, repr=False)
    subject: str | None = None
    attempt: Attempt | None = None
    refused: str = ""
    basis: str = ""


def fingerprint(secret: str) -> str:
    """Twelve hexadecimal digits that tell secrets apart and give nothing away."""
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


class SealedStore:
    """The folder of sealed tokens. The first of `keys` seals, all of them open."""

    def __init__(
        self, folder: Path, keys: Sequence[bytes | str], emit: Emit, *, host: str | None = None
    ) -> None:
        """`keys` are secrets of at least `SHORTEST_KEY` bytes; `host` is this machine's id.

        Raises:
            StoreUnavailableError: the folder cannot be made.
        """
        self._folder = folder
        self._keys = [_Key(key.encode() if isinstance(key, str) else key) for key in keys]
        self._emit = emit
        self._host = machine_id() if host is None else host
        with place_faults(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _remove_stale(folder)

    def drawer(self, identity: Identity, server: str) -> "Drawer":
        """The place of one identity; `server` is the URL of its instance, or its issuer."""
        bound = (self._host, server, identity.client_id, identity.name)
        return Drawer(self._folder, self._keys, bound, self._emit)


class _Key:
    """A key derived from a secret, and the name it has in files."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SHORTEST_KEY:
            raise ValueError(f"a key of {len(secret)} bytes; at least {SHORTEST_KEY} are needed")
        self.cipher = AESGCM(_derived(secret, b"erpsync sealed token", 32))
        self.name = _derived(secret, b"erpsync sealed key id", _KEY_ID)


def _derived(secret: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=purpose).derive(secret)


class Drawer:
    """The sealed token of one identity. Its methods touch a file or two and take well under a millisecond, but for
    `save`, which waits for the disk: call it in a thread. Used by one task at a time in a process."""

    def __init__(
        self, folder: Path, keys: Sequence[_Key], bound: tuple[str, str, str, str], emit: Emit
    ) -> None:
        self._keys = keys
        self._bound = json.dumps(bound).encode()
        self._identity = bound[3]
        self._emit = emit
        self._path = folder / (hashlib.sha256(json.dumps(bound[1:]).encode()).hexdigest()[:32] + ".sealed")
        self._ended_file = self._path.with_suffix(".ended")
        self._ended: tuple[tuple[int, ...] | None, tuple[str, ...]] = (None, ())
        self._seen: tuple[int, ...] | None = None
        self._looking = threading.Lock()  # file and `_seen` change together; held for no more than a rename

    def load(self) -> StoredToken | None:
        """What is stored; None where nothing is or nothing that can be used, which is then set aside."""
        try:
            with self._looking:
                file = open(self._path, "rb", opener=_open_at_once)  # noqa: SIM115 - closed below
                self._seen = _stamp(os.fstat(file.fileno()))
            with file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise _UnusableError("it is not a regular file")
                return _token(self._opened(file.read(_LARGEST)))
        except FileNotFoundError:
            self._seen = None
        except _UnusableError as error:
            self._set_aside(str(error))
        except OSError as error:
            self._set_aside(f"it cannot be read: {error.strerror}")
        return None

    def save(self, token: StoredToken) -> None:
        """Durable when it returns; a crash leaves the token before or this one.

        Raises:
            StoreUnavailableError: the disk refuses.
        """
        key, nonce = self._keys[0], os.urandom(_NONCE)
        header = _MAGIC + key.name + nonce
        content = header + key.cipher.encrypt(nonce, _text(token), header + self._bound)
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        with place_faults(self._path):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
                seen = _stamp(os.fstat(descriptor))
            with self._looking:
                temporary.replace(self._path)
                self._seen = seen
            _sync_folder(self._path.parent)

    def clear(self) -> None:
        """Nothing is stored any more. Raises StoreUnavailableError."""
        with place_faults(self._path):
            with self._looking:
                self._path.unlink(missing_ok=True)
                self._seen = None
            _sync_folder(self._path.parent)

    def changed(self) -> bool:
        """Whether somebody else has written or cleared since the last `load`, `save` or `clear`."""
        with self._looking:
            try:
                return _stamp(self._path.stat()) != self._seen
            except OSError:
                return self._seen is not None

    def is_empty(self) -> bool:
        """Whether nothing is stored; cheap."""
        return not self._path.exists()

    def note_ended(self, session: str) -> None:
        """The server has ended this session: whoever reckons with licence slots need not wait. Raises
        StoreUnavailableError."""
        with place_faults(self._ended_file):
            lines = [*self.ended(), session][-_ENDED_KEPT:]
            temporary = self._ended_file.with_suffix(f".{os.getpid()}.tmp")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write("\n".join(lines))
            temporary.replace(self._ended_file)

    def ended(self) -> tuple[str, ...]:
        """Sessions of which that was noted, by fingerprint; cheap."""
        try:
            stamp = _stamp(self._ended_file.stat())
            if stamp != self._ended[0]:
                self._ended = stamp, tuple(self._ended_file.read_text("ascii", "replace").split())
        except OSError:
            self._ended = None, ()
        return self._ended[1]

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Nobody else, in this process or another, holds it meanwhile: read, exchange and write under it.

        Raises:
            StoreUnavailableError: somebody has held it for a minute, or the file system has no locks.
        """
        # never deleted: a file that comes and goes can be locked twice
        path = self._path.with_suffix(".lock")
        with place_faults(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            end = time.monotonic() + _LOCK_PATIENCE
            while not _locked(descriptor, path):
                if time.monotonic() > end:
                    raise StoreUnavailableError(
                        f"the stored token of {self._identity} is held by another process",
                        hint="a daemon or a command of this user hangs while it renews or signs in",
                    )
                await asyncio.sleep(0.05)
            yield
        finally:
            os.close(descriptor)

    def _opened(self, content: bytes) -> bytes:
        start = len(_MAGIC) + _KEY_ID
        header, sealed = content[: start + _NONCE], content[start + _NONCE :]
        if not header.startswith(_MAGIC):
            raise _UnusableError("it is no sealed token, or half of one")
        name, nonce = header[len(_MAGIC) : start], header[start:]
        key = next((key for key in self._keys if key.name == name), None)
        if key is None:
            raise _UnusableError("it was sealed with a key that seal_key does not hold")
        try:
            return key.cipher.decrypt(nonce, sealed, header + self._bound)
        except (InvalidTag, ValueError) as error:
            raise _UnusableError(
                "it is damaged, or from another machine, instance, client or identity"
            ) from error

    def _set_aside(self, reason: str) -> None:
        """One such file an identity is kept, for whoever wants to look."""
        aside = self._path.with_suffix(".damaged")
        self._seen = None
        try:
            self._path.replace(aside)
        except OSError:  # it stays, and is looked at again when somebody changes it
            with suppress(OSError):
                self._seen = _stamp(self._path.stat())
        self._emit(
            "token.set_aside", level="warning", identity=self._identity, reason=reason, file=str(aside)
        )


class _UnusableError(Exception):
    """A file that cannot be used; says why."""


def machine_id() -> str:
    """What tells this machine from others (machine-id(5)); containers often have none, there the key alone binds."""
    try:
        return Path("/etc/machine-id").read_text("ascii", "replace").strip() or "any"
    except OSError:
        return "any"


def _text(token: StoredToken) -> bytes:
    fields = {name: getattr(token, name) for name in StoredToken.__slots__}
    fields["attempt"] = token.attempt and [token.attempt.fingerprint, token.attempt.at.isoformat()]
    return json.dumps(fields, default=datetime.isoformat).encode()


def _open_at_once(path: str, flags: int) -> int:
    """A pipe that nobody writes into is opened too, instead of waiting for its writer."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _token(content: bytes) -> StoredToken:
    try:
        fields: Mapping[str, Any] = json.loads(content)
        token = StoredToken(**{**fields, "scope": tuple(fields["scope"])})
        attempt = token.attempt and Attempt(fields["attempt"][0], _instant(fields["attempt"][1]))
        renewed = token.refreshed_at and _instant(fields["refreshed_at"])
        return replace(token, sent_at=_instant(fields["sent_at"]), refreshed_at=renewed, attempt=attempt)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise _UnusableError("it was written by another version") from error


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_mtime_ns, found.st_size


def _locked(descriptor: int, path: Path) -> bool:
    with place_faults(path):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(folder: Path) -> None:
    """What processes left that were killed while they wrote."""
    for temporary in folder.glob("*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - temporary.stat().st_mtime > _STALE_SECONDS:
                temporary.unlink()
