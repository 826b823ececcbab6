"""Dead letters: rows that failed, one JSON line each, one file a run; and the runs that took them up again.

An attempt that reads from the beginning meets the failed rows of the attempt before again: of a run those letters
count that its last attempt wrote, and those of rows that a position has gone past (`plugins.letters` writes which).

A run with {"dead": [runs]} among its params is given the letters of these runs. Once it has ended with a result they
are settled: what failed again is in its own file. That follows from the ledger alone; removing the files comes after.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from erpsync.core.run import Outcome, Run, State
from erpsync.store import schema
from erpsync.store.copy import settle_folder
from erpsync.store.history import find_runs

FAILED_ROWS = "failed rows"
"""Why a run failed that came to a result with more failed rows than its job allows."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row that failed in an attempt of a run; `at` is an instant as UTC text."""

    run_id: str
    attempt: int
    at: str
    error: str
    row: Mapping[str, object]


class DeadLetters:
    """The folder of dead letters. The plugin's context writes the files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, run_id: str) -> str:
        """Where the letters of a run are, if it left some; a text, for every run asks and few write."""
        return f"{self._folder}/{run_id}.jsonl"

    def has(self, run_id: str) -> bool:
        """Whether a run left letters."""
        return os.path.exists(self.file(run_id))

    def _path(self, run_id: str) -> Path:
        return Path(self.file(run_id))

    def run_ids(self) -> list[str]:
        """The runs that left letters, the oldest first."""
        return sorted(file.stem for file in self._folder.glob("*.jsonl")) if self._folder.is_dir() else []

    def read(self, run_ids: Iterable[str]) -> list[DeadLetter]:
        """The letters of these runs, in order; of those that are gone none."""
        return [letter for run_id in run_ids for letter in self._of_run(run_id)]

    def close(self, run_id: str, attempt: int) -> None:
        """An attempt is over: what it left is durable, and attempts before it count no more. Raises OSError."""
        path = self._path(run_id)
        if path.exists():
            with path.open("ab") as file:
                file.write(json.dumps({"attempt": attempt, "ended": True}).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            settle_folder(path.parent)

    def remove(self, run_ids: Iterable[str]) -> None:
        """The letters of these runs are no more."""
        for run_id in run_ids:
            self._path(run_id).unlink(missing_ok=True)

    def _of_run(self, run_id: str) -> list[DeadLetter]:
        try:
            lines = self._path(run_id).read_bytes().splitlines()
        except FileNotFoundError:
            return []
        passed: list[DeadLetter] = []
        fresh: list[DeadLetter] = []  # of one attempt, the last one so far
        latest = 0
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):  # torn by a power cut
                record = json.loads(line)
                if (attempt := record["attempt"]) != latest:
                    latest, fresh = attempt, []
                if "row" in record:
                    fresh.append(DeadLetter(run_id, attempt, record["at"], record["error"], record["row"]))
                elif "kept" in record:
                    passed, fresh = [*passed, *fresh], []
        return [*passed, *fresh]


def taken_up(run: Run) -> list[str]:
    """The runs whose letters this run was given."""
    given = run.params.get("dead")
    return [str(each) for each in given] if isinstance(given, list) else []


def settles(run: Run) -> bool:
    """Whether a run has dealt with all the letters it was given: those that failed again are its own now."""
    ended = run.outcome in (Outcome.SUCCEEDED, Outcome.PARTIAL) or run.reason == FAILED_ROWS
    return run.state is State.FINISHED and ended


def open_letters(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[str]]:
    """Which of these runs have letters that wait to be taken up, by job.

    Not those that a later run has settled, and not the copies of a run that was given letters and settled none.
    """
    runs = find_runs(connection, run_ids)
    jobs = {run.job for run in runs.values()}
    column = schema.run.c
    query = select(column.id).where(column.job.in_(jobs), column.params.contains('"dead"'))
    again = find_runs(connection, list(connection.scalars(query)))
    settled = {given for run in again.values() if settles(run) for given in taken_up(run)}
    left: dict[str, list[str]] = {}
    for run_id in run_ids:
        run = runs.get(run_id)
        if run is not None and run_id not in settled and (not taken_up(run) or settles(run)):
            left.setdefault(run.job, []).append(run_id)
    return left
