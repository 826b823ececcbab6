"""`backfill`: the daemon is asked to work through a part of the past, slice by slice."""

import re
from collections import Counter
from datetime import timedelta
from typing import Annotated, Any

import typer

from erpsync.cli.choice import tell_disabled
from erpsync.cli.exit_code import code_of_run
from erpsync.cli.following import finish, followed
from erpsync.cli.options import IN_THE_ZONE, FormatOption, workspace_of
from erpsync.cli.output import counted, print_json, say
from erpsync.cli.run import window_of


def backfill(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The name of one job.")],
    first: Annotated[
        str,
        typer.Option("--from", metavar="INSTANT", help=f"Where the first slice begins; {IN_THE_ZONE}."),
    ],
    last: Annotated[str, typer.Option("--to", metavar="INSTANT", help="Where the last one ends.")],
    size: Annotated[str, typer.Option("--slice", metavar="DURATION", help="The length of a slice.")] = "1d",
    name: Annotated[
        str | None, typer.Option("--name", help="Do a backfill again that was done, under another name.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the slices to their end.")] = True,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> int:
    """Run a job for each slice of the past. Slices let every other run go before; asked again it goes on."""
    from erpsync.control.selection import find_job

    workspace = workspace_of(context)
    found = find_job(workspace.configuration.jobs, job)
    window = window_of(workspace, first, last)
    assert window is not None
    seconds = _slice_of(size).total_seconds()
    _check_name(name)
    tell_disabled([found])
    with workspace.own_daemon() as client:
        runs: list[dict[str, Any]] = client.backfill(found.name, window, seconds, name)
    if not wait:
        _say_outcomes(found.name, runs) if format == "text" else print_json(runs)
        return 0
    runs, refused = followed(workspace, runs)
    if format == "json":
        return finish(workspace, runs, refused, False, format)
    finish(workspace, [run for run in runs if run["outcome"] != "succeeded"], refused, False, format)
    _say_outcomes(found.name, runs)
    return max(code_of_run(run, refused) for run in runs)


def _slice_of(text: str) -> timedelta:
    from erpsync.control.wish import LONGEST_SLICE, SHORTEST_SLICE
    from erpsync.core.duration import parse_duration

    try:
        size = parse_duration(text)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error), param_hint="--slice") from error
    if not SHORTEST_SLICE <= size <= LONGEST_SLICE:
        raise typer.BadParameter(
            f"{text} is no slice; from 1s to {LONGEST_SLICE.days}d", param_hint="--slice"
        )
    return size


def _check_name(name: str | None) -> None:
    from erpsync.control.wish import BACKFILL_NAME

    if name is not None and not re.fullmatch(BACKFILL_NAME, name):
        message = "60 letters, digits, dots, dashes and underscores at most"
        raise typer.BadParameter(message, param_hint="--name")


def _say_outcomes(job: str, runs: list[dict[str, Any]]) -> None:
    outcomes = Counter(run["outcome"] or run["state"] for run in runs)
    say(
        f"{job}, {counted(len(runs), 'slice')}: {', '.join(f'{number} {name}' for name, number in outcomes.items())}"
    )
