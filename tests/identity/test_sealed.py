"""The sealed store: what it keeps, what it refuses, and that a crash never leaves half of it."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

import pytest

from erpsync.core.errors import StoreUnavailableError
from erpsync.core.instance import Identity
from erpsync.identity import sealed
from erpsync.identity.sealed import Attempt, Drawer, SealedStore, StoredToken

NIGHT = Identity("night@acme", "acme", "my.trusted.app/service")
URL = "https://acme.my.erp.net"
KEY, OLD_KEY = "k" * 32, b"\xff" * 40
AT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
TOKEN = StoredToken("the-access-token", AT, 3600.0, ("read", "update"))
PERSON = replace(
    TOKEN,
    refresh_token="the-refresh-token",
    refreshed_at=AT,
    id_token="the-id-token",
    subject="ann",
    attempt=Attempt("0123456789ab", AT),
    refused="reused",
)

Events = list[tuple[str, dict[str, object]]]


class Folder:
    """A folder of tokens, opened as often as a test likes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: Events = []

    def drawer(
        self,
        *keys: str | bytes,
        host: str = "machine-1",
        identity: Identity = NIGHT,
        server: str = URL,
    ) -> Drawer:
        def emit(event: str, /, *, level: str = "info", **fields: object) -> None:
            self.events.append((event, fields))

        return SealedStore(self.path, keys or (KEY,), emit, host=host).drawer(identity, server)

    @property
    def sealed(self) -> Path:
        (path,) = self.path.glob("*.sealed")
        return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "state" / "tokens")


@pytest.mark.parametrize("token", [TOKEN, PERSON], ids=["service", "person"])
def test_kept_whole(folder: Folder, token: StoredToken) -> None:
    """What is saved is loaded again by another process's store, every field of it."""
    assert folder.drawer().load() is None
    folder.drawer().save(token)
    assert folder.drawer().load() == token
    assert folder.events == []


def test_nothing_readable_at_rest(folder: Folder) -> None:
    """Files are 0600 in a folder of 0700 and hold neither tokens nor names; reprs show no value."""
    folder.drawer().save(PERSON)
    content = folder.sealed.read_bytes() + str(folder.sealed).encode() + repr(PERSON).encode()
    for secret in (b"the-access-token", b"the-refresh-token", b"the-id-token", b"night@acme"):
        assert secret not in content
    assert folder.sealed.stat().st_mode & 0o777 == 0o600
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_every_changed_byte_is_noticed(folder: Folder) -> None:
    """A file with any bit turned over is set aside with an event, and the identity begins anew."""
    folder.drawer().save(TOKEN)
    good = folder.sealed.read_bytes()
    path = folder.sealed
    for index in range(len(good)):
        path.write_bytes(good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :])
        assert folder.drawer().load() is None
        assert not path.exists()
    assert len(list(folder.path.glob("*.damaged"))) == 1
    assert [name for name, _ in folder.events] == ["token.set_aside"] * len(good)


@pytest.mark.parametrize("length", [0, 1, 20, 40, -1])
def test_torn_file(folder: Folder, length: int) -> None:
    """A file that ends too early is set aside."""
    folder.drawer().save(TOKEN)
    folder.sealed.write_bytes(folder.sealed.read_bytes()[:length])
    assert folder.drawer().load() is None
    folder.drawer().save(TOKEN)
    assert folder.drawer().load() == TOKEN


def test_unreadable_file(folder: Folder) -> None:
    """What stands there and is no file is moved out of the way too."""
    drawer = folder.drawer()
    drawer.save(TOKEN)
    path = folder.sealed
    path.unlink()
    path.mkdir()
    assert drawer.load() is None
    drawer.save(TOKEN)
    assert drawer.load() == TOKEN


def test_a_pipe_in_place_of_a_file(folder: Folder) -> None:
    """It is not waited for."""
    drawer = folder.drawer()
    drawer.save(TOKEN)
    path = folder.sealed
    path.unlink()
    os.mkfifo(path)
    assert drawer.load() is None
    drawer.save(TOKEN)
    assert drawer.load() == TOKEN


def test_unreadable_file_that_cannot_be_moved(folder: Folder) -> None:
    """Where it cannot even be moved away, it is told once and not taken for news again and again."""
    drawer = folder.drawer()
    drawer.save(TOKEN)
    path = folder.sealed
    path.unlink()
    path.mkdir()
    path.with_suffix(".damaged").write_text("in the way")
    assert drawer.load() is None
    assert path.exists()
    assert not drawer.changed()
    assert len(folder.events) == 1


def test_another_machine(folder: Folder) -> None:
    """A file that came from another machine is not opened."""
    folder.drawer().save(TOKEN)
    assert folder.drawer(host="machine-2").load() is None
    (event,) = folder.events
    assert event[0] == "token.set_aside"
    assert event[1]["identity"] == "night@acme"
    assert "another machine" in str(event[1]["reason"])


@pytest.mark.parametrize(
    ("identity", "server"),
    [
        (replace(NIGHT, name="day@acme"), URL),
        (replace(NIGHT, client_id="other"), URL),
        (NIGHT, "https://beta.my.erp.net"),
    ],
    ids=["identity", "client", "server"],
)
def test_another_identity(folder: Folder, identity: Identity, server: str) -> None:
    """Another identity, client or server has a drawer of its own, and a file moved there stays shut."""
    folder.drawer().save(TOKEN)
    mine = folder.sealed.read_bytes()
    other = folder.drawer(identity=identity, server=server)
    assert other.load() is None
    other.save(PERSON)
    assert folder.drawer().load() == TOKEN
    for path in folder.path.glob("*.sealed"):
        path.write_bytes(mine)
    assert folder.drawer().load() == TOKEN
    assert other.load() is None


def test_key_ring(folder: Folder) -> None:
    """An old key of the ring still opens, the first one seals, and one that is missing opens nothing."""
    folder.drawer(OLD_KEY).save(TOKEN)
    rolling = folder.drawer(KEY, OLD_KEY)
    assert rolling.load() == TOKEN
    rolling.save(PERSON)
    assert folder.drawer(KEY).load() == PERSON
    assert folder.drawer(OLD_KEY).load() is None
    assert "seal_key" in str(folder.events[0][1]["reason"])


def test_short_key(folder: Folder) -> None:
    """A secret of fewer than 32 bytes seals nothing."""
    with pytest.raises(ValueError, match="at least 32"):
        folder.drawer("k" * 31)


def test_changed_by_somebody_else(folder: Folder) -> None:
    """A drawer notices what others wrote or cleared, and not what it did itself."""
    mine, other = folder.drawer(), folder.drawer()
    assert not mine.changed()
    mine.save(TOKEN)
    assert not mine.changed()
    other.load()
    other.save(PERSON)
    assert mine.changed()
    assert mine.load() == PERSON
    assert not mine.changed()
    other.clear()
    assert mine.changed()
    assert mine.load() is None
    assert not mine.changed()


def test_disk_refuses(folder: Folder) -> None:
    """Where nothing can be written the error is retryable, and what was stored is still there."""
    drawer = folder.drawer()
    drawer.save(TOKEN)
    temporary = folder.sealed.with_suffix(f".{os.getpid()}.tmp")
    temporary.mkdir()
    with pytest.raises(StoreUnavailableError):
        drawer.save(PERSON)
    assert drawer.load() == TOKEN


def test_stale_temporaries_go(folder: Folder) -> None:
    """What a killed process left half written is removed after an hour, not before."""
    folder.drawer().save(TOKEN)
    old, young = folder.path / "a.1.tmp", folder.path / "b.2.tmp"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    folder.drawer()
    assert not old.exists()
    assert young.exists()


_SCRIPT = """
    import asyncio, os, signal, sys
    from dataclasses import replace
    from datetime import UTC, datetime
    from pathlib import Path
    from erpsync.core.event import silent
    from erpsync.core.instance import Identity
    from erpsync.identity.sealed import SealedStore, StoredToken

    identity = Identity("night@acme", "acme", "my.trusted.app/service")
    drawer = SealedStore(Path(sys.argv[1]), ["k" * 32], silent, host="machine-1").drawer(
        identity, "https://acme.my.erp.net"
    )
"""


def _process(folder: Folder, body: str, *arguments: str) -> "subprocess.Popen[bytes]":
    code = dedent(_SCRIPT) + dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path), *arguments], stdout=subprocess.PIPE
    )


def test_killed_between_write_and_rename(folder: Folder) -> None:
    """A process killed after writing and before renaming leaves the token before it, whole."""
    folder.drawer().save(TOKEN)
    body = """
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        drawer.save(replace(drawer.load(), access_token="never-seen"))
    """
    with _process(folder, body) as process:
        assert process.wait(30) == -signal.SIGKILL
    assert len(list(folder.path.glob("*.tmp"))) == 1
    assert folder.drawer().load() == TOKEN


def test_concurrent_processes(folder: Folder) -> None:
    """Processes that read, change and write under the lock lose none of their changes."""
    folder.drawer().save(replace(TOKEN, lifetime=0.0))
    body = """
        async def work():
            for _ in range(25):
                async with drawer.lock():
                    token = drawer.load()
                    await asyncio.sleep(0)
                    drawer.save(replace(token, lifetime=token.lifetime + 1))
        asyncio.run(work())
    """
    processes = [_process(folder, body) for _ in range(3)]
    for process in processes:
        with process:
            assert process.wait(60) == 0
    stored = folder.drawer().load()
    assert stored is not None
    assert stored.lifetime == 75.0
    assert folder.events == []


async def test_lock_ends_with_its_process(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a lock gets it when its holder is killed, and an error where the holder hangs."""
    body = """
        async def hold():
            async with drawer.lock():
                print("held", flush=True)
                await asyncio.sleep(600)
        asyncio.run(hold())
    """
    drawer = folder.drawer()
    with _process(folder, body) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with monkeypatch.context() as hurry:
            hurry.setattr(sealed, "_LOCK_PATIENCE", 0.0)
            with pytest.raises(StoreUnavailableError, match="night@acme"):
                async with drawer.lock():
                    pass
        process.kill()
        async with asyncio.timeout(30), drawer.lock():
            pass


async def test_lock_within_a_process(folder: Folder) -> None:
    """Two tasks of one process exclude each other, and one that is cancelled while it waits leaves nothing locked."""
    first, second = folder.drawer(), folder.drawer()
    async with first.lock():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), second.lock():
                pass
    async with asyncio.timeout(30), second.lock():
        pass


async def test_a_file_system_without_locks(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operating system refuses is an error of the place, and no file stays open for it."""

    def refuses(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuses)
    with pytest.raises(StoreUnavailableError, match="No locks available"):
        async with folder.drawer().lock():
            pass
