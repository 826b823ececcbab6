"""Where a run's dead letters go: a file of JSON lines, durable before the rows count as passed.

A line is a letter {at, attempt, error, row}, or says {attempt, kept: true}: the letters before it are of rows that no
attempt reads again, for the position has gone past them. `store.dead_letters` reads the file.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec


class LetterBox:
    """The letters of one attempt; may be used in several threads."""

    def __init__(self, path: str, attempt: int) -> None:
        self._path = path
        self._attempt = attempt
        self._has_new = False

    def add(self, at: str | None, error: str, row: Mapping[str, object]) -> None:
        """One more letter; durable once it is `keep`t, or the attempt has ended."""
        Path(self._path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write({"at": at, "attempt": self._attempt, "error": error, "row": row})
        self._has_new = True

    def keep(self) -> None:
        """The position is about to go past the rows of these letters. Raises OSError: then it must not."""
        if self._has_new:
            self._has_new = False
            self._write({"attempt": self._attempt, "kept": True}, settle=True)

    def _write(self, record: Mapping[str, object], *, settle: bool = False) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, msgspec.json.encode(record, enc_hook=str) + b"\n")
            if settle:
                os.fsync(handle)
        finally:
            os.close(handle)
        if settle:
            _settle_folder(os.path.dirname(self._path))


def _settle_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
