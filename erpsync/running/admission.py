"""Which of the runs that could start may start: priority, fire time, limits, and fairness among instances."""

import heapq
import itertools
from collections.abc import Iterator, Mapping
from datetime import datetime

from erpsync.core.run import Run

_Entry = tuple[int, datetime, str, Run]


class Admission:
    """The queue in front of the slots: `max_runs` overall, fewer for an instance with a limit of its own.

    Higher priority goes first; among equals the instance that was served longest ago, then the earlier fire time.
    """

    def __init__(self, max_runs: int, instance_limits: Mapping[str, int]) -> None:
        self._max_runs = max_runs
        self._limits = instance_limits
        self._queues: dict[str | None, list[_Entry]] = {}
        self._queued: set[str] = set()
        self._holders: dict[str, str | None] = {}  # run id → instance
        self._held: dict[str | None, int] = {}
        self._served: dict[str | None, int] = {}
        self._turns = itertools.count(1)

    def put(self, run: Run) -> bool:
        """Queue a run; False where it is queued or holds a slot already."""
        if run.id in self._queued or run.id in self._holders:
            return False
        entry = (-run.priority, run.fire_at or run.created_at, run.id, run)
        heapq.heappush(self._queues.setdefault(run.instance, []), entry)
        self._queued.add(run.id)
        return True

    def take(self) -> Iterator[Run]:
        """The runs that may start now; each holds a slot from here until `release`."""
        while len(self._holders) < self._max_runs:
            open_ = [instance for instance in self._queues if not self._is_full(instance)]
            if not open_:
                return
            instance = min(open_, key=self._rank)
            queue = self._queues[instance]
            run = heapq.heappop(queue)[3]
            if not queue:
                del self._queues[instance]
            if run.id in self._queued:  # else it was withdrawn
                self._queued.discard(run.id)
                self._holders[run.id] = instance
                self._held[instance] = self._held.get(instance, 0) + 1
                self._served[instance] = next(self._turns)
                yield run

    def release(self, run_id: str) -> None:
        """Give the slot back."""
        instance = self._holders.pop(run_id)
        self._held[instance] -= 1

    def withdraw(self, run_id: str) -> bool:
        """Take a run out of the queue; False where it is not in it."""
        if run_id not in self._queued:
            return False
        self._queued.discard(run_id)
        return True

    def clear(self) -> None:
        """Forget the queue; who holds a slot keeps it."""
        self._queues.clear()
        self._queued.clear()

    def lacks(self, run: Run) -> str | None:
        """What a queued run waits for, "max_runs" or "instance max_runs"; None where it is not queued."""
        if run.id not in self._queued:
            return None
        return "instance max_runs" if self._is_full(run.instance) else "max_runs"

    def _is_full(self, instance: str | None) -> bool:
        limit = self._limits.get(instance) if instance is not None else None
        return limit is not None and self._held.get(instance, 0) >= limit

    def _rank(self, instance: str | None) -> tuple[int, int, datetime, str]:
        priority, at, run_id, _ = self._queues[instance][0]
        return priority, self._served.get(instance, 0), at, run_id
