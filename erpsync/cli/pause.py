"""`pause` and `resume`: the daemon is asked to leave jobs alone for a while, or not any more."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from erpsync.cli.choice import chosen_jobs
from erpsync.cli.instant import parse_instant
from erpsync.cli.options import (
    IN_THE_ZONE,
    ChosenJobs,
    FormatOption,
    InstanceOption,
    TagOption,
    YesOption,
    workspace_of,
)
from erpsync.cli.output import Times, note, print_json, say, table


def pause(
    context: typer.Context,
    jobs: ChosenJobs = None,
    until: Annotated[
        str | None, typer.Option(help=f'"06:00", "2h" or an instant, {IN_THE_ZONE}; else until resumed.')
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for those who wonder.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every job.")] = False,
    instance: InstanceOption = None,
    tag: TagOption = None,
    yes: YesOption = False,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> None:
    """Let jobs fire nothing; what runs goes on. What passes meanwhile follows `catch_up` at the end."""
    workspace = workspace_of(context)
    names = [job.name for job in chosen_jobs(workspace, jobs, instance, tag, yes, everything)]
    zone = workspace.configuration.daemon.timezone
    end = _until(until, zone)
    with workspace.own_daemon() as client:
        pauses = client.pause(names, end, reason)
    if format == "json":
        print_json(pauses)
        return
    times = Times(zone)
    say(times.heading())
    rows = [(each["job"], times(each["since"]), times(each["until"]), each["reason"]) for each in pauses]
    table(("paused", "since", "until", "reason"), rows, fold=("reason",))


def resume(
    context: typer.Context,
    jobs: ChosenJobs = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every job that is paused, and a state that is held.")
    ] = False,
    instance: InstanceOption = None,
    tag: TagOption = None,
    yes: YesOption = False,
    format: FormatOption = "text",  # noqa: A002
) -> None:
    """Let paused jobs go on."""
    workspace = workspace_of(context)
    if everything and (jobs or instance or tag):
        raise typer.BadParameter("either jobs or all of them", param_hint="--all")
    chosen = None if everything else chosen_jobs(workspace, jobs, instance, tag, yes)
    with workspace.own_daemon() as client:
        answer = client.resume(None if chosen is None else [job.name for job in chosen])
    if format == "json":
        print_json(answer)
        return
    if answer["released"]:
        say("the state goes on here: its jobs fire again")
    for name in answer["resumed"]:
        say(f"{name} goes on")
    if not answer["resumed"] and not answer["released"]:
        note("nothing was paused")


def _until(text: str | None, zone: str) -> datetime | None:
    now = datetime.now(UTC)
    if text is None:
        return None
    try:
        until = parse_instant(text, zone, now, ahead=True)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--until") from error
    if until <= now:
        raise typer.BadParameter("that is over already", param_hint="--until")
    return until
