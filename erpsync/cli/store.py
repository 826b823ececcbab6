"""`store`: the state database looked through, upgraded, copied and restored."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from erpsync.cli.choice import agree_that
from erpsync.cli.exit_code import ExitCode
from erpsync.cli.options import FormatOption, YesOption, workspace_of
from erpsync.cli.output import inset, note, print_json, say

store_app = typer.Typer(help="The state database: check, upgrade, backup, restore.", no_args_is_help=True)


@store_app.command()
def check(context: typer.Context, format: FormatOption = "text") -> int:  # noqa: A002 - the option's name
    """Look through the state for damage, also while a daemon writes it; exit 78 where there is some."""
    from erpsync.core.errors import StoreUnavailableError
    from erpsync.store.copy import faults
    from erpsync.store.summary import summarize

    workspace = workspace_of(context)
    state = workspace.configuration.daemon.state
    if not state.exists():
        raise StoreUnavailableError(
            f"there is no state at {state} yet", hint="start the daemon: erpsync daemon"
        )
    found = faults(state)
    summary = summarize(state)
    if format == "json":
        print_json({"state": str(state), "sound": not found, "faults": found, **summary.document()})
    else:
        for fault in found:
            say(inset(fault))
        verdict = "is damaged; restore a copy: erpsync store restore COPY" if found else "is sound"
        say(f"the state {state} {verdict}")
        say(summary.text())
    return ExitCode.CONFIGURATION if found else ExitCode.FINE


@store_app.command()
def upgrade(context: typer.Context) -> None:
    """Bring the state to this version's schema, after a copy; the daemon does the same when it starts."""
    from erpsync.store.schema import REVISION
    from erpsync.store.state import Store
    from erpsync.store.summary import summarize

    workspace = workspace_of(context)
    state = workspace.configuration.daemon.state
    with _owned(state, "store upgrade"):
        before = summarize(state).schema if state.exists() else None
        Store.open(state).close()
    if before is None:
        say(f"{state} was made with schema {REVISION}")
    elif before == REVISION:
        say(f"{state} has schema {REVISION} already")
    else:
        say(f"{state} went from schema {before} to {REVISION}; the copy of before is beside it")


@store_app.command()
def backup(context: typer.Context, path: Annotated[Path, typer.Argument(metavar="PATH")]) -> None:
    """Copy the state into the new file PATH, also while a daemon writes it; the copy is looked through."""
    from erpsync.store.backup import back_up

    workspace = workspace_of(context)
    back_up(workspace.configuration.daemon.state, path)
    say(f"{path} holds {path.stat().st_size:,} bytes".replace(",", " "))


@store_app.command()
def restore(
    context: typer.Context, path: Annotated[Path, typer.Argument(metavar="PATH")], yes: YesOption = False
) -> None:
    """Put the copy PATH in the place of the state, which is kept; the daemon then starts held."""
    from erpsync.store.backup import put_back

    workspace = workspace_of(context)
    state = workspace.configuration.daemon.state
    with _owned(state, "store restore"):
        if state.exists():
            agree_that(f"replace {state} (it is kept under another name)", yes)
        kept = put_back(path, state, datetime.now(UTC))
    say(f"{state} is what {path} was")
    if kept is not None:
        say(f"the state of before is {kept}")
    note("the daemon starts held and fires nothing until: erpsync resume --all")


@contextmanager
def _owned(state: Path, purpose: str) -> Iterator[None]:
    """Nobody else writes the state meanwhile."""
    from erpsync.store.owner import OwnerLock

    lock = OwnerLock(state)
    lock.acquire(purpose)
    try:
        yield
    finally:
        lock.release()
