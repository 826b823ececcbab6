"""When each job is due next, so kept that finding out who is due by now looks at nobody else."""

import heapq
from collections.abc import Mapping
from datetime import datetime


class DueTimes:
    """Instants by job. A job that is due at none is not in it."""

    def __init__(self) -> None:
        self._due: dict[str, datetime] = {}
        self._queue: list[tuple[datetime, str]] = []  # each of `_due`, and former ones, which are passed over

    @property
    def by_job(self) -> Mapping[str, datetime]:
        """All of them, to look up."""
        return self._due

    def set(self, job: str, due: datetime | None) -> None:
        """From now on the job is due then, or not at all."""
        if due is None:
            self._due.pop(job, None)
        elif self._due.get(job) != due:
            self._due[job] = due
            heapq.heappush(self._queue, (due, job))
        while self._queue and not self._holds(self._queue[0]):
            heapq.heappop(self._queue)
        if len(self._queue) > 2 * len(self._due) + 100:
            self._queue = [(at, name) for name, at in self._due.items()]
            heapq.heapify(self._queue)

    def until(self, instant: datetime) -> list[str]:
        """The jobs that are due at this instant or were before it, the earliest first."""
        passed: list[tuple[datetime, str]] = []
        while self._queue and self._queue[0][0] <= instant:
            entry = heapq.heappop(self._queue)
            if (
                self._holds(entry) and entry not in passed[-1:]
            ):  # one that was changed and changed back is in it twice
                passed.append(entry)
        for entry in passed:
            heapq.heappush(self._queue, entry)
        return [job for _, job in passed]

    def _holds(self, entry: tuple[datetime, str]) -> bool:
        return self._due.get(entry[1]) == entry[0]
