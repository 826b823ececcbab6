"""Run logs: what a run said, one JSON line a record, one file a run."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from erpsync.core.run import run_id_floor

DEFAULT_LIMIT = 5 * 2**20
"""Bytes a run; a plugin in a loop must not fill the disk."""
_FOLDER = 5  # letters of the id that name the folder: one for about nine hours


class RunLog:
    """The folder of run logs. Appending is one write, so readers see whole lines; files are 0600."""

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        """`limit` in bytes a run."""
        self._folder = folder
        self._limit = limit
        self._sizes: dict[str, int] = {}

    def append(self, run_id: str, *records: Mapping[str, object]) -> None:
        """Add records {"at", "level", "event", ...}; plain values only, already without secrets."""
        lines = b"".join(self._within_limit(run_id, records))
        if not lines:
            return
        path = self._path(run_id)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, lines)
        finally:
            os.close(descriptor)

    def is_full(self, run_id: str) -> bool:
        """Whether what comes now is thrown away."""
        return self._sizes.get(run_id, 0) > self._limit

    def _within_limit(self, run_id: str, records: Iterable[Mapping[str, object]]) -> Iterator[bytes]:
        """The lines for which there is room, and in place of the first of the others a note."""
        for record in records:
            if self.is_full(run_id):
                return
            line = _line(record)
            size = self._sizes.get(run_id, 0) + len(line)
            if size > self._limit:
                line = _line(
                    {
                        "at": record.get("at"),
                        "level": "warning",
                        "event": "log.truncated",
                        "limit_bytes": self._limit,
                    }
                )
            self._sizes[run_id] = size
            yield line

    def close(self, run_id: str) -> None:
        """Nothing more comes from this run for now."""
        self._sizes.pop(run_id, None)

    def read(self, run_id: str, offset: int = 0) -> tuple[list[dict[str, object]], int]:
        """The whole records from a byte offset, and the offset to go on from; nothing where there is no log."""
        try:
            with self._path(run_id).open("rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return [], offset
        whole = data[: data.rfind(b"\n") + 1]
        return [record for line in whole.splitlines() if (record := _record(line))], offset + len(whole)

    def forget(self, bound: datetime) -> int:
        """Remove the logs that nobody has written to since `bound` (aware UTC); how many they were."""
        newest = run_id_floor(bound)[:_FOLDER]
        removed = 0
        for folder in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            if folder.name > newest or not folder.is_dir():
                continue
            for file in folder.glob("*.jsonl"):
                if file.stat().st_mtime < bound.timestamp():
                    file.unlink(missing_ok=True)
                    removed += 1
            with contextlib.suppress(OSError):  # not empty yet
                folder.rmdir()
        return removed

    def _path(self, run_id: str) -> Path:
        return self._folder / run_id[:_FOLDER] / f"{run_id}.jsonl"


def _line(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"


def _record(line: bytes) -> dict[str, object] | None:
    """A line as a record; None for a line torn by a power cut."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
