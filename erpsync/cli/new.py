"""`new job` and `new instance`: files to start from; what exists is never overwritten."""

import re
from pathlib import Path
from typing import Annotated

import typer

from erpsync.cli.options import workspace_of
from erpsync.cli.output import note, say
from erpsync.cli.workspace import Workspace

new_app = typer.Typer(
    name="new", help="Files to start from: a job with its plugin, an instance.", no_args_is_help=True
)

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")

_PLUGIN = '''"""{title}: what it is good for."""

from erpsync import JobContext, JobResult, Settings, job


class Options(Settings):
    """What a job says in its `with` table; `erpsync check` knows these keys."""

    entity: str
    page_size: int = 1000


@job("{name}", repeatable=True)
async def {function}(ctx: JobContext[Options]) -> JobResult:
    """Count the rows of an entity set."""
    async for page in ctx.erp.pages(ctx.settings.entity, select=["Id"], page_size=ctx.settings.page_size):
        ctx.count(read=len(page))
        ctx.progress(ctx.counts.read)
        ctx.checkpoint()
    return ctx.result()
'''

_TEST = '''"""{title}, run against the sandbox: `pytest {folder}`."""

from plugins.{function} import {function}


def test_every_row_is_read(run_job, sandbox) -> None:
    """What the instance has is what the plugin counts."""
    outcome = run_job({function}, {{"entity": "General_Products_Products", "page_size": 500}})
    assert outcome.outcome == "succeeded", outcome.error
    assert outcome.counts.read == sandbox.rows("General_Products_Products")
'''

_JOB = """[jobs.{name}]
plugin   = "{name}"
identity = "night"               # one of [identities]
# instances = ["tag:live"]       # where it runs, if that identity is a template
schedule = "manual"              # or "15 2 * * *", {{ every = "15m" }}, {{ after = "products" }}
enabled  = false                 # until it is ready

[jobs.{name}.with]
entity = "General_Products_Products"
"""

_INSTANCE = """[instances.{name}]
url  = "{url}"
tags = ["live"]
# timezone      = "Europe/Sofia"
# license_slots = 1              # sessions that may be open there at once
# access        = "read"         # refuse every request that changes anything
# jobs.products = {{ schedule = "45 3 * * *" }}   # only what differs
"""


@new_app.command("job")
def new_job(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Small letters, digits and hyphens.")],
) -> None:
    """A typed plugin, its test and an example of its job, beside the configuration."""
    workspace, words = workspace_of(context), _words(name)
    words |= {"function": name.replace("-", "_"), "title": name.replace("-", " ").capitalize()}
    if words["function"][0].isdigit():
        raise typer.BadParameter("a plugin's name begins with a letter", param_hint="NAME")
    folder = workspace.configuration.path.parent
    words["folder"] = "tests"
    _write(
        {
            folder / "plugins" / f"{words['function']}.py": _PLUGIN.format_map(words),
            folder / "tests" / f"test_{words['function']}.py": _TEST.format_map(words),
            folder / "jobs.d" / f"{name}.toml": _JOB.format_map(words),
        }
    )
    _tell_what_is_not_read(workspace, "jobs.d")
    note("next: erpsync check")


@new_app.command("instance")
def new_instance(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Small letters, digits and hyphens.")],
    url: Annotated[str, typer.Option(help="Like https://acme.my.erp.net")],
) -> None:
    """The file of one instance, beside the configuration."""
    workspace, words = workspace_of(context), _words(name)
    if not re.fullmatch(r"https?://[^\s\"\\@]+", url):
        raise typer.BadParameter("write an address like https://acme.my.erp.net", param_hint="--url")
    if name in workspace.configuration.instances:
        raise typer.BadParameter(f"there is an instance {name} already", param_hint="NAME")
    folder = workspace.configuration.path.parent
    _write({folder / "customers.d" / f"{name}.toml": _INSTANCE.format_map({**words, "url": url.rstrip("/")})})
    _tell_what_is_not_read(workspace, "customers.d")
    note(f"next: erpsync check, erpsync doctor {name}")


def _words(name: str) -> dict[str, str]:
    if not _NAME.fullmatch(name):
        raise typer.BadParameter("use small letters, digits and hyphens", param_hint="NAME")
    return {"name": name}


def _write(files: dict[Path, str]) -> None:
    """All of them or, where one exists, none."""
    taken = [str(path) for path in files if path.exists()]
    if taken:
        raise typer.BadParameter(f"exists already: {', '.join(taken)}", param_hint="NAME")
    for path, text in files.items():
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(text)
        say(str(path))


def _tell_what_is_not_read(workspace: Workspace, folder: str) -> None:
    """A folder that no `include` names is not read."""
    path = workspace.configuration.path
    if f'"{folder}/' not in path.read_text():
        note(f'add "{folder}/*.toml" to `include` in [daemon] of {path}')
