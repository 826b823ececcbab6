"""Run logs: what a run said, one JSON line a record, one file a run."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

_LIMIT = 5 * 2**20  # bytes a run; a plugin in a loop must not fill the disk
_FOLDER = 5  # letters of the id that name the folder: one for about nine hours


class RunLog:
    """The folder of run logs. Appending is one write, so readers see whole lines; files are 0600."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}

    def append(self, run_id: str, record: Mapping[str, object]) -> None:
        """Add a record {"at", "level", "event", ...}; plain values only, already without secrets."""
        size = self._sizes.get(run_id, 0)
        if size > _LIMIT:
            return
        line = json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"
        if size + len(line) > _LIMIT:
            note = {
                "at": record.get("at"),
                "level": "warning",
                "event": "log.truncated",
                "limit_bytes": _LIMIT,
            }
            line = json.dumps(note, default=str).encode() + b"\n"
            self._sizes[run_id] = _LIMIT + 1
        else:
            self._sizes[run_id] = size + len(line)
        path = self._path(run_id)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

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

    def _path(self, run_id: str) -> Path:
        return self._folder / run_id[:_FOLDER] / f"{run_id}.jsonl"


def _record(line: bytes) -> dict[str, object] | None:
    """A line as a record; None for a line torn by a power cut."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
