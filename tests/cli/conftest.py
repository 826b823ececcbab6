"""A folder with a configuration, and the commands typed in it, in this process."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from erpsync.cli.main import run

CONFIGURATION = """
[daemon]
data = "data"
plugins = ["plugins"]
seal_key = { env = "BOX_SEAL" }

[metrics]
listen = false

[identities.service]
client_id = "erpsync.sandbox/service"
client_secret = { env = "BOX_SECRET" }
scope = ["read"]
instance = "box"

[instances.box]
url = "http://127.0.0.1:9"
tags = ["live"]

[jobs.say]
plugin = "say"
schedule = ["30 2 * * *", { every = "90m" }]
timezone = "Europe/Sofia"
tags = ["words"]
with = { text = "hello" }

[jobs.fail]
plugin = "say"
schedule = "manual"
with = { text = "oh no", fails = true }
retry = { attempts = 1 }

[defaults]
timeout = "10m"
"""

PLUGIN = '''
from erpsync import ConfigProblem, JobContext, JobResult, Settings, Skip, job

class Options(Settings):
    text: str
    fails: bool = False
    rows: int = 2
    bad: int = 0

@job("say")
async def say(ctx: JobContext[Options]) -> JobResult:
    """Says something."""
    wish = {**ctx.settings.model_dump(), **ctx.params}
    ctx.log.info("said", text=wish["text"])
    if wish["text"] == "nothing":
        raise Skip("nothing to say")
    if wish["fails"]:
        raise RuntimeError(wish["text"])
    if not isinstance(wish["rows"], int):
        raise ConfigProblem("rows", "must be a whole number")
    ctx.count(read=wish["rows"], failed=wish["bad"])
    return ctx.result()
'''


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Type = Callable[..., Said]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, which is the working directory too."""
    (tmp_path / "erpsync.toml").write_text(CONFIGURATION)
    (tmp_path / "plugins").mkdir(mode=0o755)
    (tmp_path / "plugins" / "say.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BOX_SECRET", "box-secret")
    monkeypatch.setenv("BOX_SEAL", "a-key-of-the-box-that-is-long-enough")
    return tmp_path


@pytest.fixture
def erpsync(folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Type]:
    """Types a command in the folder."""
    mask = os.umask(0o022)
    os.umask(mask)
    loggers = {
        name: logging.getLogger(name) for name in ("uvicorn", "apscheduler", "authlib", "httpx2", "asyncio")
    }
    before = {name: (each.handlers, each.propagate, each.level) for name, each in loggers.items()}

    def type_(*arguments: str) -> Said:
        capsys.readouterr()
        code = run(arguments)
        out, err = capsys.readouterr()
        return Said(code, out, err)

    yield type_
    os.umask(mask)
    for name, each in loggers.items():
        each.handlers, each.propagate, each.level = before[name]
