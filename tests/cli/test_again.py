"""Runs done again: a finished run, the rows that failed in one, a part of the past; here and at a daemon."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Type
from tests.cli.test_with_daemon import daemon, slow, type_  # noqa: F401 - fixtures
from tests.servers.program import Program

SORT = '''
from pathlib import Path
from erpsync import JobContext, JobResult, Settings, job

def work(ctx):
    """Every row but those that the file names; of dead letters those alone."""
    bad = Path("bad").read_text().split() if Path("bad").exists() else []
    if "crash" in bad:
        raise RuntimeError("as asked")
    rows = [{"Id": name, "Note": "x" * 200} for name in "abcd"] if ctx.dead is None else ctx.dead
    ctx.log.info("rows", ids=[row["Id"] for row in rows], window=ctx.window and [str(each) for each in ctx.window])
    for row in rows:
        ctx.count(read=1)
        if row["Id"] in bad:
            ctx.dead_letter(row, "refused")
    return ctx.result()

@job("sort", takes_dead=True)
async def sort(ctx: JobContext[Settings]) -> JobResult:
    """Sorts rows."""
    return work(ctx)

@job("sort-apart", takes_dead=True)
def sort_apart(ctx: JobContext[Settings]) -> JobResult:
    """The same in a child process."""
    return work(ctx)
'''


@pytest.fixture(params=["sort", "sort-apart"])
def sort(folder: Path, request: pytest.FixtureRequest) -> Path:
    """The folder with a job whose bad rows the file `bad` names."""
    (folder / "plugins" / "sort.py").write_text(SORT)
    with (folder / "erpsync.toml").open("a") as file:
        file.write(
            f'[jobs.sort]\nplugin = "{request.param}"\nschedule = "manual"\nretry = {{ attempts = 1 }}\n'
        )
    return folder


def bad(folder: Path, *rows: str) -> None:
    (folder / "bad").write_text(" ".join(rows))


def given(erpsync: Type) -> list[str]:
    """The rows that the newest run of the job worked on."""
    ids: list[str] = erpsync("logs", "sort", "--format", "json").json[0]["ids"]
    return ids


def test_dead_letters_are_listed_and_taken_up(erpsync: Type, sort: Path) -> None:
    """Failed rows are shown; a retry works on them alone; what succeeds is gone, what fails again stays."""
    bad(sort, "b", "d")
    run = erpsync("run", "sort", "--format", "json").json
    assert (run["outcome"], run["counts"]["failed"]) == ("failed", 2)
    letters = erpsync("dead", "sort", "--format", "json").json
    assert [(each["run"], each["job"], each["row"]["Id"], each["error"]) for each in letters] == [
        (run["id"], "sort", "b", "refused"),
        (run["id"], "sort", "d", "refused"),
    ]
    shown = erpsync("dead")
    assert run["id"] in shown.out
    assert "x" * 100 in shown.out, "a pipe gets all of it"
    bad(sort, "d")
    again = erpsync("dead", "sort", "--retry", "--format", "json")
    assert (again.code, again.json["counts"]["read"], again.json["counts"]["failed"]) == (1, 2, 1)
    assert given(erpsync) == ["b", "d"]
    (left,) = erpsync("dead", "--format", "json").json
    assert (left["run"], left["row"]["Id"]) == (again.json["id"], "d")
    bad(sort)
    assert erpsync("dead", "sort", "--retry").code == 0
    assert given(erpsync) == ["d"]
    assert "no dead letters" in erpsync("dead").err
    assert not list((sort / "data" / "dead").iterdir())
    assert erpsync("dead", "sort", "--retry").code == 2


def test_a_retry_that_crashes_loses_no_letter(erpsync: Type, sort: Path) -> None:
    """Where the run for dead letters comes to no result, all of them stay, each once."""
    bad(sort, "a")
    erpsync("run", "sort")
    bad(sort, "crash")
    assert erpsync("dead", "sort", "--retry").code == 1
    assert [each["row"]["Id"] for each in erpsync("dead", "--format", "json").json] == ["a"]


def test_the_retry_of_a_run_for_dead_letters_takes_what_it_left(erpsync: Type, sort: Path) -> None:
    """The rows that failed in it once more, or all it was given where it came to no result."""
    bad(sort, "a", "b")
    erpsync("run", "sort")
    bad(sort, "crash")
    crashed = erpsync("dead", "sort", "--retry", "--format", "json").json
    bad(sort, "b")
    again = erpsync("retry", crashed["id"], "--format", "json")
    assert (again.code, given(erpsync), again.json["retry_of"]) == (1, ["a", "b"], crashed["id"])
    last = erpsync("retry", again.json["id"], "--format", "json")
    assert (last.code, given(erpsync)) == (1, ["b"])
    assert [each["row"]["Id"] for each in erpsync("dead", "--format", "json").json] == ["b"]
    for run in (crashed, again.json):
        refused = erpsync("retry", run["id"])
        assert (refused.code, "erpsync dead sort --retry" in refused.err) == (2, True), refused


def test_dead_letters_need_a_plugin_that_takes_them(erpsync: Type) -> None:
    """A plugin that does not know dead letters is not run for them: it would do everything and forget them."""
    said = erpsync("dead", "say", "--retry")
    assert said.code == 2
    assert "takes no dead letters" in said.err


def test_a_finished_run_is_done_again(erpsync: Type) -> None:
    """`retry` runs with the same parameters, says of which run, and leaves what succeeded alone without --force."""
    first = erpsync("run", "say", "--set", "rows=7", "--set", "fails=true", "--format", "json").json
    again = erpsync("retry", first["id"][:19], "--format", "json")
    assert (again.code, again.json["trigger"], again.json["retry_of"]) == (1, "retry", first["id"])
    fine = erpsync("run", "say", "--set", "rows=7", "--format", "json").json
    refused = erpsync("retry", fine["id"])
    assert refused.code == 2
    assert "--force" in refused.err
    forced = erpsync("retry", fine["id"], "--force", "--format", "json")
    assert (forced.code, forced.json["counts"]["read"]) == (0, 7)
    assert erpsync("retry", "nothing").code == 2


def test_a_run_is_about_a_part_of_the_past(erpsync: Type, sort: Path) -> None:
    """--from and --to reach the plugin as its window, are told with the run, and are kept for a retry."""
    run = erpsync(
        "run", "sort", "--from", "2026-01-01", "--to", "2026-02-01T12:00+02:00", "--format", "json"
    ).json
    assert run["window"] == {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T10:00:00Z"}
    (line,) = erpsync("logs", run["id"], "--format", "json").json
    assert line["window"] == ["2026-01-01 00:00:00+00:00", "2026-02-01 10:00:00+00:00"]
    assert erpsync("retry", run["id"], "--force", "--format", "json").json["window"] == run["window"]
    assert erpsync("run", "sort", "--from", "2026-01-01").code == 2
    assert erpsync("run", "sort", "--from", "2026-02-01", "--to", "2026-01-01").code == 2


def test_the_daemon_does_runs_again(daemon: Program) -> None:  # noqa: F811
    """`retry` goes through the daemon, which refuses what has not ended."""
    failed = json.loads(type_("run", "fail", "--format", "json").stdout)
    again = type_("retry", failed["id"], "--format", "json")
    assert (again.returncode, json.loads(again.stdout)["retry_of"]) == (1, failed["id"])
    running = json.loads(type_("trigger", "slow", "--format", "json").stdout)
    refused = type_("retry", running["id"])
    assert (refused.returncode, "has not ended" in refused.stderr) == (2, True)
    assert type_("dead", "say", "--retry").returncode == 2
    windowed = type_("run", "say", "--from", "2026-01-01", "--to", "2026-01-02", "--format", "json")
    assert json.loads(windowed.stdout)["window"]["to"] == "2026-01-02T00:00:00Z"
