"""What is meant by the names that are typed: jobs to do something with, jobs and runs of the past."""

import sys
from collections.abc import Iterable, Sequence

import typer

from erpsync.cli.output import note
from erpsync.cli.workspace import Workspace
from erpsync.control.selection import select_jobs
from erpsync.core.errors import UnknownJobError, UnknownRunError, UsageError
from erpsync.core.job import Job
from erpsync.core.run import Run, State

_MANY = 10  # at once that need a yes


def chosen_jobs(
    workspace: Workspace,
    patterns: list[str] | None,
    instances: list[str] | None,
    tags: list[str] | None,
    yes: bool,
    everything: bool = False,
) -> tuple[Job, ...]:
    """The jobs that are meant; of none nothing is done, of many only after a yes."""
    chosen_by_name = bool(patterns or instances or tags)
    if everything and chosen_by_name:
        raise typer.BadParameter("either jobs or all of them", param_hint="--all")
    if not everything and not chosen_by_name:
        raise typer.BadParameter("name a job, or choose by --instance or --tag", param_hint="JOB")
    chosen = select_jobs(
        workspace.configuration.jobs, patterns or (), instances=instances or (), tags=tags or ()
    )
    agree(len(chosen), "jobs", yes)
    return chosen


def tell_disabled(jobs: Iterable[Job]) -> None:
    """What is disabled is not planned, and runs when somebody asks: said beside the result."""
    for job in jobs:
        if not job.enabled:
            note(f"{job.name} is disabled; it runs because you ask")


def agree(number: int, noun: str, yes: bool) -> None:
    """Many at once need a yes: the option, or a word on the terminal."""
    if number > _MANY and not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"{number} {noun} at once; --yes if that is meant", param_hint=noun)
        typer.confirm(f"{number} {noun} at once?", abort=True, err=True)


def agree_that(deed: str, yes: bool) -> None:
    """What cannot be undone needs a yes: the option, or a word on the terminal.

    Raises:
        UsageError: there is nobody to be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"nothing was done without a yes to: {deed}", hint="--yes if that is meant")
    typer.confirm(f"{deed}?", abort=True, err=True)


def job_names(
    workspace: Workspace, patterns: list[str] | None, instances: list[str] | None, tags: list[str] | None
) -> tuple[str, ...] | None:
    """The names to look for, None for all; a job that is configured no more is found by its exact name."""
    from erpsync.store.history import RunFilter, list_runs

    if not (patterns or instances or tags):
        return None
    try:
        chosen = select_jobs(
            workspace.configuration.jobs, patterns or (), instances=instances or (), tags=tags or ()
        )
        return tuple(job.name for job in chosen)
    except UnknownJobError:
        former = tuple(patterns or ())
        found: list[Run] = workspace.read(list_runs, [], RunFilter(jobs=former, limit=1))
        if found:
            return former
        raise


def find_run_of(workspace: Workspace, run_id: str) -> Run:
    from erpsync.store.history import find_run

    run = workspace.read(find_run, None, run_id)
    if run is None:
        raise UnknownRunError(f'there is no run "{run_id}"', hint="erpsync runs")
    return run


def job_or_run(workspace: Workspace, subject: str) -> tuple[str, ...] | Run:
    """The names of the jobs that a selector means, else the run of this id."""
    from erpsync.store.history import find_run

    try:
        return job_names(workspace, [subject], None, None) or ()
    except UnknownJobError as error:
        run = workspace.read(find_run, None, subject)
        if run is None:
            raise UnknownRunError(f'there is no job or run "{subject}"', hint=error.hint) from error
        return run


def meant_runs(workspace: Workspace, subject: str, states: Sequence[State]) -> list[Run]:
    """The runs in these states of the jobs that a selector means, else the run of this id."""
    from erpsync.store.history import RunFilter, list_runs

    meant = job_or_run(workspace, subject)
    if isinstance(meant, Run):
        return [meant]
    runs: list[Run] = workspace.read(
        list_runs, [], RunFilter(jobs=meant, states=tuple(states), limit=100_000)
    )
    return runs
