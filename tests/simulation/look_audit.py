"""What a look did to the fire times that were due, against the oracle: what is to run runs, the others say why."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from erpsync.core.job import Job
from erpsync.scheduling.claim import Look
from tests.simulation import oracle
from tests.simulation.fire_times import FireTimes
from tests.simulation.ledger import Entry


@dataclass(frozen=True)
class Looked:
    """One job at one look: what was due and had no run, and what should become of it."""

    job: Job
    due: list[datetime]
    fates: Mapping[datetime, str]
    unable: str | None
    """Why it cannot run as things are."""

    def require(self, owner: Callable[[datetime], Entry | None]) -> None:
        """Raises AssertionError where something else became of it."""
        for fire in self.due:
            entry, fate = owner(fire), self.fates[fire]
            assert entry is not None, f"{fire} has no run"
            if fate != oracle.RUNS:
                assert entry.reason == fate, f"{fire} was to be {fate}: {entry}"
                continue
            if self.unable is not None:
                assert entry.reason == self.unable, f"{fire} cannot run, for it is {self.unable}: {entry}"
                continue
            overlaps = entry.outcome == "skipped" and entry.reason == "overlap"
            assert overlaps or entry.state == "pending", f"{fire} was to run: {entry}"


def looked(look: Look, marks: Mapping[str, datetime], fire_times: FireTimes) -> list[Looked]:
    """What was due at a look that left these marks; to be asked before its rows are looked at."""
    found = []
    for table in look.timetables:
        job, known = table.job, look.marks.get(table.job.name)
        mark = marks.get(job.name)
        if known is None or mark is None or mark <= known.until or known.schedule != table.schedule:
            continue
        due = fire_times.due(job.name, known.until, mark)
        pause = look.resumed.get(job.name)
        span = (pause.since, pause.until or look.now) if pause is not None else None
        fates = oracle.fates(job, due, look.now, span)
        found.append(Looked(job, due, fates, look.unable.get(job.name)))
    return found
