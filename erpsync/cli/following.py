"""Runs that somebody asks for, followed to their end: by the daemon that owns the state, else in this process."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erpsync.cli.exit_code import code_of_run
from erpsync.cli.output import Format, LiveLine, Times, inset, note, print_json, rows_text, say
from erpsync.cli.status import progress_text
from erpsync.cli.workspace import Workspace
from erpsync.core.duration import format_duration
from erpsync.core.errors import NoDaemonError, OwnedElsewhereError
from erpsync.core.run import Run

if TYPE_CHECKING:
    from erpsync.control.client import ControlClient
    from erpsync.daemon.controls import DaemonControls

_TOLD_AT_THE_END = ("run.finished", "token.rejected")  # events that the end of the run says again
_POLL = 0.5  # seconds a question about a run waits for its end


@dataclass(frozen=True, slots=True)
class Wanted:
    """Runs of `jobs` to be claimed, by a daemon or in this process; `command` tells others who owns the state.

    `single`: one run is meant, and shown as one object rather than as a list.
    """

    command: str
    jobs: Sequence[str]
    ask: "Callable[[ControlClient], list[dict[str, Any]]]"
    here: "Callable[[DaemonControls, str], Awaitable[list[Run]]]"
    single: bool


def see_through(workspace: Workspace, wanted: Wanted, format: Format) -> int:  # noqa: A002 - as the option
    """Claim the runs, follow them to their end and say how they ended; the exit code."""
    from erpsync.store.owner import OwnerLock

    lock = OwnerLock(workspace.configuration.daemon.state)
    try:
        lock.acquire(wanted.command)
    except OwnedElsewhereError as owned:
        try:
            documents = claim_there(workspace, wanted)
        except NoDaemonError as error:
            raise owned from error
        return follow(workspace, documents, wanted.single, format)
    try:
        return _run_here(workspace, wanted, format)
    finally:
        lock.release()


def claim_there(workspace: Workspace, wanted: Wanted) -> list[dict[str, Any]]:
    """The runs as the daemon claimed them."""
    with workspace.client() as client:
        _require_same(workspace, client.status())
        return wanted.ask(client)


def follow(
    workspace: Workspace,
    claimed: Sequence[dict[str, Any]],
    single: bool,
    format: Format,  # noqa: A002
) -> int:
    """Follow runs that the daemon has to their end and say how they ended; the exit code."""
    ended, refused = followed(workspace, claimed)
    return finish(workspace, ended, refused, single, format)


def followed(
    workspace: Workspace, claimed: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], frozenset[str]]:
    """Runs that the daemon has, once they have ended, and the identities that are refused."""
    live = _Live(workspace)
    ended: list[dict[str, Any]] = []
    with workspace.client() as client:
        try:
            for document in claimed:
                run_id = document["id"]
                while document["state"] != "finished":
                    document = client.find(run_id, wait=_POLL)
                    live.show(document, f"{len(ended)} of {len(claimed)} ended, " if len(claimed) > 1 else "")
                ended.append(document)
        except NoDaemonError as error:
            live.clear()
            shows = ", ".join(f"erpsync show {each['id']}" for each in claimed)
            hint = f"its next start finds what was going on: erpsync daemon, then {shows}"
            raise NoDaemonError("the daemon has ended before what it was asked for", hint=hint) from error
        except KeyboardInterrupt:
            live.clear()
            note(
                "the daemon goes on with "
                + ", ".join(f"{each['job']}: erpsync show {each['id']}" for each in claimed)
            )
            raise
        live.clear()
        identities = client.status()["identities"]
    refused = frozenset(each["identity"] for each in identities if each["state"] == "rejected")
    return ended, refused


def _require_same(workspace: Workspace, daemon: Mapping[str, Any]) -> None:
    """Another configuration's daemon is not asked; that ours runs an older state of the files is told."""
    workspace.require_own(daemon)
    if difference := workspace.differs(daemon):
        note(f"warning: {difference}")


def _run_here(workspace: Workspace, wanted: Wanted, format: Format) -> int:  # noqa: A002
    import os

    from erpsync.daemon.process_exit import leaving
    from erpsync.daemon.run_alone import run_jobs
    from erpsync.observe.logging import adopt_foreign_logs, configure_logging, emitter
    from erpsync.observe.output import plugins_print_to
    from erpsync.running.plugin_loop import PluginLoop, keep_process

    os.umask(0o077)
    debug = bool(os.environ.get("ERPSYNC_DEBUG"))
    logger = configure_logging("console", "debug" if debug else "error", workspace.redactor)
    emit = emitter(logger, without=() if debug else _TOLD_AT_THE_END)
    adopt_foreign_logs(emit)
    live = _Live(workspace, f"erpsync {wanted.command}")
    keep_process()
    runner, code = asyncio.Runner(loop_factory=PluginLoop), 70
    try:
        with plugins_print_to(sys.stderr, workspace.redactor):  # standard output is for the result alone
            ended = runner.run(
                run_jobs(
                    workspace.configuration,
                    wanted.jobs,
                    wanted.here,
                    redactor=workspace.redactor,
                    emit=emit,
                    watch=live.show,
                )
            )
        live.clear()
        code = finish(workspace, [run.document() for run in ended.runs], ended.refused, wanted.single, format)
        if ended.signal is not None:
            code = 128 + ended.signal
        return code
    finally:
        with leaving(code):
            runner.close()


class _Live:
    """What a run does now: in place on a terminal, elsewhere one line for each wait."""

    def __init__(self, workspace: Workspace, alone: str = "") -> None:
        """`alone` is the command that runs it here, and keeps every daemon out meanwhile."""
        self._alone = alone
        self._line = LiveLine()
        self._times = Times(workspace.configuration.daemon.timezone)
        self._told: set[tuple[str, str, str | None]] = set()

    def show(self, run: Mapping[str, Any], before: str = "") -> None:
        waiting = run["waiting_for"]
        wait = (
            run["job"],
            waiting,
            run["next_attempt_at"],
        )  # until when a slot is held changes with each use of it
        if waiting and wait not in self._told:
            self._told.add(wait)
            self._line.clear()
            note(waiting_text(run, self._times))
            if not run["reason"] and run["error"] and run["error"]["hint"]:
                note(f"  help: {inset(run['error']['hint'])}")
            if self._alone:
                note(f"no daemon can start while {self._alone} waits; Ctrl-C cancels it")
                self._alone = ""
        doing = f"waits for {waiting}" if waiting else f"{run['state']} {progress_text(run['progress'])}"
        self._line.show(f"{before}{run['job']}: {doing}")

    def clear(self) -> None:
        self._line.clear()


def waiting_text(run: Mapping[str, Any], times: Times) -> str:
    """What a run waits for, until when, and why: what the ledger says of this wait, else the error before it."""
    until = f", next try {times(run['next_attempt_at'])} ({times.zone})" if run["next_attempt_at"] else ""
    why = run["reason"] or (run["error"]["message"] if run["error"] else "")
    return f"{run['job']} waits for {run['waiting_for']}{until}" + (f": {inset(why)}" if why else "")


def finish(
    workspace: Workspace,
    documents: Sequence[Mapping[str, Any]],
    refused: frozenset[str],
    single: bool,
    format: Format,  # noqa: A002
) -> int:
    """Say how the runs ended; the worst exit code."""
    from erpsync.store.history import find_run

    if format == "json":
        print_json(shaped(documents, single))
    else:
        for document in documents:
            ended = workspace.read(find_run, None, document["id"])
            assert ended is not None
            _say_end(ended)
    return max((code_of_run(document, refused) for document in documents), default=0)


def _say_end(run: Run) -> None:
    took = f" in {format_duration(run.duration_seconds)}" if run.duration_seconds is not None else ""
    why = f" ({inset(run.reason)})" if run.reason else ""
    rows = rows_text(run)
    say(f"{run.job} {run.outcome}{took}{why}" + (f": {rows}" if rows != "-" else ""))
    if run.error:
        say(f"  {run.error.type}: {inset(run.error.message)}")
        if run.error.hint:
            say(f"  help: {inset(run.error.hint)}")
    say(f"  erpsync show {run.id}")


def shaped(documents: Sequence[Mapping[str, Any]], single: bool) -> object:
    """One object where one run is meant, else a list."""
    return documents[0] if single and len(documents) == 1 else list(documents)
