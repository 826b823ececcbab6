"""Which jobs come after which, and an order in which parents are before their children."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter

from erpsync.core.job import After, Job


def parents_of(job: Job) -> list[str]:
    """The names of all jobs that a job comes after, by any of its schedules, each once."""
    afters = (schedule for schedule in job.schedules if isinstance(schedule, After))
    return [*dict.fromkeys(parent for after in afters for parent in after.jobs)]


def lineage(job: Job, named: Callable[[str], Job | None]) -> list[Job]:
    """A job, last, and all that it comes after, directly or not, parents first; `named` has no job for others."""
    found: dict[str, Job] = {}
    wanted = [job]
    while wanted:
        each = wanted.pop()
        if each.name not in found:
            found[each.name] = each
            wanted += filter(None, map(named, parents_of(each)))
    return [*parents_first(found)]


def parents_first(jobs: Mapping[str, Job]) -> Iterator[Job]:
    """The jobs, each later than all of its parents among them.

    Those that run after one another in a circle, and all after them, are left out: files with errors have such.
    """
    sorter = TopologicalSorter(
        {name: [parent for parent in parents_of(job) if parent in jobs] for name, job in jobs.items()}
    )
    with suppress(CycleError):  # it goes on until the circle
        sorter.prepare()
    while ready := sorter.get_ready():
        yield from (jobs[name] for name in ready)
        sorter.done(*ready)
