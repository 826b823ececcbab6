"""`dead`: rows that failed, shown, and given to their job once more."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from erpsync.cli.choice import chosen_jobs, job_names
from erpsync.cli.following import Wanted, see_through
from erpsync.cli.options import FormatOption, InstanceOption, JobArguments, TagOption, YesOption, workspace_of
from erpsync.cli.output import Times, note, print_json, say, shortened, table
from erpsync.cli.workspace import Workspace
from erpsync.core.run import Run

if TYPE_CHECKING:
    from erpsync.daemon.controls import DaemonControls
    from erpsync.store.dead_letters import DeadLetter

_SHOWN = 80  # signs of a row on a terminal


def dead(
    context: typer.Context,
    jobs: JobArguments = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Run the jobs for these rows alone, and wait.")
    ] = False,
    instance: InstanceOption = None,
    tag: TagOption = None,
    yes: YesOption = False,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> int:
    """The rows that failed and were kept, the oldest first."""
    workspace = workspace_of(context)
    if retry:
        names = [job.name for job in chosen_jobs(workspace, jobs, instance, tag, yes)]
        return see_through(workspace, _wanted(names), format)
    chosen = job_names(workspace, jobs, instance, tag)
    letters = [(job, letter) for job, letter in _open(workspace) if chosen is None or job in chosen]
    if format == "json":
        print_json(
            [
                {"run": each.run_id, "job": job, "at": each.at, "error": each.error, "row": each.row}
                for job, each in letters
            ]
        )
    elif not letters:
        note("no dead letters")
    else:
        times = Times(workspace.configuration.daemon.timezone)
        say(times.heading())
        rows = ((each.run_id, job, times(each.at), each.error, _row_text(each)) for job, each in letters)
        table(("run", "job", "at", "error", "row"), rows, fold=("error", "row"))
    return 0


def _wanted(names: list[str]) -> Wanted:
    async def here(controls: "DaemonControls", requested_by: str) -> list[Run]:
        return [await controls.retry_dead(name, requested_by) for name in names]

    return Wanted(
        f"dead --retry {' '.join(names[:3])}",
        names,
        lambda client: [client.retry_dead(name) for name in names],
        here,
        single=len(names) == 1,
    )


def _open(workspace: Workspace) -> "list[tuple[str, DeadLetter]]":
    from erpsync.store.dead_letters import DeadLetters, open_letters

    letters = DeadLetters(workspace.configuration.daemon.data / "dead")
    left: dict[str, list[str]] = workspace.read(open_letters, {}, letters.run_ids())
    return [(job, letter) for job, run_ids in left.items() for letter in letters.read(run_ids)]


def _row_text(letter: "DeadLetter") -> str:
    return shortened(json.dumps(letter.row, ensure_ascii=False), _SHOWN)
