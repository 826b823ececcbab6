"""The commands and the options that stand before them."""

from pathlib import Path
from typing import Annotated

import typer

from erpsync.cli.backfill import backfill
from erpsync.cli.cancel import cancel
from erpsync.cli.check import check, plugins, schema
from erpsync.cli.cursor import cursor
from erpsync.cli.dead import dead
from erpsync.cli.demo import demo
from erpsync.cli.doctor import doctor
from erpsync.cli.history import logs, runs, show
from erpsync.cli.identities import identities, token
from erpsync.cli.jobs import jobs_app
from erpsync.cli.login import login, logout
from erpsync.cli.new import new_app
from erpsync.cli.next import next_
from erpsync.cli.night import night
from erpsync.cli.options import workspace_of
from erpsync.cli.pause import pause, resume
from erpsync.cli.plan import plan, reload
from erpsync.cli.retry import retry
from erpsync.cli.run import run, trigger
from erpsync.cli.serve import daemon, sandbox
from erpsync.cli.simulate import simulate
from erpsync.cli.status import status
from erpsync.cli.store import store_app
from erpsync.version import __version__

app = typer.Typer(
    help="Runs API-calling jobs on schedules, with Client Credentials tokens.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_ABOUT_THE_FILES = frozenset(
    {"check", "plan", "next", "simulate", "run", "jobs", "daemon", "plugins", "schema"}
)


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="The configuration file; else $ERPSYNC_CONFIG, ./erpsync.toml, …")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """What holds for every command."""
    if version:
        typer.echo(f"erpsync {__version__}")
        raise typer.Exit
    workspace_of(context).explicit = config
    workspace_of(context).files_as_they_are = context.invoked_subcommand in _ABOUT_THE_FILES


app.command()(demo)
app.command()(check)
app.command()(plan)
app.command("next")(next_)
app.command()(simulate)
app.command()(night)
app.command()(run)
app.command()(daemon)
app.command()(status)
app.add_typer(jobs_app)
app.command()(runs)
app.command()(show)
app.command()(logs)
app.command()(identities)
app.command()(token)
app.command()(doctor)
app.command()(trigger)
app.command()(cancel)
app.command()(retry)
app.command()(dead)
app.command()(cursor)
app.command()(backfill)
app.command()(pause)
app.command()(resume)
app.command()(reload)
app.command()(plugins)
app.add_typer(new_app)
app.add_typer(store_app, name="store")
app.command()(login)
app.command()(logout)
app.command()(sandbox)
app.command()(schema)
