"""`retry`: a finished run is done again, by the daemon or here."""

from typing import TYPE_CHECKING, Annotated

import typer

from erpsync.cli.choice import find_run_of
from erpsync.cli.following import Wanted, see_through
from erpsync.cli.options import FormatOption, workspace_of
from erpsync.core.run import Run

if TYPE_CHECKING:
    from erpsync.daemon.controls import DaemonControls


def retry(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run's id, or its first letters.")],
    force: Annotated[bool, typer.Option("--force", help="Also where it has succeeded.")] = False,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> int:
    """Run once more, with the same parameters and window, and wait: by the daemon where one owns the state."""
    workspace = workspace_of(context)
    found = find_run_of(workspace, run)

    async def here(controls: "DaemonControls", requested_by: str) -> list[Run]:
        return [await controls.retry(found.id, force, requested_by)]

    wanted = Wanted(
        f"retry {found.id}",
        [found.job],
        lambda client: [client.retry(found.id, force=force)],
        here,
        single=True,
    )
    return see_through(workspace, wanted, format)
