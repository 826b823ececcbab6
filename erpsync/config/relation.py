"""What jobs say about one another: which they run after, and which they used to be."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

from erpsync.config.document import Document, did_you_mean
from erpsync.config.layer import Spot
from erpsync.config.source import Keys
from erpsync.core.job import After, Job, Schedule


def former_names(name: str, given: Iterable[str]) -> tuple[str, ...]:
    """The full names that the job `name` had: "old" of products@acme was old@acme."""
    at = "@" + name.partition("@")[2] if "@" in name else ""
    return tuple(dict.fromkeys(old if "@" in old else old + at for old in given))


@dataclass(frozen=True, slots=True)
class Relations:
    """All jobs that could be read.

    `names` are those of jobs with faults too, `judged` the definitions of which it is known where they run.
    """

    document: Document
    jobs: dict[str, Job]
    names: Set[str]
    judged: Set[str]

    def related(self) -> dict[str, Job]:
        """The jobs with the full names of those they run after; what cannot be is told."""
        jobs = {name: self._with_parents(job) for name, job in self.jobs.items()}
        self._check_circles(jobs)
        self._check_former_names()
        return jobs

    def _with_parents(self, job: Job) -> Job:
        if not any(isinstance(schedule, After) for schedule in job.schedules):
            return job
        return replace(
            job, schedules=tuple(self._resolved(job, index, each) for index, each in enumerate(job.schedules))
        )

    def _resolved(self, job: Job, index: int, schedule: Schedule) -> Schedule:
        if not isinstance(schedule, After):
            return schedule
        found = (
            self._parent(job, text, self._place(job, index, number))
            for number, text in enumerate(schedule.jobs)
        )
        return replace(schedule, jobs=tuple(dict.fromkeys(name for name in found if name)))

    def _parent(self, job: Job, text: str, keys: Keys) -> str | None:
        """The full name of the job called `text` in `job`: at its own instance where both are fanned out."""
        fanned = job.name != job.definition
        candidates = (f"{text}@{job.instance}", text) if fanned else (text,)
        name = next((name for name in candidates if name in self.names), None)
        if name is None:
            self._tell_unknown(job, text, keys)
        elif name == job.name:
            self.document.add("E121", f'the job "{job.definition}" runs after itself', keys)
        elif name in self.jobs and job.enabled and not self.jobs[name].enabled:
            message = f'the job "{text}" is disabled, so nothing runs after it'
            self.document.add("W106", message, keys, hint="disable this one too, or enable the other")
        return name if name != job.name else None

    def _tell_unknown(self, job: Job, text: str, keys: Keys) -> None:
        definitions = self.document.named("jobs")
        if text in definitions and text not in self.judged:
            return  # where it runs is not known because of another problem
        if text not in definitions:
            known = self.names if "@" in text else definitions
            self.document.add("E108", f'there is no job "{text}"', keys, hint=did_you_mean(text, known))
        elif job.name != job.definition:
            hint = "give both the same `instances`, or leave this one out there by enabled = false"
            self.document.add("E108", f'the job "{text}" does not run at "{job.instance}"', keys, hint=hint)
        else:
            full = min((name for name in self.names if name.startswith(f"{text}@")), default=f"{text}@…")
            message = f'there is no job "{text}" without an instance'
            self.document.add("E108", message, keys, hint=f'name one at an instance, like "{full}"')

    def _check_circles(self, jobs: dict[str, Job]) -> None:
        """Tell of each circle once, however many instances have it."""
        parents = {
            name: {parent for schedule in job.schedules for parent in _parents_in(schedule)}
            for name, job in jobs.items()
            if any(map(_parents_in, job.schedules))
        }
        while True:
            try:
                TopologicalSorter(parents).prepare()
            except CycleError as error:
                circle: list[str] = error.args[1]
            else:
                return
            last = jobs[circle[-1]]
            index = next(n for n, each in enumerate(last.schedules) if circle[-2] in _parents_in(each))
            message = f"jobs run after one another in a circle: {' → '.join(_shortest(circle))}"
            self.document.add("E121", message, self._place(last, index))
            told = {jobs[name].definition for name in circle}
            parents = {name: before for name, before in parents.items() if jobs[name].definition not in told}

    def _check_former_names(self) -> None:
        heirs: dict[str, Job] = {}
        for job in self.jobs.values():
            for index, old in enumerate(job.formerly):
                keys = Spot(self.document, job.definition, job.instance).where(("formerly", index))
                if old in self.names:
                    today = _shortest([job.name, old])[1]
                    message = f'"{today}" is a job of today, so it cannot be a former name'
                    self.document.add("E122", message, keys)
                elif old in heirs:
                    first, second, name = _shortest([heirs[old].name, job.name, old])
                    message = f'the jobs "{first}" and "{second}" were both formerly "{name}"'
                    self.document.add("E122", message, keys)
                heirs.setdefault(old, job)

    def _place(self, job: Job, index: int, *number: int) -> Keys:
        """Where the file says `after` in a schedule of the job, or one of the names there."""
        origin = Spot(self.document, job.definition, job.instance).origin(("schedule",))
        assert origin is not None  # no schedule is an After unless a layer says so
        schedule = origin[1]
        element = self.document.existing((*schedule, index, "after", *number))
        alone = self.document.existing((*schedule, "after", *number))
        return max(element, alone, key=len)


def _parents_in(schedule: Schedule) -> tuple[str, ...]:
    return schedule.jobs if isinstance(schedule, After) else ()


def _shortest(names: Sequence[str]) -> list[str]:
    """The names without their instance where all are at the same one, so that a fault is told once for all."""
    definitions, _, instances = zip(*(name.partition("@") for name in names), strict=True)
    return list(definitions if len(set(instances)) == 1 else names)
