"""Where configuration files come from: the disk, or what was kept of them when they were accepted."""

import glob
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol


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
        return path.read_bytes()

    def find(self, folder: Path, pattern: str) -> Sequence[str]:
        """The files that match a glob pattern, relative to `folder`, in order."""
        found = sorted(glob.glob(pattern, root_dir=folder, recursive=True))
        return [name for name in found if (folder / name).is_file()]


@dataclass(slots=True)
class Recording(Disk):
    """The disk, and a note of all that was read from it."""

    contents: dict[str, str] = field(default_factory=dict)
    matches: dict[str, list[str]] = field(default_factory=dict)

    def read(self, path: Path) -> bytes:
        """The content of a file. Raises OSError."""
        content = path.read_bytes()
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
    target = _place(data)
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
        document = json.loads(_place(data).read_text(encoding="utf-8", errors="surrogateescape"))
        at = datetime.fromisoformat(document["accepted_at"])
        found = Kept(Path(document["path"]), at, document["contents"], document["matches"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.path == path.absolute() else None


def _place(data: Path) -> Path:
    return data / "accepted.json"
