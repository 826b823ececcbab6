"""Which jobs cannot run as things are, and why: as the daemon knows it, else as it is found here."""

from collections.abc import Mapping, Sequence
from typing import Any

from erpsync.cli.output import inset, note
from erpsync.cli.workspace import Workspace

Parked = Mapping[str, Sequence[Mapping[str, Any]]]
"""Of each parked job its problems as documents (design section 4)."""

_TOLD = 10  # jobs that are named one by one


def parked_by_name(workspace: Workspace) -> Parked:
    """The parked jobs. Without a daemon plugins are imported and secrets looked for, as this user may."""
    if (daemon := workspace.daemon()) is not None:
        return {each["job"]: each["problems"] for each in daemon["parked"]}
    from erpsync.daemon.check import parked_jobs
    from erpsync.daemon.place import resolver_of
    from erpsync.plugins.discovery import PluginCatalog

    configuration = workspace.configuration
    catalog = PluginCatalog(configuration.daemon.plugins)
    found = parked_jobs(configuration, catalog, resolver_of(configuration, workspace.redactor))
    return {job: [problem.document() for problem in problems] for job, problems in found.items()}


def tell_parked(parked: Parked) -> None:
    """One line a job beside the result: why, and what to do."""
    for job, problems in [*parked.items()][:_TOLD]:
        remedy = f"; {problems[0]['help']}" if problems[0]["help"] else ""
        note(f"{job} is parked: {inset(problems[0]['message'] + remedy)}")
    if len(parked) > _TOLD:
        note(f"{len(parked) - _TOLD} more are parked: erpsync check")
