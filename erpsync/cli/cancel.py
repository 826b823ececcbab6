"""`cancel`: the daemon is asked to end runs."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from erpsync.cli.choice import agree, job_names, meant_runs
from erpsync.cli.options import FormatOption, InstanceOption, TagOption, YesOption, workspace_of
from erpsync.cli.output import note, print_json, say
from erpsync.cli.workspace import Workspace
from erpsync.core.run import Run, State

_PATIENCE = 10.0  # seconds for the end of each run


def cancel(
    context: typer.Context,
    subjects: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN|JOB]...", help="Runs, or jobs: all that is unfinished of them."),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for those who wonder.")] = None,
    instance: InstanceOption = None,
    tag: TagOption = None,
    yes: YesOption = False,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> None:
    """End runs that are not finished; what runs is asked to stop, then made to."""
    workspace = workspace_of(context)
    if not (subjects or instance or tag):
        raise typer.BadParameter(
            "name a run or a job, or choose by --instance or --tag", param_hint="RUN|JOB"
        )
    with workspace.own_daemon() as client:  # who is not there need not be asked about many
        runs = _unfinished(workspace, subjects, instance, tag)
        agree(len(runs), "runs", yes)
        cancelled = {run.id: client.cancel(run.id, reason) for run in runs}
        documents = [client.find(run.id, wait=_PATIENCE) for run in runs]
    if format == "json":
        print_json([{"cancelled": cancelled[each["id"]], "run": each} for each in documents])
        return
    if not documents:
        note("nothing is unfinished")
    for each in documents:
        say(f"{each['id']} {each['job']} {_what_became(each, cancelled[each['id']])}")


def _what_became(run: dict[str, Any], cancelled: bool) -> str:
    if not cancelled:
        return f"had ended already: {run['outcome']}"
    return run["outcome"] or "is asked to end, and still runs"


def _unfinished(
    workspace: Workspace, subjects: list[str] | None, instances: list[str] | None, tags: list[str] | None
) -> Sequence[Run]:
    """The runs that are named, finished or not, and those of the jobs that are chosen which are not finished."""
    from erpsync.store.history import RunFilter, list_runs

    live = (State.PENDING, State.WAITING, State.RUNNING)
    if not subjects or instances or tags:
        names = job_names(workspace, subjects, instances, tags)
        runs = workspace.read(list_runs, [], RunFilter(jobs=names, states=live, limit=100_000))
    else:
        runs = [run for each in subjects for run in meant_runs(workspace, each, live)]
    return list({run.id: run for run in runs}.values())
