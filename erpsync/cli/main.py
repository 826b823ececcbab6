"""The entry of the program: the version at once, everything else through the commands."""

import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from erpsync.version import __version__

if TYPE_CHECKING:
    from erpsync.cli.workspace import Workspace


def main() -> None:
    """Run the command line and end the process with its exit code."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:  # asked by scripts and monitoring: answered before anything is imported
        sys.stdout.write(f"erpsync {__version__}\n")
        return
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a text stream of the interpreter's own
    try:
        code = run(arguments)
    except KeyboardInterrupt:
        code = 130
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the interpreter would wait for what a plugin's thread does
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Problems are told on standard error."""
    from typer import Abort
    from typer.exceptions import TyperException

    from erpsync.cli.app import app
    from erpsync.cli.output import without_secrets
    from erpsync.cli.workspace import Workspace

    workspace = Workspace()
    without_secrets(workspace.redactor)
    try:
        return int(app(list(arguments), prog_name="erpsync", standalone_mode=False, obj=workspace) or 0)
    except Abort:
        sys.stderr.write("\nnothing was done\n")
        return 2
    except TyperException as error:
        getattr(error, "show", lambda: None)()
        if getattr(error, "option_name", "") == "--config":
            _tell_the_order(error)
        return int(getattr(error, "exit_code", 1))
    except Exception as error:  # noqa: BLE001 - the one place where an error becomes words and an exit code
        return _report(error, workspace)


def _tell_the_order(error: Exception) -> None:
    """The options of every command stand before it."""
    from erpsync.cli.output import note

    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "erpsync COMMAND").removeprefix("erpsync ")
    note(f"  help: it goes before the command: erpsync --config FILE {command}")


def _report(error: Exception, workspace: "Workspace") -> int:
    from erpsync.cli.exit_code import code_of_error
    from erpsync.cli.output import inset, note
    from erpsync.core.errors import ConfigError, ErpsyncError

    if os.environ.get("ERPSYNC_DEBUG"):
        import traceback

        note("".join(traceback.format_exception(error)))
    if isinstance(error, ConfigError) and error.problems:
        note("\n\n".join(problem.text() for problem in error.problems))
    elif isinstance(error, ErpsyncError):
        note(inset(workspace.redactor.shortened(f"error: {error.message}")))
        if error.hint:
            note(inset(workspace.redactor(f"  help: {error.hint}")))
    elif isinstance(error, PermissionError):
        note(f"error: no right to use {error.filename}")
    else:
        words = f"error: a fault of erpsync itself: {type(error).__name__}: {error}"
        note(inset(workspace.redactor(words)))  # in this order: a secret of several lines is known as it is
        note("  help: ERPSYNC_DEBUG=1 shows where; please report it")
    return code_of_error(error)


if __name__ == "__main__":
    main()
