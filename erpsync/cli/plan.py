"""`plan` and `reload`: what the changed files would do, and doing it."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from erpsync.cli.options import FormatOption, workspace_of
from erpsync.cli.output import Times, inset, note, print_json, say, shortened, table

if TYPE_CHECKING:
    from erpsync.config.configuration import Configuration
    from erpsync.store.cursors import History

_LONGEST = 60  # signs of a value on a terminal


def plan(context: typer.Context, format: FormatOption = "text") -> None:  # noqa: A002 - the option's name
    """What `reload` would change: compares the files with the configuration that was accepted last.

    With another `data` the socket is another one too, unless the configuration names it: then no daemon is found.
    """
    from erpsync.config.load import load_configuration
    from erpsync.config.shelf import kept, other_owner
    from erpsync.daemon.check import parked_jobs, require_fitting, require_schedules
    from erpsync.daemon.place import resolver_of
    from erpsync.daemon.plan import first_plan, plan_change
    from erpsync.daemon.reload import reasons
    from erpsync.plugins.discovery import PluginCatalog
    from erpsync.plugins.stamp import changed

    workspace = workspace_of(context)
    after = workspace.configuration
    require_schedules(after)
    catalog = PluginCatalog(after.daemon.plugins)
    parked = parked_jobs(after, catalog, resolver_of(after, workspace.redactor))
    daemon = workspace.daemon()
    if daemon:  # a reload would refuse it; a start parks the job
        require_fitting(parked, [each["job"] for each in daemon["parked"]])
    data = Path(daemon["state"]).parent if daemon else after.daemon.data  # which the files may have changed
    last = kept(after.path, data)
    if last is None and (other := other_owner(after.path, data)):
        note(f"{data} is the state of another configuration, {other}: give each its own [daemon] data")
        found = first_plan(after, datetime.now(UTC))
    elif last is None:
        note(f"no daemon has accepted a configuration in {data} yet: all of it is new")
        if not daemon:  # its socket may lie in the folder that the files named before
            former = "ERPSYNC_DAEMON__DATA=FORMER erpsync"
            note(
                f"if [daemon] data has changed, ask the one in the former folder: {former} plan, or {former} reload"
            )
        found = first_plan(after, datetime.now(UTC))
    else:
        before = load_configuration(after.path, os.environ, shelf=last)
        history = _history(before)
        found = plan_change(before, after, history, datetime.now(UTC), catalog.cursor_of)
    files = changed(daemon["plugins"]) if daemon else []  # without one all files are taken as they are
    found = replace(found, restart=(*found.restart, *files), parked=reasons(parked))
    if format == "json":
        print_json(found.document())
    else:
        print_plan(found.document(), after.daemon.timezone)


def _history(before: "Configuration") -> "dict[str, History]":
    """What the state of that configuration has of jobs; nothing where nothing has run yet."""
    from erpsync.store.cursors import read_history
    from erpsync.store.state import Store

    if not before.daemon.state.exists():
        return {}
    store = Store.open(before.daemon.state, read_only=True)
    try:
        return store.read_now(read_history)
    finally:
        store.close()


def print_plan(document: Mapping[str, Any], zone: str) -> None:
    """A plan for people."""
    jobs: Sequence[Mapping[str, Any]] = document["jobs"]
    for job, reason in document["parked"].items():
        note(f"{job} cannot run: {inset(reason)} (erpsync check)")
    if not (jobs or document["connections"] or document["settings"] or document["restart"]):
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
    for change in document["settings"]:
        say(f"taken over: {_change(change)}")
    if document["restart"]:
        say(f"only a restart of the daemon takes over: {', '.join(document['restart'])}")


_SIGNS = {"added": "+", "removed": "-", "renamed": "→", "changed": "~"}


def _what(job: Mapping[str, Any]) -> str:
    was = [f"was {job['former']}"] if job["change"] == "renamed" else []
    return ", ".join([*was, *(_change(each) for each in job["keys"])])


def _change(change: Mapping[str, Any]) -> str:
    if change["before"] is None and change["after"] is None:
        return str(change["key"])
    return f"{change['key']} {_short(change['before'])} → {_short(change['after'])}"


def _short(value: object) -> str:
    return "none" if value is None else shortened(toml_text(value), _LONGEST)


def toml_text(value: object) -> str:
    """A JSON value as it is written in the files."""
    match value:
        case Mapping():
            pairs = (f"{_toml_key(name)} = {toml_text(inner)}" for name, inner in value.items())
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
        case list() | tuple():
            return f"[{', '.join(toml_text(inner) for inner in value)}]"
        case _:
            return json.dumps(value, ensure_ascii=False)  # text, numbers, true and false are written alike


def _toml_key(name: object) -> str:
    return str(name) if re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) else json.dumps(name, ensure_ascii=False)


def reload(context: typer.Context, format: FormatOption = "text") -> None:  # noqa: A002
    """Let the daemon take the changed files over while runs are going; exit 78 where they are refused."""
    workspace = workspace_of(context)
    with workspace.own_daemon() as client:
        carried_out = client.reload()
    if format == "json":
        print_json(carried_out)
    else:
        print_plan(carried_out, workspace.configuration.daemon.timezone)
        say("the daemon goes by these files now")
