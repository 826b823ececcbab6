"""`runs`, `show`, `logs`: what was, read from the ledger and the run logs without a daemon."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import takewhile
from typing import Annotated, Any

import typer

from erpsync.cli.choice import find_run_of, job_names, job_or_run
from erpsync.cli.options import (
    IN_THE_ZONE,
    FormatOption,
    InstanceOption,
    JobArguments,
    TagOption,
    workspace_of,
)
from erpsync.cli.output import (
    RUN_COLUMNS,
    Times,
    inset,
    note,
    print_json,
    print_runs,
    run_row,
    say,
    say_wrapped,
    table,
)
from erpsync.cli.workspace import Workspace
from erpsync.core.errors import UnknownRunError
from erpsync.core.run import Attempt, Outcome, Run, State

_LOG_TAIL = 20  # records that `show` prints
_INSET, _LOG_INSET = 12, 6  # blanks before what goes on in the next line
_POLL_SECONDS = 0.3
_MANY = 1000  # runs that may come between two looks


def runs(
    context: typer.Context,
    jobs: JobArguments = None,
    outcome: Annotated[
        list[Outcome] | None, typer.Option(help="Only runs that ended so; repeatable.")
    ] = None,
    since: Annotated[str | None, typer.Option(help=f'"24h", "18:00" or an instant; {IN_THE_ZONE}.')] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The newest so many.")] = 50,
    instance: InstanceOption = None,
    tag: TagOption = None,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> None:
    """What ran, the newest first."""
    from erpsync.store.history import RunFilter, list_runs

    workspace = workspace_of(context)
    which = RunFilter(
        jobs=job_names(workspace, jobs, instance, tag),
        outcomes=tuple(outcome or ()),
        since=_since(workspace, since),
        limit=limit,
    )
    found = workspace.read(list_runs, [], which)
    if format == "json":
        print_json([run.document() for run in found])
        return
    if not found:
        note("no runs")
        return
    print_runs(found, workspace.configuration.daemon.timezone)


def show(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run's id, or its first letters.")],
    format: FormatOption = "text",  # noqa: A002
) -> None:
    """One run: its attempts, its error, the end of its log."""
    from erpsync.store.history import list_attempts

    workspace = workspace_of(context)
    found = find_run_of(workspace, run)
    attempts = workspace.read(list_attempts, [], found.id)
    records, _ = workspace.run_log.read(found.id)
    if format == "json":
        history = [attempt.document() for attempt in attempts]
        print_json({**found.document(), "attempts": history, "log": records[-_LOG_TAIL:]})
        return
    times = Times(_zone(workspace, found.job))
    _print_run(found, attempts, times)
    if records:
        say(f"\nlog (the last {min(len(records), _LOG_TAIL)} of {len(records)} lines)")
    for record in records[-_LOG_TAIL:]:
        say_wrapped(f"  {_log_line(record, times)}", _LOG_INSET)


def logs(
    context: typer.Context,
    subject: Annotated[
        str | None, typer.Argument(metavar="[RUN|JOB]", help="A run, or a job: its newest run.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends; of a job run after run.")
    ] = False,
    instance: InstanceOption = None,
    tag: TagOption = None,
    format: FormatOption = "text",  # noqa: A002
) -> None:
    """What a run said. With --follow and JSON: one document a line."""
    workspace = workspace_of(context)
    if not (subject or instance or tag):
        raise typer.BadParameter(
            "name a run or a job, or choose by --instance or --tag", param_hint="RUN|JOB"
        )
    for run in _runs_to_read(workspace, subject, instance, tag, follow):
        if format == "json" and not follow:
            print_json(workspace.run_log.read(run.id)[0])
            return
        times = Times(_zone(workspace, run.job))
        if format == "text":
            note(f"{run.id} {run.job}, {times.heading()}")
        for record in _records(workspace, run.id, follow):
            if format == "json":
                say(json.dumps(record, ensure_ascii=False))
            else:
                say_wrapped(_log_line(record, times), _LOG_INSET)
            sys.stdout.flush()


def _runs_to_read(
    workspace: Workspace,
    subject: str | None,
    instances: list[str] | None,
    tags: list[str] | None,
    follow: bool,
) -> Iterator[Run]:
    """The run of this id, or the newest of the jobs; to follow, the one that runs and those that come after it."""
    if subject and not (instances or tags) and isinstance(meant := job_or_run(workspace, subject), Run):
        yield meant
        return
    names = job_names(workspace, [subject] if subject else None, instances, tags)
    begun = _list(workspace, names, (State.RUNNING,), _MANY)[-1:] if follow else []
    run = next(iter(begun or _list(workspace, names, (), 1)), None)
    if run is None and not follow:
        raise UnknownRunError("there is no run yet", hint=f"erpsync run {subject or 'JOB'}")
    if run is not None:
        yield run
    while follow:
        newest = _list(workspace, names, (), _MANY)
        newer = _before(newest, run)
        yield from reversed(newer)
        run = next(iter(newer), run)
        if not newer:
            time.sleep(_POLL_SECONDS)


def _before(newest_first: Sequence[Run], known: Run | None) -> list[Run]:
    return [*takewhile(lambda each: known is None or each.id != known.id, newest_first)]


def _list(
    workspace: Workspace, names: tuple[str, ...] | None, states: tuple[State, ...], limit: int
) -> list[Run]:
    from erpsync.store.history import RunFilter, list_runs

    runs: list[Run] = workspace.read(list_runs, [], RunFilter(jobs=names, states=states, limit=limit))
    return runs


def _since(workspace: Workspace, text: str | None) -> datetime | None:
    from erpsync.cli.instant import parse_since

    if text is None:
        return None
    try:
        return parse_since(text, workspace.configuration.daemon.timezone, datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from error


def _zone(workspace: Workspace, job: str) -> str:
    known = workspace.configuration.jobs.get(job)
    return known.timezone if known else workspace.configuration.daemon.timezone


def _print_run(run: Run, attempts: list[Attempt], times: Times) -> None:
    say(times.heading())
    cells = zip(RUN_COLUMNS, run_row(run, times), strict=True)
    extra = {
        "plugin": run.plugin,
        "instance": run.instance,
        "identity": run.identity,
        "asked by": run.requested_by,
        "started": times(run.started_at) if run.started_at else None,
        "next try": times(run.next_attempt_at) if run.next_attempt_at else None,
        "cursor": f"{run.cursor_before or '-'} → {run.cursor_after}" if run.cursor_after else None,
    }
    for name, value in [*cells, *extra.items()]:
        if value not in (None, "", "-"):
            say_wrapped(f"{name:>10}  {inset(str(value))}", _INSET)
    if run.error:
        say_wrapped(f"{'error':>10}  {run.error.type}: {inset(run.error.message)}", _INSET)
        say_wrapped(f"{'help':>10}  {inset(run.error.hint)}" if run.error.hint else "", _INSET)
    say()
    rows = (
        (
            attempt.number,
            times(attempt.started_at),
            times(attempt.finished_at),
            attempt.outcome or "running",
            f"{attempt.error.type}: {attempt.error.message}" if attempt.error else "",
        )
        for attempt in attempts
    )
    table(("try", "started", "ended", "outcome", "why"), rows, fold=("why",))


def _log_line(record: Mapping[str, Any], times: Times) -> str:
    rest = {key: value for key, value in record.items() if key not in ("at", "level", "event")}
    fields = " ".join(f"{key}={value}" for key, value in rest.items())
    line = f"{times(record.get('at'))} {record.get('level', ''):7} {record.get('event', '')} {fields}"
    return inset(line.rstrip())


def _records(workspace: Workspace, run_id: str, follow: bool) -> Iterator[Mapping[str, Any]]:
    log, offset = workspace.run_log, 0
    while True:
        # asked before reading: no last words lost
        over = not follow or find_run_of(workspace, run_id).state is State.FINISHED
        records, offset = log.read(run_id, offset)
        yield from records
        if over:
            return
        time.sleep(_POLL_SECONDS)
