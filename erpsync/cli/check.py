"""`check`, `plugins`, `schema`: what can be known before anything runs."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from erpsync.cli.doctor import Findings, code_of, examine, print_findings
from erpsync.cli.exit_code import ExitCode
from erpsync.cli.options import FormatOption, workspace_of
from erpsync.cli.output import LiveLine, counted, inset, note, print_json, say, table
from erpsync.cli.workspace import Workspace
from erpsync.core.errors import ConfigError
from erpsync.core.problem import Problem

if TYPE_CHECKING:
    from erpsync.plugins.discovery import PluginInfo


def check(
    context: typer.Context,
    no_secrets: Annotated[
        bool, typer.Option("--no-secrets", help="Do not look whether secrets can be had, for CI.")
    ] = False,
    online: Annotated[
        bool, typer.Option("--online", help="Then look at every instance, as `doctor` does.")
    ] = False,
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> int:
    """Every problem of the configuration at once; exit 78 where there is an error."""
    workspace = workspace_of(context)
    problems = _problems(workspace, secrets=not no_secrets)
    errors = sum(problem.severity == "error" for problem in problems)
    findings = _findings(workspace) if online and not errors else []
    documents = [problem.document() for problem in problems]
    if format == "json":
        print_json({"problems": documents, "findings": findings} if online else documents)
    else:
        for problem in problems:
            say(problem.text() + "\n")
        say(_summary(workspace, problems, errors))
        if findings:
            print_findings(findings)
    return ExitCode.CONFIGURATION if errors else code_of(findings)


def _findings(workspace: Workspace) -> Findings:
    return examine(workspace, list(workspace.configuration.instances), api=False)


def _problems(workspace: Workspace, *, secrets: bool) -> list[Problem]:
    from erpsync.daemon.check import all_problems
    from erpsync.daemon.place import resolver_of

    live = LiveLine()
    try:
        live.show("reading the configuration")
        configuration = workspace.examined()
        resolver = resolver_of(configuration, workspace.redactor) if secrets else None
        return all_problems(configuration, resolver, tell=live.show)
    except ConfigError as error:
        if not error.problems:
            raise
        return list(error.problems)
    finally:
        live.clear()


def _summary(workspace: Workspace, problems: list[Problem], errors: int) -> str:
    warnings = counted(len(problems) - errors, "warning")
    if errors:
        return counted(errors, "error") + (f", {warnings}" if len(problems) > errors else "")
    configuration = workspace.configuration
    plugins = Counter(job.plugin for job in configuration.jobs.values())
    jobs = ", ".join(f"{count} {plugin}" for plugin, count in plugins.most_common())
    return f"{configuration.path} is fine: {jobs or 'no jobs are defined'}; {warnings}"


def plugins(
    context: typer.Context,
    format: FormatOption = "text",  # noqa: A002
) -> None:
    """What can be run, and where it comes from. Works without a configuration too."""
    from erpsync.plugins.discovery import PluginCatalog

    infos = PluginCatalog(_plugin_folders(workspace_of(context))).all(details=True)
    if format == "json":
        names = ("name", "source", "origin", "is_async", "doc", "error", "settings")
        print_json([{name: getattr(info, name) for name in names} for info in infos])
        return
    rows = (
        (
            info.name,
            "-" if info.is_async is None else "async def" if info.is_async else "def",
            info.error or info.doc,
            _required(info) or "-",
            info.origin,
        )
        for info in infos
    )
    table(("plugin", "kind", "does", "needs", "from"), rows, fold=("does", "from"))


def _required(info: "PluginInfo") -> str:
    names = (info.settings or {}).get("required", ())
    return ", ".join(names) if isinstance(names, list) else ""


def schema(context: typer.Context) -> None:
    """The JSON Schema of erpsync.toml, with the settings of every plugin found, for editors."""
    from erpsync.config.schema import json_schema
    from erpsync.plugins.discovery import PluginCatalog

    infos = PluginCatalog(_plugin_folders(workspace_of(context))).all(details=True)
    for info in infos:
        if info.error:
            note(f"left out: {info.origin}: {inset(info.error)}")
    print_json(json_schema({info.name: dict(info.settings) for info in infos if info.settings is not None}))


def _plugin_folders(workspace: Workspace) -> tuple[Path, ...]:
    try:
        return workspace.configuration.daemon.plugins
    except ConfigError as error:
        if workspace.explicit is not None:
            raise
        note(f"only installed plugins: {error.message}")
        return ()
