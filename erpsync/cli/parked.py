"""Which jobs cannot run as things are, and why: as the daemon knows it, else by their plugins."""

from collections.abc import Mapping, Sequence
from typing import Any

from erpsync.cli.output import inset, note
from erpsync.cli.workspace import Workspace

Parked = Mapping[str, Sequence[Mapping[str, Any]]]
"""Of each parked job its problems as documents (design section 4)."""

_TOLD = 10  # jobs that are named one by one


def parked_by_name(workspace: Workspace) -> Parked:
    """The parked jobs. Without a daemon those whose plugin is not there: `check` also imports and asks for secrets,
    which a list must not."""
    if (daemon := workspace.daemon()) is not None:
        return {each["job"]: each["problems"] for each in daemon["parked"]}
    from erpsync.plugins.discovery import PluginCatalog

    configuration = workspace.configuration
    listed = {info.name: info.error for info in PluginCatalog(configuration.daemon.plugins).all()}
    found: dict[str, Sequence[Mapping[str, Any]]] = {}
    for job in configuration.jobs.values():
        error = listed.get(job.plugin, "there is no such plugin") if ":" not in job.plugin else None
        if job.enabled and error:
            message = f'plugin "{job.plugin}": {error}'
            problem = configuration.place(
                job.name, "plugin", code="E201", message=message, help="erpsync check"
            )
            found[job.name] = [problem.document()]
    return found


def tell_parked(parked: Parked) -> None:
    """One line a job beside the result: why, and what to do."""
    for job, problems in [*parked.items()][:_TOLD]:
        remedy = f"; {problems[0]['help']}" if problems[0]["help"] else ""
        note(f"{job} is parked: {inset(problems[0]['message'] + remedy)}")
    if len(parked) > _TOLD:
        note(f"{len(parked) - _TOLD} more are parked: erpsync check")
