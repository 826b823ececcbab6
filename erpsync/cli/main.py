"""The entry of the program: the version at once, everything else through the commands."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from erpsync.version import __version__

if TYPE_CHECKING:
    from erpsync.cli.workspace import Workspace


_TAKES_NO_MORE = (errno.EPIPE, errno.ENOSPC)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    if _command(sys.argv[1:]) == "daemon":  # a reload that is asked for during the imports must not end it
        from erpsync.daemon.hang_up import remember_hang_ups

        remember_hang_ups()
    _prepare_streams()
    try:
        code = _answer(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        code = _unwritten(error)
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)  # the interpreter would wait for what a plugin's thread does
    if code:
        sys.exit(code)


def _command(arguments: Sequence[str]) -> str:
    """The first word that is neither an option nor the file of --config."""
    options = {at for at, word in enumerate(arguments) if word.startswith("-")}
    values = {at + 1 for at in options if arguments[at] == "--config"}
    return next((word for at, word in enumerate(arguments) if at not in options | values), "")


def _prepare_streams() -> None:
    """Who closed one wants no output there; what cannot be encoded is replaced."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the life of the process
        getattr(sys, name).reconfigure(errors="replace")


def _answer(arguments: Sequence[str]) -> int:
    if arguments == ["--version"]:  # asked by scripts and monitoring: answered before anything is imported
        sys.stdout.write(f"erpsync {__version__}\n")
        return 0
    return run(arguments)


def _unwritten(error: OSError) -> int:
    """The exit code where standard output takes no more; a reader that has gone away needs no words."""
    from erpsync.cli.exit_code import ExitCode
    from erpsync.cli.output import note

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # the interpreter writes there once more
    os.close(nowhere)
    if error.errno == errno.EPIPE:
        return 128 + signal.SIGPIPE
    note(f"error: what was asked for cannot be written: {error.strerror}")
    return ExitCode.TEMPORARY


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Problems are told on standard error.

    Raises:
        OSError: standard output takes no more.
    """
    from typer import Abort
    from typer.exceptions import TyperException

    from erpsync.cli.app import app
    from erpsync.cli.output import note, without_secrets
    from erpsync.cli.workspace import Workspace

    workspace = Workspace()
    without_secrets(workspace.redactor)
    try:
        return int(app(list(arguments), prog_name="erpsync", standalone_mode=False, obj=workspace) or 0)
    except Abort:
        note("\nnothing was done")
        return 2
    except SystemExit as end:  # so typer ends where a reader has gone away
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None
        raise
    except TyperException as error:
        with suppress(OSError):  # standard error takes no more
            getattr(error, "show", lambda: None)()
        if getattr(error, "option_name", "") == "--config":
            _tell_the_order(error)
        return int(getattr(error, "exit_code", 1))
    except Exception as error:
        # the one place where an error becomes words and an exit code; those of the standard streams name no file
        if isinstance(error, OSError) and error.errno in _TAKES_NO_MORE and error.filename is None:
            raise
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
