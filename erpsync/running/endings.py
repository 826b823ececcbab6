"""The operations that end attempts and runs, and in the same transaction hand over to the jobs that come after."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from erpsync.core.run import Run, State
from erpsync.store.ledger import End, Finish, end_attempts, finish_runs

HandOver = Callable[[Connection, Sequence[Run], datetime], list[Run]]
"""Claims, in the transaction that finishes these runs, the runs that come after them; gives what it wrote."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The run as it now is, and the runs that were claimed, or ended as skipped, because it finished."""

    run: Run
    handed: Sequence[Run] = ()


class Endings:
    """Store operations that share one `hand_over`; the writer groups them as long as they are of one object."""

    def __init__(self, hand_over: HandOver) -> None:
        self._hand_over = hand_over

    def end(self, connection: Connection, ends: Sequence[End]) -> list[Ended]:
        """As `end_attempts`.

        Raises:
            LostLeaseError: an attempt is not the open one of its run, or has another owner.
        """
        runs = end_attempts(connection, ends)
        return [self._ended(connection, run, end.at) for run, end in zip(runs, ends, strict=True)]

    def finish(self, connection: Connection, finishes: Sequence[Finish]) -> list[Ended | None]:
        """As `finish_runs`."""
        runs = finish_runs(connection, finishes)
        return [
            None if run is None else self._ended(connection, run, end.at)
            for run, end in zip(runs, finishes, strict=True)
        ]

    def _ended(self, connection: Connection, run: Run, now: datetime) -> Ended:
        finished = run.state is State.FINISHED
        return Ended(run, self._hand_over(connection, [run], now) if finished else ())
