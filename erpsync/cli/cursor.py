"""`cursor`: where the next incremental read of a job begins, and letting it begin anew."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from erpsync.cli.choice import agree_that, chosen_jobs
from erpsync.cli.options import FormatOption, InstanceOption, JobArguments, TagOption, YesOption, workspace_of
from erpsync.cli.output import print_json, say, table
from erpsync.cli.workspace import Workspace
from erpsync.core.duration import format_duration
from erpsync.core.errors import NoDaemonError, OwnedElsewhereError, RunRefusedError
from erpsync.core.job import Job


def cursor(
    context: typer.Context,
    jobs: JobArguments = None,
    reset: Annotated[bool, typer.Option("--reset", help="Let the next run read everything.")] = False,
    instance: InstanceOption = None,
    tag: TagOption = None,
    yes: YesOption = False,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> None:
    """Where the next run begins to read: what the ledger keeps, and what targets keep themselves."""
    workspace = workspace_of(context)
    lists_all = not (reset or jobs or instance or tag)
    chosen = chosen_jobs(workspace, jobs, instance, tag, yes or not reset, everything=lists_all)
    if reset:
        _agree(chosen, yes)
        _reset(workspace, chosen)
    documents = _documents(workspace, chosen)
    if format == "json":
        print_json(documents)
        return
    for name in (job.name for job in chosen if reset):
        say(f"the next run of {name} reads everything")
    if not reset:
        rows = (row for each in documents for row in _rows(each))
        table(("job", "kept in", "from", "unfinished run", "age"), rows, fold=("from",))


def _agree(jobs: Sequence[Job], yes: bool) -> None:
    names = ", ".join(job.name for job in jobs[:5])
    agree_that(f"let the next run of {names} read everything", yes)


def _reset(workspace: Workspace, jobs: Sequence[Job]) -> None:
    from erpsync.store.owner import OwnerLock

    lock = OwnerLock(workspace.configuration.daemon.state)
    try:
        lock.acquire("cursor --reset")
    except OwnedElsewhereError as owned:
        try:
            with workspace.own_daemon() as client:
                for job in jobs:
                    client.reset_cursor(job.name)
        except NoDaemonError as error:
            raise owned from error
        return
    try:
        _reset_here(workspace, jobs)
    finally:
        lock.release()


def _reset_here(workspace: Workspace, jobs: Sequence[Job]) -> None:
    from erpsync.daemon.cursors import reset_targets
    from erpsync.plugins.discovery import PluginCatalog
    from erpsync.store.cursors import reset_cursors
    from erpsync.store.installation import require_released
    from erpsync.store.state import Store

    daemon = workspace.configuration.daemon
    catalog, store = PluginCatalog(daemon.plugins), Store.open(daemon.state)
    try:
        asyncio.run(require_released(store, datetime.now(UTC)))
        for job in jobs:
            if not store.write_now(reset_cursors, job.name):
                hint = f"erpsync runs {job.name}"
                raise RunRefusedError(f"a run of {job.name} is not finished", hint=hint)
            reset_targets(job, catalog, daemon.data)
    finally:
        store.close()


def _documents(workspace: Workspace, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    from erpsync.daemon.cursors import cursor_document, kept_by_targets
    from erpsync.plugins.discovery import PluginCatalog
    from erpsync.store.cursors import StoredCursor, stored_cursors

    daemon, now = workspace.configuration.daemon, datetime.now(UTC)
    catalog = PluginCatalog(daemon.plugins)
    stored: dict[str, StoredCursor] = workspace.read(stored_cursors, {})
    return [cursor_document(job, stored, kept_by_targets(job, catalog, daemon.data), now) for job in jobs]


def _rows(document: dict[str, Any]) -> list[tuple[object, ...]]:
    age = format_duration(document["age_seconds"]) if document["age_seconds"] is not None else "-"
    rows: list[tuple[object, ...]] = []
    for each in document["targets"]:
        place = f"{each['url']} {each['table']}"
        unfinished = "goes on" if each["unfinished"] else "-"
        rows.append((document["job"], place, each["watermark"] or "the beginning", unfinished, age))
    if document["cursor"] is not None or not rows:
        rows.insert(0, (document["job"], "ledger", document["cursor"] or "the beginning", "-", age))
    return rows
