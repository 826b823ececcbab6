"""`next`: when jobs are due, and why then."""

from collections.abc import Container
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from erpsync.cli.instant import parse_instant
from erpsync.cli.options import FormatOption, InstanceOption, JobArguments, TagOption, workspace_of
from erpsync.cli.output import note, print_json, say, table
from erpsync.cli.parked import Parked, parked_by_name, tell_parked
from erpsync.cli.workspace import Workspace
from erpsync.core.job import Dst

if TYPE_CHECKING:
    from erpsync.scheduling.explain import FireTime
    from erpsync.store.pauses import Pause

_TOLD = 10  # jobs without fire times of their own that are named one by one


def next_(
    context: typer.Context,
    jobs: JobArguments = None,
    expr: Annotated[str | None, typer.Option("--expr", help="A cron expression instead of a job.")] = None,
    tz: Annotated[str | None, typer.Option("--tz", help="The zone of --expr.")] = None,
    dst: Annotated[
        Dst | None, typer.Option("--dst", help='The rule of --expr for clock changes, else "vixie".')
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="After this instant instead of now; without Z or an offset in the zone of each job, or --tz.",
        ),
    ] = None,
    count: Annotated[int | None, typer.Option("-n", min=1, max=10_000, help="So many for each job.")] = None,
    instance: InstanceOption = None,
    tag: TagOption = None,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> None:
    """The next fire times, with the reason of every shift."""
    if expr is not None and (jobs or instance or tag):
        raise typer.BadParameter("it is looked at instead of jobs: name none", param_hint="--expr")
    if expr is None and (tz or dst):
        hint = "--tz" if tz else "--dst"
        raise typer.BadParameter("it is for --expr; a job has its own", param_hint=hint)
    parked: Parked = {}
    if expr is not None:
        found = _of_expression(expr, tz or "UTC", dst or "vixie", start, count or 5)
    else:
        parked = _parked(workspace_of(context), jobs, instance, tag)
        found = _of_jobs(context, jobs, instance, tag, start, count, parked)
    if format == "json":
        print_json(found)
        return
    if expr is not None and not found:
        note(f'nothing is due: "{expr}" has no fire time ahead')
    if expr is None:
        tell_parked(parked)
        due = {each["job"] for each in found}
        whys = _without_fire_times(context, jobs, instance, tag, due)
        for why in whys[:_TOLD]:
            note(why)
        if len(whys) > _TOLD:
            note(f"{len(whys) - _TOLD} more have no fire times of their own")
        if not found and not whys:
            some = workspace_of(context).configuration.jobs
            note(f"nothing is due: {'no job has a fire time ahead' if some else 'no jobs are defined'}")
    columns = ("at", "utc", "job", "note") if expr is None else ("at", "utc", "note")
    rows = ([time[column] for column in columns] for time in found)
    say("local times carry their offset")
    table(columns, rows, fold=("note",))


def _of_expression(
    expression: str, zone: str, dst: Dst, start: str | None, count: int
) -> list[dict[str, object]]:
    from erpsync.core.job import Cron
    from erpsync.scheduling.explain import fire_times
    from erpsync.scheduling.trigger import build_schedule

    after = _instant(start, zone)
    try:
        trigger = build_schedule(Cron(expression), zone, dst)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--expr") from error
    return [time.document(None) for time in fire_times(trigger, after, count)]


def _of_jobs(
    context: typer.Context,
    patterns: list[str] | None,
    instances: list[str] | None,
    tags: list[str] | None,
    start: str | None,
    count: int | None,
    parked: Parked,
) -> list[dict[str, object]]:
    from erpsync.control.selection import select_jobs
    from erpsync.scheduling.explain import fire_times
    from erpsync.scheduling.timetable import timetable
    from erpsync.store.pauses import read_pauses

    workspace, now = workspace_of(context), datetime.now(UTC)
    configuration = workspace.configuration
    jobs = select_jobs(configuration.jobs, patterns or (), instances=instances or (), tags=tags or ())
    each = count or (5 if len(jobs) == 1 else 1)
    pauses = {name: pause for name, pause in workspace.read(read_pauses, {}).items() if pause.holds(now)}
    found = []
    for job in jobs:
        due = timetable(job)
        times = fire_times(due.trigger, _instant(start, job.timezone), each, delay=due.delay, job=job)
        pause = pauses.get(job.name)
        why = f"parked: {parked[job.name][0]['message']}" if job.name in parked else ""
        found += [(time.utc, _noted(_with_pause(time, pause), why).document(job.name)) for time in times]
    return [document for _, document in sorted(found, key=lambda pair: pair[0])]


def _with_pause(fire: "FireTime", pause: "Pause | None") -> "FireTime":
    if pause is None or not (pause.since <= fire.utc and pause.holds(fire.utc)):
        return fire
    paused = "paused"
    if pause.until is not None:
        paused += f" until {pause.until.astimezone(fire.at.tzinfo).isoformat(timespec='minutes')}"
    return _noted(fire, paused)


def _noted(fire: "FireTime", word: str) -> "FireTime":
    return replace(fire, note="; ".join(filter(None, (word, fire.note))))


def _parked(
    workspace: Workspace,
    patterns: list[str] | None,
    instances: list[str] | None,
    tags: list[str] | None,
) -> Parked:
    """Those of the chosen jobs that cannot run as things are."""
    from erpsync.control.selection import select_jobs
    from erpsync.daemon.check import require_schedules

    configuration = workspace.configuration
    require_schedules(configuration)
    jobs = select_jobs(configuration.jobs, patterns or (), instances=instances or (), tags=tags or ())
    known = parked_by_name(workspace)
    return {job.name: known[job.name] for job in jobs if job.name in known}


def _without_fire_times(
    context: typer.Context,
    patterns: list[str] | None,
    instances: list[str] | None,
    tags: list[str] | None,
    due: Container[object],
) -> list[str]:
    """Why jobs have no fire times, or not all: after whom they come, and of those that were chosen the rest too."""
    from erpsync.cli.jobs import schedule_texts
    from erpsync.control.selection import select_jobs
    from erpsync.core.job import After, Manual

    found = []
    configured = workspace_of(context).configuration.jobs
    for job in select_jobs(configured, patterns or (), instances=instances or (), tags=tags or ()):
        afters = [schedule for schedule in job.schedules if isinstance(schedule, After)]
        if afters and job.enabled:
            found += [f"{job.name} comes {text}" for text in schedule_texts(afters)]
        elif (patterns or instances or tags) and job.name not in due:
            idle = "runs only when asked" if Manual() in job.schedules else "has no fire time ahead"
            found.append(f"{job.name} {idle if job.enabled else 'is disabled'}")
    return found


def _instant(text: str | None, zone: str) -> datetime:
    now = datetime.now(UTC)
    if text is None:
        return now
    try:
        return parse_instant(text, zone, now)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--from") from error
