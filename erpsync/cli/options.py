"""Options and arguments that several commands share."""

from typing import Annotated

import typer

from erpsync.cli.output import Format
from erpsync.cli.workspace import Workspace

FormatOption = Annotated[Format, typer.Option("--format", help="text for people, json for programs.")]
JobArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[JOB]...", help="Names, definitions or globs; all where none is given."),
]
ChosenJobs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[JOB]...", help="Names, definitions or globs; or choose by the options."),
]
InstanceOption = Annotated[
    list[str] | None, typer.Option("--instance", help="Only jobs of this instance; repeatable.")
]
TagOption = Annotated[list[str] | None, typer.Option("--tag", help="Only jobs with this tag; repeatable.")]

IN_THE_ZONE = (
    "without Z or an offset it is in [daemon] timezone"  # what every typed instant is, said in each help
)

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def workspace_of(context: typer.Context) -> Workspace:
    """What `main` gave to the commands."""
    workspace = context.obj
    assert isinstance(workspace, Workspace)
    return workspace
