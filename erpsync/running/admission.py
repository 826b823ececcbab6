"""Which of the runs that could start may start: priority, fire time, limits, and fairness among instances."""

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from erpsync.core.run import Run, RunTrigger
from erpsync.erpnet.slots import SlotBook
from erpsync.running.verdict import LICENCE

_Entry = tuple[bool, int, datetime, str, int, Run]


@dataclass(frozen=True, slots=True)
class _Lane:
    """Runs that share their limits stand in one queue."""

    instance: str | None
    pool: str | None
    identity: str | None
    """None where no licence slot is needed."""


class Admission:
    """The queue in front of the slots: `max_runs` overall, fewer for an instance or a pool with a limit of its own.

    Slices of a backfill take what all others leave. Higher priority goes first; among equals the instance that
    was served longest ago, then the earlier fire time.
    At an instance with a book of licence slots the identity of a run must have one, or get one: it is reserved while
    the run holds its slot here.
    """

    def __init__(
        self,
        max_runs: int,
        instance_limits: Mapping[str, int],
        pools: Mapping[str, int] | None = None,
        books: Mapping[str, SlotBook] | None = None,
    ) -> None:
        self._max_runs = max_runs
        self._limits = instance_limits
        self._pools = pools or {}
        self._books = {} if books is None else books  # may grow
        self._queues: dict[_Lane, list[_Entry]] = {}
        self._queued: dict[str, tuple[Run, _Lane]] = {}
        self._holders: dict[str, _Lane] = {}
        self._held: Counter[str | None] = Counter()  # by instance
        self._pooled: Counter[str | None] = Counter()  # by pool
        self._served: dict[str | None, int] = {}
        self._turns = itertools.count(1)
        self._entries = itertools.count()

    def limit(self, max_runs: int, instance_limits: Mapping[str, int], pools: Mapping[str, int]) -> None:
        """Other limits from now on; who holds a slot keeps it."""
        self._max_runs, self._limits, self._pools = max_runs, instance_limits, pools

    def put(self, run: Run, pool: str | None = None) -> bool:
        """Queue a run; False where it is queued or holds a slot already."""
        if run.id in self._queued or run.id in self._holders:
            return False
        lane = _Lane(run.instance, pool, run.identity if run.instance in self._books else None)
        entry = (
            run.trigger is RunTrigger.BACKFILL,
            -run.priority,
            run.fire_at or run.created_at,
            run.id,
            next(self._entries),
            run,
        )
        heapq.heappush(self._queues.setdefault(lane, []), entry)
        self._queued[run.id] = run, lane
        return True

    def take(self) -> Iterator[Run]:
        """The runs that may start now; each holds a slot from here until `release`."""
        self._tidy_books()
        while len(self._holders) < self._max_runs:
            open_ = [lane for lane in list(self._queues) if self._prune(lane) and not self._is_full(lane)]
            if not open_:
                return
            lane = min(open_, key=self._rank)
            run = heapq.heappop(self._queues[lane])[-1]
            del self._queued[run.id]
            self._holders[run.id] = lane
            self._held[lane.instance] += 1
            self._pooled[lane.pool] += 1
            if lane.identity is not None:
                self._book(lane).reserve(lane.identity)
            self._served[lane.instance] = next(self._turns)
            yield run

    def release(self, run_id: str) -> None:
        """Give the slots back."""
        lane = self._holders.pop(run_id)
        self._held[lane.instance] -= 1
        self._pooled[lane.pool] -= 1
        if lane.identity is not None:
            self._book(lane).release(lane.identity)

    def withdraw(self, run_id: str) -> bool:
        """Take a run out of the queue; False where it is not in it."""
        return self._queued.pop(run_id, None) is not None

    def clear(self) -> None:
        """Forget the queue; who holds a slot keeps it."""
        self._queues.clear()
        self._queued.clear()

    def lacks(self, run: Run) -> str | None:
        """What a queued run waits for: "instance max_runs", "pool", "licence", "max_runs"; None: it is not queued."""
        if run.id not in self._queued:
            return None
        _, lane = self._queued[run.id]
        if self._is_instance_full(lane.instance):
            return "instance max_runs"
        if self._is_pool_full(lane.pool):
            return "pool"
        return "max_runs" if self._is_licensed(lane) else LICENCE

    def awaits_slot(self) -> float | None:
        """Seconds until time alone may free a licence slot that a queued run waits for; None where none does."""
        changes = (book.next_change() for book in self._books.values() if book.is_awaited)
        return min((seconds for seconds in changes if seconds is not None), default=None)

    def _is_full(self, lane: _Lane) -> bool:
        if not self._is_licensed(lane):
            return True
        return self._is_instance_full(lane.instance) or self._is_pool_full(lane.pool)

    def _is_licensed(self, lane: _Lane) -> bool:
        """Whether its identity may use a licence slot; else it stands in the book's queue from now on."""
        if lane.identity is None:
            return True
        book = self._book(lane)
        if book.may_start(lane.identity):
            return True
        book.wait(lane.identity)
        return False

    def _tidy_books(self) -> None:
        """Let identities without queued runs leave the books' queues."""
        if any(book.is_awaited for book in self._books.values()):
            lanes = [lane for lane in list(self._queues) if lane.identity is not None and self._prune(lane)]
            for name, book in self._books.items():
                book.keep_waiting(lane.identity for lane in lanes if lane.instance == name and lane.identity)

    def _book(self, lane: _Lane) -> SlotBook:
        return self._books[lane.instance or ""]

    def _is_instance_full(self, instance: str | None) -> bool:
        limit = None if instance is None else self._limits.get(instance)
        return limit is not None and self._held[instance] >= limit

    def _is_pool_full(self, pool: str | None) -> bool:
        slots = None if pool is None else self._pools.get(pool)
        return slots is not None and self._pooled[pool] >= slots

    def _prune(self, lane: _Lane) -> bool:
        """Drop what was withdrawn from the head of a queue, and the queue once it is empty; whether it is not."""
        queue = self._queues[lane]
        while queue and not self._is_queued(queue[0][-1]):
            heapq.heappop(queue)
        if not queue:
            del self._queues[lane]
        return bool(queue)

    def _is_queued(self, run: Run) -> bool:
        """Whether this entry is the one that counts: a run may have been withdrawn and queued again."""
        return run.id in self._queued and self._queued[run.id][0] is run

    def _rank(self, lane: _Lane) -> tuple[bool, int, int, datetime, str]:
        is_slice, priority, at, run_id, _, _ = self._queues[lane][0]
        return is_slice, priority, self._served.get(lane.instance, 0), at, run_id
