"""`run` and `trigger`: a run because somebody asks, here or by the daemon."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from erpsync.cli.choice import chosen_jobs, tell_disabled
from erpsync.cli.exit_code import code_of_run
from erpsync.cli.following import Wanted, claim_there, follow, see_through, shaped
from erpsync.cli.instant import parse_instant
from erpsync.cli.options import (
    IN_THE_ZONE,
    ChosenJobs,
    FormatOption,
    InstanceOption,
    TagOption,
    YesOption,
    workspace_of,
)
from erpsync.cli.output import print_json, say
from erpsync.cli.workspace import Workspace
from erpsync.core.run import Run, utc_text

if TYPE_CHECKING:
    from erpsync.daemon.controls import DaemonControls

_SHOWN = 40  # characters of a setting that is refused

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A parameter of this run, for its plugin; repeatable."),
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="INSTANT", help=f"Only what lies in this time: its beginning; {IN_THE_ZONE}."
    ),
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="INSTANT", help="… and its end, excluded.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Change nothing, neither there nor here.")]


def run(
    context: typer.Context,
    jobs: ChosenJobs = None,
    settings: SetOption = None,
    dry_run: DryRunOption = False,
    first: FromOption = None,
    last: ToOption = None,
    instance: InstanceOption = None,
    tag: TagOption = None,
    yes: YesOption = False,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> int:
    """Run jobs once, now, and wait: by the daemon where one owns the state, else in this process."""
    workspace = workspace_of(context)
    chosen = chosen_jobs(workspace, jobs, instance, tag, yes)
    params = _params(settings, dry_run, window_of(workspace, first, last))
    wanted = _wanted([job.name for job in chosen], params, jobs)
    tell_disabled(chosen)
    return see_through(workspace, wanted, format)


def trigger(
    context: typer.Context,
    jobs: ChosenJobs = None,
    settings: SetOption = None,
    dry_run: DryRunOption = False,
    first: FromOption = None,
    last: ToOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the runs to their end.")] = False,
    instance: InstanceOption = None,
    tag: TagOption = None,
    yes: YesOption = False,
    format: FormatOption = "text",  # noqa: A002
) -> int:
    """Ask the daemon to run jobs now."""
    workspace = workspace_of(context)
    chosen = chosen_jobs(workspace, jobs, instance, tag, yes)
    params = _params(settings, dry_run, window_of(workspace, first, last))
    wanted = _wanted([job.name for job in chosen], params, jobs)
    tell_disabled(chosen)
    documents = claim_there(workspace, wanted)
    if wait:
        return follow(workspace, documents, wanted.single, format)
    if format == "json":
        print_json(shaped(documents, wanted.single))
    else:
        for document in documents:
            why = f" ({document['reason']})" if document["reason"] else ""
            say(f"{document['id']} {document['job']} {document['outcome'] or document['state']}{why}")
    ended = (document for document in documents if document["state"] == "finished")
    return max((code_of_run(document, ()) for document in ended), default=0)


def _wanted(names: Sequence[str], params: Mapping[str, object], patterns: list[str] | None) -> Wanted:
    from erpsync.control.selection import is_pattern

    async def here(controls: "DaemonControls", requested_by: str) -> list[Run]:
        return await controls.claim(names, params, requested_by)

    return Wanted(
        f"run {' '.join(names[:3])}",
        names,
        lambda client: client.claim_all(names, params),
        here,
        patterns is not None and len(patterns) == 1 and not is_pattern(patterns[0]),
    )


def _params(settings: Sequence[str] | None, dry_run: bool, window: list[str] | None) -> dict[str, object]:
    """{"set": {key: value}, "dry_run": True, "window": [from, to]}, only what was asked for."""
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
    params: dict[str, object] = {"set": values} if values else {}
    return params | ({"dry_run": True} if dry_run else {}) | ({"window": window} if window else {})


def window_of(workspace: Workspace, first: str | None, last: str | None) -> list[str] | None:
    """[from, to] as UTC text; None where neither is given."""
    if first is None and last is None:
        return None
    if first is None or last is None:
        raise typer.BadParameter("name both ends", param_hint="--from, --to")
    zone, now = workspace.configuration.daemon.timezone, datetime.now(UTC)
    try:
        begins, ends = (parse_instant(text, zone, now) for text in (first, last))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--from, --to") from error
    if begins >= ends:
        raise typer.BadParameter("it ends before it begins", param_hint="--from, --to")
    return [str(utc_text(begins)), str(utc_text(ends))]


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
