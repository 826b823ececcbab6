"""`jobs` and `jobs show`: what is configured, when it is due next and how it ended last."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from erpsync.cli.options import FormatOption, InstanceOption, TagOption, workspace_of
from erpsync.cli.output import Times, note, print_json, say, table
from erpsync.cli.parked import parked_by_name, tell_parked
from erpsync.core.duration import format_duration
from erpsync.core.job import After, At, Cron, Every, Job, Schedule
from erpsync.core.run import Run, utc_text

if TYPE_CHECKING:
    from erpsync.store.pauses import Pause

jobs_app = typer.Typer(name="jobs", help="The jobs, their next fire times and last runs.")


@jobs_app.callback(invoke_without_command=True)
def jobs(
    context: typer.Context,
    instance: InstanceOption = None,
    tag: TagOption = None,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> None:
    """All jobs; `jobs show JOB` for one."""
    if context.invoked_subcommand is not None:
        return
    from erpsync.control.selection import select_jobs
    from erpsync.daemon.check import require_schedules
    from erpsync.scheduling.trigger import build_trigger, next_after
    from erpsync.store.history import last_runs
    from erpsync.store.pauses import read_pauses

    workspace = workspace_of(context)
    configuration = workspace.configuration
    require_schedules(configuration)
    chosen = select_jobs(configuration.jobs, instances=instance or (), tags=tag or ())
    last: dict[str, Run] = workspace.read(last_runs, {}, [job.name for job in chosen])
    now = datetime.now(UTC)
    stored: dict[str, Pause] = workspace.read(read_pauses, {})
    pauses = {name: pause for name, pause in stored.items() if pause.holds(now)}
    fires = {job.name: next_after(build_trigger(job), now) if job.enabled else None for job in chosen}
    known = parked_by_name(workspace)
    parked = {job.name: known[job.name] for job in chosen if job.name in known}
    if format == "json":
        print_json(
            [
                _document(job, fires[job.name], last.get(job.name), pauses.get(job.name))
                | {"parked": parked.get(job.name)}
                for job in chosen
            ]
        )
        return
    if not chosen:
        note("no jobs are defined")
        return
    times = Times(configuration.daemon.timezone)
    say(times.heading())
    rows = (
        _row(
            job,
            "parked" if job.name in parked else _due(fires[job.name], pauses.get(job.name), times),
            last.get(job.name),
            times,
        )
        for job in chosen
    )
    table(
        ("job", "plugin", "identity", "schedule", "zone", "next", "last", "ended"), rows, fold=("schedule",)
    )
    tell_parked(parked)


@jobs_app.command("show")
def show_job(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The name of one job.")],
    format: FormatOption = "text",  # noqa: A002
) -> None:
    """One effective job, with the file and line of every key."""
    from erpsync.config.mask import without_literals
    from erpsync.control.selection import find_job
    from erpsync.daemon.check import misplaced_literals

    configuration = workspace_of(context).configuration
    found = find_job(configuration.jobs, job)
    document, origins = configuration.document(found), configuration.origins(found.name)
    document["with"] = without_literals(document["with"], misplaced_literals(configuration, found))
    if format == "json":
        places = {
            key: {"file": origin.file, "line": origin.line, "column": origin.column, "layer": origin.layer}
            for key, origin in origins.items()
        }
        print_json({"name": found.name, "job": document, "origins": places})
        return
    say(found.name)
    rows = []
    for key, value in _flat(document):
        origin = origins.get(key)
        place = "" if origin is None else f"{origin.file}:{origin.line}" if origin.file else origin.layer
        rows.append((key, _value_text(value), place))
    table(("key", "value", "from"), rows, fold=("value",))


def schedule_texts(schedules: Sequence[Schedule]) -> list[str]:
    """Schedules as people write them."""
    return [_schedule_text(schedule) for schedule in schedules]


def _schedule_text(schedule: Schedule) -> str:
    match schedule:
        case Cron(expression, zone, dst):
            return " ".join(filter(None, (expression, zone and f"({zone})", dst and f"dst={dst}")))
        case Every(every, offset):
            return f"every {format_duration(every)}" + (f" + {format_duration(offset)}" if offset else "")
        case At(at):
            return f"at {utc_text(at)}"
        case After(parents, on):
            plain = on == After(()).on
            return f"after {', '.join(parents)}" + ("" if plain else f" on {', '.join(sorted(on))}")
        case _:
            return "manual"


def _document(job: Job, fires: datetime | None, last: Run | None, pause: "Pause | None") -> dict[str, object]:
    return {
        "name": job.name,
        "definition": job.definition,
        "plugin": job.plugin,
        "instance": job.instance,
        "identity": job.identity,
        "enabled": job.enabled,
        "schedule": schedule_texts(job.schedules),
        "timezone": job.timezone,
        "spread": format_duration(job.spread),
        "description": job.description,
        "tags": sorted(job.tags),
        "next_fire_at": utc_text(fires),
        "last_run": last.document() if last else None,
        "paused": None
        if pause is None
        else {"since": utc_text(pause.since), "until": utc_text(pause.until), "reason": pause.reason},
    }


def _due(fires: datetime | None, pause: "Pause | None", times: Times) -> str:
    if pause is None:
        return times(fires)
    return f"paused until {times(pause.until)}" if pause.until else "paused"


def _row(job: Job, due: str, last: Run | None, times: Times) -> tuple[object, ...]:
    schedule = ", ".join(schedule_texts(job.schedules)) if job.enabled else "disabled"
    if job.enabled and job.spread:
        schedule += f", spread {format_duration(job.spread)}"
    ended = (last.outcome or last.state) if last else "-"
    at = times(last.started_at or last.fire_at) if last else "-"
    return job.name, job.plugin, job.identity or "-", schedule, job.timezone, due, at, ended


def _flat(document: object, prefix: str = "") -> list[tuple[str, object]]:
    """The leaves of nested tables under dotted keys."""
    if not isinstance(document, dict) or not document:
        return [(prefix, document)]
    leaves = []
    for key, value in document.items():
        leaves += _flat(value, f"{prefix}.{key}" if prefix else key)
    return leaves


def _value_text(value: object) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
