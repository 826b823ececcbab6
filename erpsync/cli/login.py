"""`login`, `logout`: a person's identity, signed in once and kept signed in by the daemon."""

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from erpsync.cli.options import workspace_of
from erpsync.cli.output import note, say
from erpsync.cli.workspace import Workspace
from erpsync.core.event import Level

if TYPE_CHECKING:
    from erpsync.core.instance import Identity
    from erpsync.identity.sealed import StoredToken

_LONGEST_PASTE = 1 << 16

IdentityArgument = Annotated[str, typer.Argument(metavar="IDENTITY", help="Like ann, or ann@acme.")]


def login(
    context: typer.Context,
    identity: IdentityArgument,
    no_browser: Annotated[
        bool,
        typer.Option("--no-browser", help="Sign in with a browser on another machine; paste where it ended."),
    ] = False,
) -> None:
    """Sign in as a person, in a browser; the sign-in is kept sealed, and kept alive by the daemon."""
    workspace = workspace_of(context)
    found = _found(workspace, identity)
    stored, undone = asyncio.run(_sign_in(workspace, found, no_browser=no_browser))
    scope = " ".join(stored.scope) or "no scope"
    say(f"signed in as {stored.subject} for {found.name}: {scope}")
    for each in undone:
        note(f"the sign-in before: {each}")


def logout(context: typer.Context, identity: IdentityArgument) -> None:
    """Forget a person's sign-in: revoke it and end the session, where the server offers that."""
    workspace = workspace_of(context)
    found = _found(workspace, identity)
    undone = asyncio.run(_sign_out(workspace, found))
    say(f"nobody was signed in for {found.name}" if undone is None else f"signed out: {found.name}")
    for each in undone or ():
        note(f"not done: {each}")


def _found(workspace: Workspace, name: str) -> "Identity":
    from erpsync.control.selection import find_named

    return find_named(workspace.configuration.identities, name, "identity")


async def _sign_in(
    workspace: Workspace, identity: "Identity", *, no_browser: bool
) -> "tuple[StoredToken, tuple[str, ...]]":
    from erpsync.daemon.person import person

    async with person(workspace.configuration, workspace.redactor, identity, _tell) as somebody:
        if no_browser:
            return await somebody.sign_in_elsewhere(_show_elsewhere, _pasted)
        return await somebody.sign_in_here(_show_here)


async def _sign_out(workspace: Workspace, identity: "Identity") -> tuple[str, ...] | None:
    from erpsync.daemon.person import person

    async with person(workspace.configuration, workspace.redactor, identity, _tell) as somebody:
        return await somebody.sign_out()


def _tell(event: str, /, *, level: Level = "info", **fields: object) -> None:
    """What a daemon would write into its log, if a person should see it."""
    if level in ("warning", "error"):
        words = fields.get("reason") or fields.get("doubt") or fields.get("message") or ""
        note(f"{level}: {event}: {words}")


def _show_here(url: str) -> None:
    note(f"sign in with a browser on this machine, within five minutes:\n\n  {url}\n")
    if sys.stderr.isatty() and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        import webbrowser

        webbrowser.open(url)


def _show_elsewhere(url: str) -> None:
    note(f"sign in with any browser, within five minutes:\n\n  {url}\n")
    note("It ends at a page that cannot be shown. Paste its address here:")


async def _pasted() -> str:
    """A line from standard input, waited for without a thread that nobody could end."""
    if sys.stdin is None:
        return ""
    descriptor, ready, line = sys.stdin.fileno(), asyncio.Event(), bytearray()
    loop = asyncio.get_running_loop()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # a file never has to be waited for
        return sys.stdin.buffer.readline(_LONGEST_PASTE).decode("utf-8", "replace")
    try:
        while not line.endswith(b"\n") and len(line) < _LONGEST_PASTE:
            await ready.wait()
            ready.clear()
            piece = os.read(descriptor, 4096)
            if not piece:
                break
            line += piece
    finally:
        loop.remove_reader(descriptor)
    return line.decode("utf-8", "replace")
