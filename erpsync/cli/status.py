"""`status`: the whole state on one screen, or in one exit code."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from erpsync.cli.identities import print_identities, print_licenses
from erpsync.cli.options import FormatOption, workspace_of
from erpsync.cli.output import Times, inset, note, print_json, print_runs, say, table
from erpsync.cli.workspace import Workspace
from erpsync.core.errors import NoDaemonError
from erpsync.core.run import Run

_RECENT = 10


def status(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Say only what is wrong; exit 0 or 1.")] = False,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> int:
    """What is now, what was, what comes; without a daemon what the ledger knows."""
    from erpsync.store.history import RunFilter, list_runs

    workspace = workspace_of(context)
    daemon = _ask(workspace)
    owner = _silent_daemon(workspace) if daemon is None else None
    problems = [_nobody(workspace, owner)] if daemon is None else list(daemon["problems"])
    if daemon is not None and (difference := workspace.differs(daemon)):
        problems.insert(0, difference)
    runs: list[Run] = workspace.read(list_runs, [], RunFilter(limit=1 if check else 1000))
    if format == "json":
        recent = [run.document() for run in runs[:_RECENT]]
        print_json({"daemon": daemon, "problems": problems, "runs": recent})
    elif check:
        for problem in problems:
            note(inset(problem))
    else:
        _print(workspace, daemon, owner, problems, runs)
    return 1 if check and problems else 0


def _ask(workspace: Workspace) -> dict[str, Any] | None:
    try:
        with workspace.client() as client:
            return client.status()
    except NoDaemonError:
        return None


def _silent_daemon(workspace: Workspace) -> str | None:
    """The daemon that owns the state although nobody answers."""
    from erpsync.store.owner import owner_of

    owner = owner_of(workspace.configuration.daemon.state)
    return owner if owner is not None and owner.startswith("daemon ") else None


def _nobody(workspace: Workspace, owner: str | None) -> str:
    if owner is None:
        return "no daemon is running"
    return (
        f"{owner} owns the state and does not answer on {workspace.configuration.control.socket}: it is starting or"
        " stopping, has another [control] socket, or makes its own anew within seconds; else restart it"
    )


def _print(
    workspace: Workspace,
    daemon: Mapping[str, Any] | None,
    owner: str | None,
    problems: Sequence[str],
    runs: Sequence[Run],
) -> None:
    configuration = workspace.configuration
    times = Times(configuration.daemon.timezone)
    enabled = sum(job.enabled for job in configuration.jobs.values())
    if daemon is None:
        since = f"does not answer: {owner}" if owner else "not running"
    else:
        since = f"pid {daemon['pid']}, since {times(daemon['started_at'])}"
    say(f"daemon   {since}")
    say(f"config   {configuration.path.resolve()}, times in {times.zone}")
    say(f"jobs     {len(configuration.jobs)}, {enabled} enabled")
    say(f"state    {configuration.daemon.state}")
    outcomes = Counter(str(run.outcome or run.state) for run in runs)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    say(f"runs     {f'the last {len(runs)}: {counted}' if runs else 'none yet'}")
    if problems:
        say("problems")
        for problem in problems:
            say(f"  {inset(problem)}")
    if daemon is not None:
        _print_daemon(daemon, times)
    if runs:
        _section("runs")
        print_runs(runs[:_RECENT], times.zone)


def _print_daemon(daemon: Mapping[str, Any], times: Times) -> None:
    if daemon["identities"]:
        _section("identities")
        print_identities(daemon["identities"], times)
    if daemon["licenses"]:
        used, slots = (sum(each[key] for each in daemon["licenses"]) for key in ("in_use", "slots"))
        _section(f"licence slots: {used} of {slots} in use")
        busy = [each for each in daemon["licenses"] if each["in_use"] or each["waiting"]]
        if busy:
            print_licenses(busy, times)
    if daemon["running"]:
        _section("running")
        now = datetime.now(UTC)
        table(
            ("run", "job", "for", "progress"),
            [
                (run["id"], run["job"], _age(run["started_at"], now), progress_text(run["progress"]))
                for run in daemon["running"]
            ],
        )
    if daemon["paused"]:
        _section("paused")
        table(
            ("job", "since", "until", "by", "reason"),
            [
                (
                    each["job"],
                    times(each["since"]),
                    times(each["until"]),
                    each["requested_by"],
                    each["reason"],
                )
                for each in daemon["paused"]
            ],
            fold=("reason",),
        )
    if daemon["waiting"]:
        _section("waiting")
        table(("for", "runs"), sorted(daemon["waiting"].items()))
    if daemon["next"]:
        _section("next")
        table(("job", "at"), [(each["job"], times(each["at"])) for each in daemon["next"]])


def progress_text(progress: Mapping[str, Any] | None) -> str:
    """ "1000 of 1250" or "1000"; empty where nothing is known."""
    if progress is None:
        return ""
    return f"{progress['done']} of {progress['total']}" if progress["total"] else str(progress["done"])


def _section(title: str) -> None:
    say(f"\n{title}")


def _age(started: str | None, now: datetime) -> str:
    from erpsync.core.duration import format_duration

    return format_duration(now - datetime.fromisoformat(started)) if started else "-"
