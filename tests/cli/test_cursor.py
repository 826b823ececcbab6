"""`cursor`: where the next read begins, seen and reset, here and at a daemon."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Type
from tests.cli.test_with_daemon import begun, daemon, slow, type_  # noqa: F401 - fixtures
from tests.daemon.conftest import eventually
from tests.servers.program import Program

TALLY = '''
import asyncio
from pathlib import Path
from erpsync import Column, JobContext, JobResult, Settings, Target, job

class Options(Settings):
    target: Target

@job("tally", repeatable=True)
async def tally(ctx: JobContext[Options]) -> JobResult:
    """Says what it began from, and goes on from seven."""
    async with ctx.sink(ctx.settings.target, [Column("Id")]) as sink:
        ctx.log.info("began", cursor=ctx.cursor.value, watermark=sink.watermark)
        await sink.upsert([{"Id": "a"}])
        while Path("hold").exists():
            ctx.checkpoint()
            await asyncio.sleep(0.02)
        await sink.finish("seven")
        ctx.cursor.stage("seven")
    return ctx.result()
'''


@pytest.fixture
def tally(folder: Path) -> Path:
    """The folder with a job that has a cursor in the ledger and one in its target."""
    (folder / "plugins" / "tally.py").write_text(TALLY)
    with (folder / "erpsync.toml").open("a") as file:
        file.write(
            '[jobs.tally]\nplugin = "tally"\nschedule = "manual"\nretry = { attempts = 1 }\n'
            'with = { target = { url = "sqlite:///t.db", table = "rows" } }\n'
        )
    return folder


def test_a_cursor_is_shown_and_reset(erpsync: Type, tally: Path) -> None:
    """Both cursors are shown with their run; --reset asks, and then the next run begins from nothing."""
    (empty,) = erpsync("cursor", "tally", "--format", "json").json
    assert (empty["cursor"], empty["targets"], empty["age_seconds"]) == (None, [], None)
    run = erpsync("run", "tally", "--format", "json").json
    assert run["outcome"] == "succeeded", run
    (shown,) = erpsync("cursor", "tally", "--format", "json").json
    (target,) = shown["targets"]
    assert (shown["cursor"], shown["run"], target["watermark"]) == ("seven", run["id"], "seven")
    assert (target["table"], target["run"], target["unfinished"]) == ("rows", run["id"], False)
    assert "sqlite:///t.db rows" in erpsync("cursor", "tally").out
    assert "tally" in [each["job"] for each in erpsync("cursor", "--format", "json").json]
    assert erpsync("cursor", "--reset").code == 2
    asked = erpsync("cursor", "tally", "--reset")
    assert (asked.code, "--yes" in asked.err) == (2, True)
    done = erpsync("cursor", "tally", "--reset", "--yes")
    assert (done.code, "reads everything" in done.out) == (0, True), done
    again = erpsync("run", "tally", "--format", "json").json
    (line,) = erpsync("logs", again["id"], "--format", "json").json
    assert (line["cursor"], line["watermark"]) == (None, None)


def test_the_daemon_resets_its_cursors(tally: Path, daemon: Program) -> None:  # noqa: F811
    """Through the daemon the next run begins from nothing too; while a run is unfinished it is refused."""
    for _ in range(2):
        assert type_("run", "tally").returncode == 0
        assert type_("cursor", "tally", "--reset", "--yes").returncode == 0
    lines = [json.loads(type_("logs", run["id"], "--format", "json").stdout)[0] for run in runs()]
    assert [(line["cursor"], line["watermark"]) for line in lines] == [(None, None), (None, None)]
    (tally / "hold").touch()
    type_("trigger", "tally")
    eventually(lambda: "running" in {run["state"] for run in runs()}, "the run has begun")
    refused = type_("cursor", "tally", "--reset", "--yes")
    assert (refused.returncode, "not finished" in refused.stderr) == (2, True), refused


@pytest.mark.usefixtures("tally")
def test_a_held_state_keeps_its_cursors(erpsync: Type) -> None:
    """Neither the ledger nor the target, which another machine may share, is touched: here and at a daemon."""
    assert erpsync("run", "tally").code == 0
    assert erpsync("store", "backup", "copy.db").code == 0
    again = erpsync("store", "backup", "copy.db")
    assert (again.code, "copy-2.db" in again.err) == (2, True), "later it would be there as well"
    asked = erpsync("store", "restore", "copy.db")
    assert (asked.code, "help: --yes" in asked.err) == (2, True)
    assert erpsync("store", "restore", "copy.db", "--yes").code == 0
    before = cursors()
    alone = type_("cursor", "tally", "--reset", "--yes")
    assert (alone.returncode, "resume --all" in alone.stderr) == (75, True), alone
    with begun("daemon"):
        eventually(lambda: "is held" in type_("status").stdout, "the daemon holds the state")
        asked = type_("cursor", "tally", "--reset", "--yes")
        assert (asked.returncode, "resume --all" in asked.stderr) == (75, True), asked
        assert cursors() == before
        assert type_("resume", "--all").returncode == 0
        assert type_("cursor", "tally", "--reset", "--yes").returncode == 0
        assert cursors() == (None, [])


def cursors() -> tuple[str | None, list[str]]:
    (found,) = json.loads(type_("cursor", "tally", "--format", "json").stdout)
    return found["cursor"], [each["watermark"] for each in found["targets"] if each["watermark"]]


def runs() -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(type_("runs", "tally", "--format", "json").stdout)
    return found
