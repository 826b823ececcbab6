"""Where configuration files come from: the disk, or what was kept of them when they were accepted."""

import errno
import glob
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

LARGEST = 32 * 1024 * 1024
"""Bytes of a file at most; ten thousand jobs are a tenth of that."""


class Shelf(Protocol):
    """Files by their absolute paths."""

    def read(self, path: Path) -> bytes:
        """The content of a file. Raises OSError."""
        ...

    def find(self, folder: Path, pattern: str) -> Sequence[str]:
        """The files that match a glob pattern, relative to `folder`, in order."""
        ...


class Disk:
    """The files as they are now."""

    def read(self, path: Path) -> bytes:
        """The content of a file. Raises OSError."""
        return _content(path)

    def find(self, folder: Path, pattern: str) -> Sequence[str]:
        """The files that match a glob pattern, relative to `folder`, in order."""
        found = sorted(glob.glob(pattern, root_dir=folder, recursive=True))
        if not glob.has_magic(pattern):
            return found  # meant as it is: what is no file is told when it is read
        return [name for name in found if (folder / name).exists() and not (folder / name).is_dir()]


@dataclass(slots=True)
class Recording(Disk):
    """The disk, and a note of all that was read from it."""

    contents: dict[str, str] = field(default_factory=dict)
    matches: dict[str, list[str]] = field(default_factory=dict)

    def read(self, path: Path) -> bytes:
        """The content of a file. Raises OSError."""
        content = _content(path)
        self.contents[str(path.absolute())] = content.decode("utf-8", "surrogateescape")
        return content

    def find(self, folder: Path, pattern: str) -> Sequence[str]:
        """The files that match a glob pattern, relative to `folder`, in order."""
        found = Disk.find(self, folder, pattern)
        self.matches[pattern] = list(found)
        return found


@dataclass(frozen=True, slots=True)
class Kept:
    """The files of `path` as they were when they were accepted, at an aware UTC instant."""

    path: Path
    accepted_at: datetime
    contents: Mapping[str, str]
    matches: Mapping[str, Sequence[str]]

    def read(self, path: Path) -> bytes:
        """The content of a file. Raises FileNotFoundError."""
        try:
            return self.contents[str(path.absolute())].encode("utf-8", "surrogateescape")
        except KeyError as error:
            raise FileNotFoundError(2, os.strerror(2)) from error

    def find(self, folder: Path, pattern: str) -> Sequence[str]:
        """The files that matched a glob pattern, relative to `folder`, in order."""
        return self.matches.get(pattern, ())


def keep(recording: Recording, path: Path, now: datetime, data: Path) -> None:
    """Keep what was read of the configuration `path`, durably, in the folder `data`. Raises OSError."""
    document = {
        "path": str(path.absolute()),
        "accepted_at": now.isoformat(),
        "contents": recording.contents,
        "matches": recording.matches,
    }
    target = place_of_kept(data)
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = target.with_name(target.name + ".partial")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(document, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, target)


def kept(path: Path, data: Path) -> Kept | None:
    """What was kept of the configuration `path` in the folder `data`; None where that is nothing usable."""
    try:
        document = json.loads(_content(place_of_kept(data), None).decode("utf-8", "surrogateescape"))
        at = datetime.fromisoformat(document["accepted_at"])
        found = Kept(Path(document["path"]), at, document["contents"], document["matches"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.path == path.absolute() else None


def other_owner(path: Path, data: Path) -> Path | None:
    """The configuration that was accepted last in the folder `data`, where that is another one than `path` and is
    still there."""
    try:
        other = Path(
            json.loads(_content(place_of_kept(data), None).decode("utf-8", "surrogateescape"))["path"]
        )
        return None if not other.is_file() or other.samefile(path) else other
    except (OSError, ValueError, KeyError, TypeError):
        return None


def place_of_kept(data: Path) -> Path:
    """The file in the folder `data` that what was accepted is kept in."""
    return data / "accepted.json"


def _content(path: Path, largest: int | None = LARGEST) -> bytes:
    """The content of a regular file; whatever else is there could keep us waiting for ever."""
    with open(path, "rb", opener=_open_at_once) as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        content = opened.read(-1 if largest is None else largest + 1)
    if largest is not None and len(content) > largest:
        raise OSError(errno.EFBIG, f"it holds more than {largest // 1024 // 1024} MiB")
    return content


def _open_at_once(path: str, flags: int) -> int:
    """A pipe that nobody writes into is opened too, instead of waiting for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)
