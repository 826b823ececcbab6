"""`run` and `trigger`: a run because somebody asks, here or by the daemon."""

import asyncio
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from erpsync.cli.exit_code import code_of_run
from erpsync.cli.options import FormatOption, InstanceOption, JobArguments, TagOption, workspace_of
from erpsync.cli.output import Format, LiveLine, Times, inset, note, print_json, rows_text, say
from erpsync.cli.status import progress_text
from erpsync.cli.workspace import Workspace
from erpsync.core.duration import format_duration
from erpsync.core.errors import NoDaemonError, OwnedElsewhereError
from erpsync.core.job import Job
from erpsync.core.run import Run

_MANY = 10  # jobs at once that need a yes
_TOLD_AT_THE_END = ("run.finished", "token.rejected")  # events that the end of the run says again
_SHOWN = 40  # characters of a setting that is refused
_POLL = 0.5  # seconds a question about a run waits for its end

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A parameter of this run, for its plugin; repeatable."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Change nothing, neither there nor here.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about many jobs.")]


def run(
    context: typer.Context,
    jobs: JobArguments = None,
    settings: SetOption = None,
    dry_run: DryRunOption = False,
    instance: InstanceOption = None,
    tag: TagOption = None,
    yes: YesOption = False,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> int:
    """Run jobs once, now, and wait: by the daemon where one owns the state, else in this process."""
    from erpsync.store.owner import OwnerLock

    workspace = workspace_of(context)
    chosen = chosen_jobs(workspace, jobs, instance, tag, yes)
    params = _params(settings, dry_run)
    names = [job.name for job in chosen]
    lock = OwnerLock(workspace.configuration.daemon.state)
    try:
        lock.acquire(f"run {' '.join(names[:3])}")
    except OwnedElsewhereError as owned:
        try:
            documents, refused = _ask(workspace, names, params, wait=True)
        except NoDaemonError as error:
            raise owned from error
        return _finish(workspace, documents, refused, jobs, format)
    try:
        return _run_here(workspace, names, params, jobs, format)
    finally:
        lock.release()


def trigger(
    context: typer.Context,
    jobs: JobArguments = None,
    settings: SetOption = None,
    dry_run: DryRunOption = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the runs to their end.")] = False,
    instance: InstanceOption = None,
    tag: TagOption = None,
    yes: YesOption = False,
    format: FormatOption = "text",  # noqa: A002
) -> int:
    """Ask the daemon to run jobs now."""
    workspace = workspace_of(context)
    names = [job.name for job in chosen_jobs(workspace, jobs, instance, tag, yes)]
    documents, refused = _ask(workspace, names, _params(settings, dry_run), wait=wait)
    if wait:
        return _finish(workspace, documents, refused, jobs, format)
    if format == "json":
        print_json(_shaped(documents, jobs))
    else:
        for document in documents:
            why = f" ({document['reason']})" if document["reason"] else ""
            say(f"{document['id']} {document['job']} {document['outcome'] or document['state']}{why}")
    ended = (document for document in documents if document["state"] == "finished")
    return max((code_of_run(document, refused) for document in ended), default=0)


def chosen_jobs(
    workspace: Workspace,
    patterns: list[str] | None,
    instances: list[str] | None,
    tags: list[str] | None,
    yes: bool,
) -> tuple[Job, ...]:
    """The jobs that are meant; of none nothing is done, of many only after a yes."""
    from erpsync.control.selection import select_jobs

    if not (patterns or instances or tags):
        raise typer.BadParameter("name a job, or choose by --instance or --tag", param_hint="JOB")
    chosen = select_jobs(
        workspace.configuration.jobs, patterns or (), instances=instances or (), tags=tags or ()
    )
    if len(chosen) > _MANY and not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"{len(chosen)} jobs at once; --yes if that is meant", param_hint="JOB")
        typer.confirm(f"{len(chosen)} jobs at once?", abort=True, err=True)
    return chosen


def _params(settings: Sequence[str] | None, dry_run: bool) -> dict[str, object]:
    """{"set": {key: value}, "dry_run": True}, only what was asked for."""
    values: dict[str, object] = {}
    for setting in settings or ():
        key, sign, text = setting.partition("=")
        if not sign or not key:
            raise typer.BadParameter(f'"{setting}" is not KEY=VALUE', param_hint="--set")
        try:
            json.dumps(key, ensure_ascii=False).encode()
            values[key] = _parameter(text)
        except (ValueError, RecursionError) as error:
            message = (
                f"{_shortened(setting)!r} cannot be kept: nan, inf, endless digits or brackets, or not UTF-8"
            )
            raise typer.BadParameter(message, param_hint="--set") from error
    return ({"set": values} if values else {}) | ({"dry_run": True} if dry_run else {})


def _parameter(text: str) -> object:
    """The TOML value, dates and times as ISO text; else the text itself. ValueError, RecursionError: no JSON."""
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    document = json.dumps(
        value, ensure_ascii=False, allow_nan=False, default=lambda moment: moment.isoformat()
    )
    return json.loads(document.encode())


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _ask(
    workspace: Workspace, names: Sequence[str], params: Mapping[str, object], *, wait: bool
) -> tuple[list[dict[str, Any]], frozenset[str]]:
    """Claim runs at the daemon; their documents, and the identities that are refused."""
    live = _Live(workspace)
    with workspace.client() as client:
        _require_same(workspace, client.status())
        claimed = [client.claim(name, params) for name in names]
        if not wait:
            return claimed, frozenset()
        ended = []
        try:
            for document in claimed:
                run_id = document["id"]
                while document["state"] != "finished":
                    document = client.find(run_id, wait=_POLL)
                    live.show(document)
                ended.append(document)
        except KeyboardInterrupt:
            live.clear()
            note(
                "the daemon goes on with "
                + ", ".join(f"{each['job']}: erpsync show {each['id']}" for each in claimed)
            )
            raise
        live.clear()
        return ended, frozenset(
            each["identity"] for each in client.status()["identities"] if each["state"] == "rejected"
        )


def _require_same(workspace: Workspace, daemon: Mapping[str, Any]) -> None:
    """Another configuration's daemon is not asked: its job of this name may be another."""
    difference = workspace.differs(daemon)
    if difference and daemon["configuration"] != str(workspace.configuration.path.resolve()):
        hint = "give each configuration its own [daemon] data"
        raise OwnedElsewhereError(difference, owner=f"pid {daemon['pid']}", hint=hint)
    if difference:
        note(f"warning: {difference}")


def _run_here(
    workspace: Workspace,
    names: Sequence[str],
    params: Mapping[str, object],
    jobs: list[str] | None,
    format: Format,  # noqa: A002
) -> int:
    import os

    from erpsync.daemon.single import run_jobs
    from erpsync.observe.logging import adopt_foreign_logs, configure_logging, emitter
    from erpsync.observe.output import plugins_print_to

    os.umask(0o077)
    debug = bool(os.environ.get("ERPSYNC_DEBUG"))
    logger = configure_logging("console", "debug" if debug else "error", workspace.redactor)
    emit = emitter(logger, without=() if debug else _TOLD_AT_THE_END)
    adopt_foreign_logs(emit)
    live = _Live(workspace)
    with plugins_print_to(sys.stderr, workspace.redactor):  # standard output is for the result alone
        ended = asyncio.run(
            run_jobs(
                workspace.configuration,
                names,
                params,
                redactor=workspace.redactor,
                emit=emit,
                watch=live.show,
            )
        )
    live.clear()
    code = _finish(workspace, [run.document() for run in ended.runs], ended.refused, jobs, format)
    return code if ended.signal is None else 128 + ended.signal


class _Live:
    """What a run does now: in place on a terminal, elsewhere one line for each wait."""

    def __init__(self, workspace: Workspace) -> None:
        self._line = LiveLine()
        self._times = Times(workspace.configuration.daemon.timezone)
        self._told: set[str] = set()

    def show(self, run: Mapping[str, Any]) -> None:
        waiting = run["waiting_for"]
        if waiting and (text := self._waiting_text(run)) not in self._told:
            self._told.add(text)
            self._line.clear()
            note(text)
        doing = f"waits for {waiting}" if waiting else f"{run['state']} {progress_text(run['progress'])}"
        self._line.show(f"{run['job']}: {doing}")

    def clear(self) -> None:
        self._line.clear()

    def _waiting_text(self, run: Mapping[str, Any]) -> str:
        until = f", next try {self._times(run['next_attempt_at'])}" if run["next_attempt_at"] else ""
        why = f": {inset(run['error']['message'])}" if run["error"] else ""
        return f"{run['job']} waits for {run['waiting_for']}{until}{why}"


def _finish(
    workspace: Workspace,
    documents: Sequence[Mapping[str, Any]],
    refused: frozenset[str],
    patterns: list[str] | None,
    format: Format,  # noqa: A002
) -> int:
    """Say how the runs ended; the worst exit code."""
    from erpsync.store.ledger import find_run

    if format == "json":
        print_json(_shaped(documents, patterns))
    else:
        for document in documents:
            ended = workspace.read(find_run, None, document["id"])
            assert ended is not None
            _say_end(ended)
    return max(code_of_run(document, refused) for document in documents)


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


def _shaped(documents: Sequence[Mapping[str, Any]], patterns: list[str] | None) -> object:
    """One object where one job was named, else a list."""
    from erpsync.control.selection import is_pattern

    single = (
        len(documents) == 1 and patterns is not None and len(patterns) == 1 and not is_pattern(patterns[0])
    )
    return documents[0] if single else list(documents)
