"""Parents and children: what a parent leaves when it ends is its newest end, and children take all of it, once."""

from collections.abc import Mapping
from datetime import datetime

from erpsync.core.job import After, Job
from tests.simulation.conduct import Conduct
from tests.simulation.ledger import Entry
from tests.simulation.oracle import EPOCH

End = tuple[str, datetime | None]
"""A run that ended, or of a range up to where it went then."""


class Families:
    """Raises AssertionError where a job does not come after those that it should come after, or after others."""

    def __init__(self, conduct: Conduct) -> None:
        self._conduct = conduct
        self._newest: dict[str, set[End]] = {}  # by job, of the last commit in which it had any
        self._taken: set[tuple[str, End]] = set()  # by child

    def renamed(self, former: str, name: str) -> None:
        """What was one job's is another's now."""
        self._taken = {(name if child == former else child, end) for child, end in self._taken}
        if former in self._newest:
            self._newest[name] = self._newest.pop(former)

    def deleted(self, run_id: str) -> None:
        """A skip or a miss is gone: it was one of a wrong clock."""
        for ends in self._newest.values():
            ends -= {end for end in ends if end[0] == run_id}

    def changed(self, entries: list[Entry], left: Mapping[tuple[str, str], str]) -> None:
        """One commit has written these rows, which the conduct does not know of yet; `left` are run ids, by (child,
        parent)."""
        ends: dict[str, set[End]] = {}
        for entry in entries:
            if self._is_end(entry):
                ends.setdefault(entry.job, set()).add((entry.id, entry.fire_until))
            elif entry.id in self._conduct.finished:  # cut by a correction of the clock
                newest = self._newest.get(entry.job, set())
                if entry.id in {run_id for run_id, _ in newest}:
                    newest.add((entry.id, entry.fire_until))
        for entry in entries:
            if entry.claim.startswith("after:") and not self._knows(entry):
                self._require_newest(entry, ends)
        if ends and not self._conduct.reloading:
            came = {
                entry.job for entry in entries if entry.claim.startswith("after:") and self._is_new(entry)
            }
            for job in self._conduct.jobs.values():
                for after in job.schedules if job.enabled else ():
                    if isinstance(after, After) and ends.keys() & set(after.jobs):
                        self._require_left(job, after, ends, left, came=job.name in came)
        self._newest |= ends

    def _is_end(self, entry: Entry) -> bool:
        """Whether a run has ended, or a range has grown; not a slice, nor a request that was refused."""
        refused = entry.trigger in ("manual", "retry") and entry.id not in self._conduct.live
        counts = entry.trigger != "backfill" and not refused
        return entry.state == "finished" and counts and self._is_new(entry)

    def _is_new(self, entry: Entry) -> bool:
        known = self._conduct.finished.get(entry.id)
        if known is not None:
            until, known_until = entry.fire_until or EPOCH, known.fire_until or EPOCH
            return known_until < until or (known_until == until and known.fire_count != entry.fire_count)
        return entry.state == "finished" or not self._knows(entry)

    def _knows(self, entry: Entry) -> bool:
        return entry.id in self._conduct.live or entry.id in self._conduct.finished

    def _require_newest(self, entry: Entry, ends: Mapping[str, set[End]]) -> None:
        """It came after its parents' newest ends, and no other run of its job did."""
        newest = {end for each in (*self._newest.values(), *ends.values()) for end in each}
        just_now = {
            run_id for each in ends.values() for run_id, _ in each
        }  # ranges grow more than once in a commit
        for text in entry.claim.removeprefix("after:").split(","):
            run_id, _, until = text.partition("+")
            end = run_id, datetime.fromisoformat(until) if until else None
            assert end in newest or run_id in just_now, f"it came after {end}, not {newest}: {entry}"
            is_twice = (entry.job, end) in self._taken and not until  # a range may grow twice at one instant
            assert not is_twice, f"{end} was taken twice: {entry}"
            self._taken.add((entry.job, end))

    def _require_left(
        self,
        job: Job,
        after: After,
        ends: Mapping[str, set[End]],
        left: Mapping[tuple[str, str], str],
        *,
        came: bool,
    ) -> None:
        """Of the parents that ended each has left its end for the child, or the child came by it."""
        for parent in ends.keys() & set(after.jobs):
            run_id = left.get((job.name, parent))
            is_there = run_id in {run_id for run_id, _ in ends[parent]}
            is_taken = any((job.name, end) in self._taken for end in ends[parent])  # the same
            assert came or is_there or is_taken, f"{parent} has ended and left {run_id} for {job.name}"
        all_left = all((job.name, parent) in left for parent in after.jobs)
        assert not (all_left and self._conduct.takes_runs(job)), (
            f"{job.name} does not come after {after.jobs}"
        )
