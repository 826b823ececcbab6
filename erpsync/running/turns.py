"""Whose turn it is within a job: one run after another, from its claim to its end."""

from collections import deque
from collections.abc import Container

from erpsync.core.run import Run, RunTrigger

WAITS_FOR = "queue"
"""What a run waits for whose turn has not come."""


class Turns:
    """The line of each job's unfinished runs; its head may run, the others wait for its end.

    Runs of a job that lets them overlap stand in it too: a reload may want one after another while some run.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[Run]] = {}
        self._standing: set[str] = set()  # the ids of all who stand in any line

    def join(self, run: Run, waiting: Container[str] = ()) -> bool:
        """Stand in line, unless it does already; whether it is the run's turn.

        Slices of a backfill let any other run go before them, those that are `waiting`.
        """
        line = self._lines.setdefault(run.job, deque())
        if run.id not in self._standing:
            self._standing.add(run.id)
            yields = (place for place, other in enumerate(line) if _is_slice(other) and other.id in waiting)
            line.insert(len(line) if _is_slice(run) else next(yields, len(line)), run)
        return line[0].id == run.id

    def rename(self, former: str, name: str) -> None:
        """The line of a job that has another name now."""
        line = self._lines.pop(former, deque())
        if line:
            self._lines.setdefault(name, deque()).extendleft(reversed(line))

    def leave(self, run: Run) -> Run | None:
        """The run has ended; the one whose turn comes by that, if any."""
        line = self._lines.get(run.job, deque())
        ours = next((other for other in line if other.id == run.id), None)
        if ours is None:
            return None
        was_first = line[0] is ours
        line.remove(ours)
        self._standing.remove(run.id)
        if not line:
            del self._lines[run.job]
            return None
        return line[0] if was_first else None


def _is_slice(run: Run) -> bool:
    return run.trigger is RunTrigger.BACKFILL
