"""`doctor`: is all well between this machine and the instances? Each line a verdict and what to mend."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Annotated, Any

import typer

from erpsync.cli.exit_code import ExitCode, code_of_kind
from erpsync.cli.options import FormatOption, workspace_of
from erpsync.cli.output import LiveLine, counted, note, print_json, say, table
from erpsync.cli.workspace import Workspace
from erpsync.core.errors import NoDaemonError

AT_ONCE = 16  # instances side by side

Findings = list[dict[str, Any]]


def doctor(
    context: typer.Context,
    instances: Annotated[
        list[str] | None, typer.Argument(metavar="[INSTANCE]...", help="All where none is named.")
    ] = None,
    api: Annotated[
        bool,
        typer.Option("--api", help="Read from the API too: this opens sessions, each takes a licence slot."),
    ] = False,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> int:
    """Addresses, certificates, clocks, tokens, scopes and users, as they are now."""
    from erpsync.control.selection import find_named

    workspace = workspace_of(context)
    known = workspace.configuration.instances
    names = [find_named(known, name, "instance").name for name in instances or known]
    findings = examine(workspace, names, api=api)
    if format == "json":
        print_json(findings)
    else:
        print_findings(findings)
    return code_of(findings)


def examine(workspace: Workspace, names: Sequence[str], *, api: bool) -> Findings:
    """What is found at these instances, in their order: by the daemon where one runs, else in this process."""
    live, done = LiveLine(), 0

    def tell(name: str) -> None:
        nonlocal done
        done += 1
        live.show(f"{done} of {len(names)} instances, last {name}")

    live.show(counted(len(names), "instance"))
    try:
        found = _asked(workspace, names, api, tell)
    except NoDaemonError:
        from erpsync.daemon.desk_alone import examine_alone

        found = asyncio.run(
            examine_alone(
                workspace.configuration, workspace.redactor, names, api=api, tell=tell, at_once=AT_ONCE
            )
        )
    finally:
        live.clear()
    return [finding for name in names for finding in found[name]]


def _asked(
    workspace: Workspace, names: Sequence[str], api: bool, tell: Callable[[str], None]
) -> dict[str, Findings]:
    with workspace.client() as client:
        if difference := workspace.differs(client.status()):
            note(f"warning: {difference}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            asking = {pool.submit(client.examine, name, api=api): name for name in names}
            for each in as_completed(asking):
                tell(asking[each])
            return {name: each.result() for each, name in asking.items()}


def print_findings(findings: Findings) -> None:
    """A table, and how many of each verdict."""
    columns = ("instance", "identity", "step", "verdict", "found", "to do")
    rows = (
        (
            each["instance"],
            each["identity"] or "",
            each["step"],
            each["verdict"],
            each["message"],
            each["hint"],
        )
        for each in findings
    )
    table(columns, rows, fold=("found", "to do"))
    counts = Counter(each["verdict"] for each in findings)
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("ok", "warning", "failed"))
    instances = len({each["instance"] for each in findings})
    say(f"{counted(instances, 'instance')}: {verdicts}")


def code_of(findings: Findings) -> int:
    """The exit code: of the worst failure, warnings are fine."""
    failed = (each for each in findings if each["verdict"] == "failed")
    return max(
        (code_of_kind(each["error"], retryable=each["retryable"]) for each in failed), default=ExitCode.FINE
    )
