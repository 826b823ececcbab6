"""`daemon` and `sandbox`: the commands that stay until they are told to stop."""

import os
from typing import Annotated

import typer

from erpsync.cli.options import workspace_of
from erpsync.cli.output import note, say


def daemon(
    context: typer.Context,
    strict: Annotated[
        bool, typer.Option("--strict", help="Do not fall back to the configuration accepted last.")
    ] = False,
) -> int:
    """The service: plans and runs the jobs until SIGTERM or Ctrl-C, then drains; SIGHUP reloads.

    A start with broken files runs the configuration that was accepted last, and says so.
    """
    from erpsync.config.find import find_configuration
    from erpsync.daemon.acceptance import accept, accept_or_go_back
    from erpsync.daemon.service import serve

    workspace = workspace_of(context)
    path = find_configuration(workspace.explicit, os.environ)
    accepted = accept(path, os.environ) if strict else accept_or_go_back(path, os.environ)
    for problem in accepted.refused:
        note(problem.text())
    return serve(accepted, workspace.redactor)


def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    license_slots: Annotated[int, typer.Option(min=1, help="Sessions that may be open at once.")] = 5,
    token_ttl: Annotated[int, typer.Option(min=1, help="Seconds that a token lives.")] = 3600,
    rows: Annotated[int, typer.Option(min=1, help="Products to seed.")] = 1250,
) -> int:
    """An ERP.net-like instance on this machine, for experiments; prints "ready URL"."""
    from erpsync.sandbox.server import Sandbox

    try:
        place = Sandbox(port=port, license_slots=license_slots, token_ttl=token_ttl, rows=rows)
        return 128 + place.serve_forever(on_ready=_ready)
    except OSError as error:
        raise typer.BadParameter(f"cannot listen there: {error.strerror}", param_hint="--port") from error


def _ready(url: str) -> None:
    import sys

    from erpsync.sandbox.identity import guide

    for line in guide(url):
        note(line)
    note("Ctrl-C ends it")
    say(f"ready {url}")
    sys.stdout.flush()
