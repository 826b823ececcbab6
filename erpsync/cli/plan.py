"""`plan` and `reload`: what the changed files would do, and doing it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from erpsync.cli.options import FormatOption, workspace_of
from erpsync.cli.output import Times, inset, note, print_json, say, table

if TYPE_CHECKING:
    from erpsync.cli.workspace import Workspace


def plan(context: typer.Context, format: FormatOption = "text") -> None:  # noqa: A002 - the option's name
    """What `reload` would change: compares the files with the configuration that was accepted last."""
    from erpsync.config.load import load_configuration
    from erpsync.config.shelf import kept
    from erpsync.daemon.check import parked_jobs, require_schedules
    from erpsync.daemon.place import resolver_of
    from erpsync.daemon.plan import first_plan, plan_change
    from erpsync.daemon.reload import reasons
    from erpsync.plugins.discovery import PluginCatalog
    from erpsync.store.ledger import read_history

    workspace = workspace_of(context)
    after = workspace.configuration
    require_schedules(after)
    last = kept(after.path, after.daemon.data)
    if last is None:
        note("no daemon has accepted a configuration here yet: all of it is new")
        found = first_plan(after, datetime.now(UTC))
    else:
        before = load_configuration(after.path, os.environ, shelf=last)
        history = workspace.read(read_history, {}, before.jobs)
        found = plan_change(before, after, history, datetime.now(UTC))
    resolver = resolver_of(after, workspace.redactor)
    parked = parked_jobs(after, PluginCatalog(after.daemon.plugins), resolver)
    files = _changed_files(workspace)
    found = replace(found, restart=(*found.restart, *files), parked=reasons(parked))
    if format == "json":
        print_json(found.document())
    else:
        print_plan(found.document(), after.daemon.timezone)


def _changed_files(workspace: "Workspace") -> list[str]:
    """The plugin files that a daemon has imported and that are others by now."""
    from erpsync.core.errors import ErpsyncError
    from erpsync.plugins.stamp import changed

    try:
        with workspace.client() as client:
            return changed(client.status()["plugins"])
    except ErpsyncError:  # nobody runs, or may be asked: a start takes every file as it is
        return []


def print_plan(document: Mapping[str, Any], zone: str) -> None:
    """A plan for people."""
    jobs: Sequence[Mapping[str, Any]] = document["jobs"]
    for job, reason in document["parked"].items():
        note(f"{job} cannot run: {inset(reason)} (erpsync check)")
    if not (jobs or document["connections"] or document["restart"]):
        say("nothing changes")
        return
    times = Times(zone)
    if jobs:
        say(times.heading())
        rows = [
            (
                _SIGNS[job["change"]],
                job["job"],
                times(job["next_before"]),
                times(job["next_after"]),
                _what(job),
            )
            for job in jobs
        ]
        table(("", "job", "next before", "next after", "what changes"), rows, fold=("what changes",))
    for job in jobs:
        if job["at_stake"]:
            say(f"at stake: {job['job']}: {job['at_stake']}")
    if document["connections"]:
        say(f"connected anew: {', '.join(document['connections'])}")
    if document["restart"]:
        say(f"only a restart of the daemon takes over: {', '.join(document['restart'])}")


_SIGNS = {"added": "+", "removed": "-", "renamed": "→", "changed": "~"}


def _what(job: Mapping[str, Any]) -> str:
    if job["change"] == "renamed":
        return f"was {job['former']}"
    return ", ".join(_change(each) for each in job["keys"])


def _change(change: Mapping[str, Any]) -> str:
    if change["before"] is None and change["after"] is None:
        return str(change["key"])
    return f"{change['key']} {_short(change['before'])} → {_short(change['after'])}"


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def reload(context: typer.Context, format: FormatOption = "text") -> None:  # noqa: A002
    """Let the daemon take the changed files over while runs are going; exit 78 where they are refused."""
    workspace = workspace_of(context)
    with workspace.client() as client:
        carried_out = client.reload()
    if format == "json":
        print_json(carried_out)
    else:
        print_plan(carried_out, workspace.configuration.daemon.timezone)
