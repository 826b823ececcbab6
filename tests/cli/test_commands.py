"""The commands that need no daemon, as people type them."""

import os
import stat
from datetime import datetime
from pathlib import Path

import pytest

from erpsync.store.owner import OwnerLock
from tests.cli.conftest import CONFIGURATION, Type


def test_check_of_a_fine_configuration(erpsync: Type) -> None:
    """A fine configuration exits 0, says so, and has no problems as JSON."""
    said = erpsync("check")
    assert (said.code, said.err) == (0, "")
    assert "is fine: 2 say" in said.out
    assert erpsync("check", "--format", "json").json == []


@pytest.mark.parametrize(
    ("before", "after", "code", "place"),
    [
        ('"say"', '"sya"', "E201", (21, 1)),
        ('text = "hello"', "text = 7", "E202", None),
        ('"30 2 * * *"', '"30 25 * * *"', "E301", None),
        ("client_id", "clientid", "E103", (11, 1)),
        ('"BOX_SECRET"', '"NOT_SET"', "E119", None),
    ],
)
def test_check_finds_what_every_room_knows(
    erpsync: Type, folder: Path, before: str, after: str, code: str, place: tuple[int, int] | None
) -> None:
    """Plugins, settings, schedules, keys and secrets: code, place and help, exit 78, as text and as JSON."""
    file = folder / "erpsync.toml"
    file.write_text(file.read_text().replace(before, after, 1))
    said = erpsync("check", "--format", "json")
    assert said.code == 78
    problem = next(problem for problem in said.json if problem["code"] == code)
    assert set(problem) == {"code", "severity", "file", "line", "column", "key", "message", "help"}
    assert problem["file"].endswith("erpsync.toml")
    if place:
        assert (problem["line"], problem["column"]) == place
    text = erpsync("check")
    assert text.code == 78
    assert f"error[{code}]: {problem['message']}" in text.out
    assert "erpsync.toml:" in text.out
    assert text.out.rstrip().endswith(("error", "errors"))


def test_check_says_where_a_task_is_impossible(erpsync: Type, folder: Path) -> None:
    """`isolation = "task"` with a memory limit is a warning: the job runs in a process."""
    file = folder / "erpsync.toml"
    file.write_text(
        file.read_text().replace('plugin = "say"', 'plugin = "say"\nisolation = "task"\nmemory = "64MiB"', 1)
    )
    (doubt,) = erpsync("check", "--format", "json").json
    assert (doubt["code"], doubt["severity"], doubt["key"].rpartition(".")[2]) == (
        "W201",
        "warning",
        "isolation",
    )


def test_check_without_secrets(erpsync: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    """--no-secrets lets a missing secret pass, for CI."""
    monkeypatch.delenv("BOX_SECRET")
    assert erpsync("check").code == 78
    assert erpsync("check", "--no-secrets").code == 0


def test_no_configuration_lists_the_places(erpsync: Type, folder: Path) -> None:
    """Without a file every command exits 78 and says where it looked."""
    (folder / "erpsync.toml").unlink()
    said = erpsync("jobs")
    assert said.code == 78
    assert "/etc/erpsync/erpsync.toml" in said.err


def test_next_of_an_expression_shows_the_shift(erpsync: Type, folder: Path) -> None:
    """An expression needs no configuration; a fire time in a gap is at its end and says from where it came."""
    (folder / "erpsync.toml").unlink()
    arguments = ["--expr", "30 3 * * *", "--tz", "Europe/Sofia", "--from", "2026-03-28T12:00", "-n", "2"]
    said = erpsync("next", *arguments, "--format", "json")
    assert [(time["job"], time["at"], time["utc"]) for time in said.json] == [
        (None, "2026-03-29T04:00:00+03:00", "2026-03-29T01:00:00Z"),
        (None, "2026-03-30T03:30:00+03:00", "2026-03-30T00:30:00Z"),
    ]
    assert "03:30" in said.json[0]["note"]
    assert said.json[1]["note"] == ""
    assert "2026-03-29T04:00:00+03:00" in erpsync("next", *arguments).out


def test_next_of_jobs_is_one_time_line(erpsync: Type) -> None:
    """Several jobs come in order of time; a job by name gives its next five, in its own zone."""
    mine = erpsync("next", "say", "--format", "json").json
    assert len(mine) == 5
    assert mine == sorted(mine, key=lambda time: time["utc"])
    assert datetime.fromisoformat(mine[0]["at"]).utcoffset() is not None
    assert {time["job"] for time in erpsync("next", "--format", "json").json} == {"say"}


@pytest.mark.parametrize(
    "arguments",
    [["--expr", "61 * * * *"], ["say", "--from", "soon"], ["--expr", "@daily", "--tz", "Mars/Base"]],
)
def test_next_refuses_nonsense(erpsync: Type, arguments: list[str]) -> None:
    """A bad expression, instant or zone is a usage error that says what is accepted."""
    said = erpsync("next", *arguments)
    assert said.code == 2
    assert "Traceback" not in said.err


def test_jobs_before_and_after_a_run(erpsync: Type) -> None:
    """`jobs` shows schedules, next fire times and last ends; as JSON every field of the job."""
    before = {job["name"]: job for job in erpsync("jobs", "--format", "json").json}
    assert before["say"]["schedule"] == ["30 2 * * *", "every 1h30m"]
    assert before["say"]["next_fire_at"].endswith("Z")
    assert (before["fail"]["next_fire_at"], before["fail"]["last_run"]) == (None, None)
    erpsync("run", "fail")
    assert erpsync("jobs", "--format", "json").json[1]["last_run"]["outcome"] == "failed"
    text = erpsync("jobs", "--tag", "words").out
    assert "times in UTC" in text
    assert "say" in text
    assert "fail" not in text


def test_jobs_show_tells_where_each_key_comes_from(erpsync: Type) -> None:
    """Every key of the effective job has its value and its file and line, or the layer that gave it."""
    shown = erpsync("jobs", "show", "say", "--format", "json").json
    assert shown["job"]["with"] == {"text": "hello"}
    assert shown["origins"]["with.text"]["line"] == 25
    assert shown["origins"]["grace"]["layer"] == "default"
    line = next(
        line for line in erpsync("jobs", "show", "say").out.splitlines() if line.startswith("with.text")
    )
    assert line.split() == ["with.text", "hello", "erpsync.toml:25"]


LITERALS = """
[jobs.locked]
plugin = "locked"
with = { pin = "dragon-7" }
[jobs.call]
plugin = "http_call"
with.url = "https://x.example/a?token=dragon-7&page=2"
with.headers = { Authorization = "dragon-7", X-Key = { env = "BOX_KEY" } }
"""
LOCKED = """
from erpsync import JobContext, JobResult, Secret, Settings, job

class Options(Settings):
    pin: Secret

@job("locked")
async def locked(ctx: JobContext[Options]) -> JobResult:
    return ctx.result()
"""


def test_a_secret_in_the_configuration_is_not_repeated(erpsync: Type, folder: Path) -> None:
    """Neither one in the place of a reference, whatever its key, nor one that a header or an address holds."""
    (folder / "plugins" / "locked.py").write_text(LOCKED)
    (folder / "erpsync.toml").write_text(CONFIGURATION + LITERALS)
    shown = [
        erpsync(*command, *form)
        for form in ((), ("--format", "json"))
        for command in (
            ["jobs", "show", "locked"],
            ["jobs", "show", "call"],
            ["plan"],
            ["check"],
            ["run", "locked"],
        )
    ]
    assert [said.code for said in shown] == [0, 0, 0, 78, 78] * 2
    assert not any("dragon" in said.out + said.err for said in shown)
    settings = shown[6].json["job"]["with"]
    assert settings["url"] == "https://x.example/a?token=[redacted]&page=2"
    assert settings["headers"] == {"Authorization": "[redacted]", "X-Key": {"env": "BOX_KEY"}}


def test_no_parameter_and_no_reason_is_a_secret(erpsync: Type, folder: Path) -> None:
    """What people type is kept in the state, so a secret among it is refused, or taken out of a sentence."""
    use = CONFIGURATION.replace('{ text = "hello" }', '{ text = "hello", key = { env = "BOX_SECRET" } }')
    (folder / "erpsync.toml").write_text(use)
    plugin = folder / "plugins" / "say.py"
    code = plugin.read_text().replace("    rows: int", "    key: Secret | None = None\n    rows: int")
    plugin.write_text(code.replace("Settings, Skip", "Secret, Settings, Skip"))
    refused = erpsync("run", "say", "--set", "text=box-secret")
    assert (refused.code, "parameters are kept" in refused.err) == (2, True)
    assert erpsync("run", "say", "--set", "text=hello").code == 0
    kept = [path.read_bytes() for path in (folder / "data").rglob("*") if path.is_file()]
    assert not any(b"box-secret" in content for content in kept)


def test_a_run_from_start_to_show(erpsync: Type, folder: Path) -> None:
    """`run` ends 0 and says what it did; `runs`, `show` and `logs` read the same from the ledger."""
    said = erpsync("run", "say")
    assert (said.code, said.err) == (0, "")
    assert "say succeeded" in said.out
    assert "read 2" in said.out
    (run,) = erpsync("runs", "say", "--format", "json").json
    assert (run["outcome"], run["trigger"], run["counts"]["read"]) == ("succeeded", "manual", 2)
    shown = erpsync("show", run["id"][:15], "--format", "json").json
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["succeeded"]
    assert [record["event"] for record in shown["log"]] == ["said"]
    assert run["id"] in erpsync("show", run["id"]).out
    logs = erpsync("logs", "say")
    assert "said text=hello" in logs.out
    assert erpsync("logs", run["id"], "--format", "json").json[0]["text"] == "hello"
    for path in (folder / "data").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize(
    ("arguments", "code", "outcome"),
    [
        (["say", "--set", "text=nothing"], 0, "succeeded"),
        (["say", "--set", "fails=true"], 1, "failed"),
        (["say", "--set", "bad=1"], 1, "failed"),
        (["say", "--set", "rows=many"], 78, "failed"),
        (["say", "--dry-run"], 0, "succeeded"),
    ],
)
def test_run_exits_by_outcome(erpsync: Type, arguments: list[str], code: int, outcome: str) -> None:
    """The exit code tells the outcome: skip is fine, failed is 1, a parameter that cannot work is 78."""
    said = erpsync("run", *arguments, "--format", "json")
    assert said.code == code, said
    assert said.json["outcome"] == outcome
    assert said.json["requested_by"]


def test_several_jobs_end_with_the_worst(erpsync: Type) -> None:
    """A glob runs several jobs: JSON is a list, the exit code the worst."""
    said = erpsync("run", "*", "--format", "json")
    assert said.code == 1
    assert sorted(run["outcome"] for run in said.json) == ["failed", "succeeded"]


def test_many_jobs_need_a_yes(erpsync: Type, folder: Path) -> None:
    """More than ten jobs at once are refused without a terminal and without --yes."""
    file = folder / "erpsync.toml"
    jobs = "".join(
        f'[jobs.more-{n}]\nplugin = "say"\nschedule = "manual"\nwith = {{ text = "x" }}\n' for n in range(11)
    )
    file.write_text(file.read_text() + jobs)
    assert erpsync("run", "more-*").code == 2
    assert erpsync("run", "more-*", "--yes").code == 0
    assert len(erpsync("runs", "more-*", "--format", "json").json) == 11


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["run", "sya"], 'did you mean "say"?'),
        (["jobs", "show", "sya"], 'did you mean "say"?'),
        (["runs", "sya"], 'did you mean "say"?'),
        (["show", "zzz"], "erpsync runs"),
        (["logs", "say"], "erpsync run say"),
        (["run"], "JOB"),
        (["run", "say", "--set", "novalue"], "KEY=VALUE"),
        (["runs", "--since", "whenever"], "24h"),
        (["run", "say", "--set", f"k={'7' * 5000}"], "cannot be kept"),
        (["run", "say", "--set", f"k=0x{'f' * 5000}"], "cannot be kept"),
        (["run", "say", "--set", f"k={'[' * 500}{']' * 500}"], "cannot be kept"),
        (["run", "say", "--set", "k=nan"], "cannot be kept"),
        (["run", "say", "--set", "k=[-inf]"], "cannot be kept"),
        (["run", "say", "--set", "k=\udcff"], "cannot be kept"),
        (["runs", "--limit", "99999999999999999999"], "100000"),
        (["next", "-n", "99999999"], "10000"),
        (["logs", "sya"], 'there is no job or run "sya"'),
        (["logs", "sya"], 'did you mean "say"?'),
        (["status", "--config", "x"], "erpsync --config FILE status"),
        (["nonsense"], "No such command"),
    ],
)
def test_usage_errors_exit_2(erpsync: Type, arguments: list[str], hint: str) -> None:
    """Unknown jobs and runs, missing and malformed arguments exit 2 and say what was perhaps meant."""
    said = erpsync(*arguments)
    assert said.code == 2
    assert hint in said.err
    assert said.out == ""


def test_runs_are_filtered(erpsync: Type) -> None:
    """Job, outcome, age and number restrict the list."""
    erpsync("run", "say", "fail")
    erpsync("run", "say")
    assert len(erpsync("runs", "--format", "json").json) == 3
    assert [run["job"] for run in erpsync("runs", "--outcome", "failed", "--format", "json").json] == ["fail"]
    assert len(erpsync("runs", "--limit", "1", "--format", "json").json) == 1
    assert erpsync("runs", "--since", "0s", "--format", "json").json == []
    assert "no runs" in erpsync("runs", "--since", "0s").err


def test_runs_of_a_job_that_is_configured_no_more(erpsync: Type, folder: Path) -> None:
    """History outlives the definition."""
    erpsync("run", "say")
    file = folder / "erpsync.toml"
    file.write_text(file.read_text().replace("[jobs.say]", "[jobs.speak]"))
    assert len(erpsync("runs", "say", "--format", "json").json) == 1


def test_plugins_lists_what_can_be_run(erpsync: Type, folder: Path) -> None:
    """Own and ready-made plugins with their needs, a broken one with its reason; without configuration too."""
    (folder / "plugins" / "broken.py").write_text("def (")
    plugins = {info["name"]: info for info in erpsync("plugins", "--format", "json").json}
    assert plugins["say"]["settings"]["required"] == ["text"]
    assert plugins["mirror"]["error"] is None
    assert plugins["broken"]["error"]
    assert "Says something." in erpsync("plugins").out
    (folder / "erpsync.toml").unlink()
    without = erpsync("plugins", "--format", "json")
    assert without.code == 0
    assert "say" not in {info["name"] for info in without.json}


def test_schema_knows_the_plugins_settings(erpsync: Type) -> None:
    """The JSON Schema names sections and the settings of every plugin that can be used."""
    said = erpsync("schema")
    assert said.json["$schema"].endswith("2020-12/schema")
    assert "fails" in said.out


def test_status_without_a_daemon(erpsync: Type) -> None:
    """Status works from the ledger alone and exits 0; as a check it exits 1 and says why."""
    said = erpsync("status")
    assert said.code == 0
    assert "not running" in said.out
    check = erpsync("status", "--check")
    assert (check.code, check.out) == (1, "")
    assert "no daemon" in check.err
    assert erpsync("status", "--format", "json").json["daemon"] is None


def test_trigger_needs_a_daemon(erpsync: Type) -> None:
    """Without a daemon `trigger` exits 69 with the remedy, and claims nothing."""
    said = erpsync("trigger", "say")
    assert said.code == 69
    assert "erpsync daemon" in said.err
    assert erpsync("runs", "--format", "json").json == []


def test_a_state_that_somebody_else_owns(erpsync: Type, folder: Path) -> None:
    """Where another process owns the state and answers no questions, `run` exits 75 and names it."""
    from erpsync.store.owner import OwnerLock

    lock = OwnerLock(folder / "data" / "erpsync.db")
    lock.acquire("somebody's run")
    try:
        said = erpsync("run", "say")
    finally:
        lock.release()
    assert said.code == 75
    assert "somebody's run" in said.err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00+00:00"),
        ("[2026-01-01]", ["2026-01-01"]),
        ("12:00:00", "12:00:00"),
        ("{ a = 1.5 }", {"a": 1.5}),
        ("so what", "so what"),
    ],
)
def test_parameters_are_what_json_can_say(erpsync: Type, text: str, value: object) -> None:
    """Values are TOML, dates and times ISO text; what is no TOML is text as it is."""
    assert erpsync("run", "say", "--set", f"text={text}").code == 0
    assert erpsync("logs", "say", "--format", "json").json[0]["text"] == value


def test_the_words_of_a_plugin_begin_no_line(erpsync: Type) -> None:
    """What a plugin says over several lines stays inside the lines of `run`, `runs`, `show` and `logs`."""
    forged = "oh\\nsay succeeded in 1s"
    outputs = [erpsync("run", "fail", "--set", f'text="{forged}"').out]
    outputs += [erpsync(*command).out for command in (["runs"], ["logs", "fail"])]
    run_id = erpsync("runs", "--format", "json").json[0]["id"]
    outputs.append(erpsync("show", run_id).out)
    for output in outputs:
        assert "say succeeded in 1s" in output
        assert not any(line.startswith("say succeeded") for line in output.splitlines())


def test_a_folder_is_no_configuration(erpsync: Type, folder: Path) -> None:
    """--config with a folder says that it is one, and names the file that was perhaps meant."""
    said = erpsync("--config", str(folder), "jobs")
    assert said.code == 78
    assert f"{folder} is a folder" in said.err
    assert f"--config {folder / 'erpsync.toml'}" in said.err


@pytest.mark.parametrize("command", [["check"], ["jobs"], ["next"]])
def test_a_configuration_without_jobs(erpsync: Type, folder: Path, command: list[str]) -> None:
    """It is fine, and told as what it is."""
    (folder / "erpsync.toml").write_text("")
    said = erpsync(*command)
    assert said.code == 0
    assert "no jobs are defined" in said.out + said.err


def test_one_warning_is_no_plural(erpsync: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of `check` is grammatical."""
    assert erpsync("check").out.endswith("; 0 warnings\n")
    monkeypatch.setenv("ERPSYNC_DAEMON__DAT", "/x")
    assert erpsync("check").out.endswith("; 1 warning\n")


def test_a_daemon_that_does_not_answer_is_told(erpsync: Type, folder: Path) -> None:
    """Whose socket is gone owns the state still; a command that owns it is no daemon."""
    lock = OwnerLock(folder / "data" / "erpsync.db")
    for purpose, words in (("daemon", f"daemon (pid {os.getpid()} on"), ("run say", "no daemon is running")):
        lock.acquire(purpose)
        try:
            (problem,) = erpsync("status", "--format", "json").json["problems"]
            said = erpsync("status", "--check")
        finally:
            lock.release()
        assert problem.startswith(words)
        assert (said.code, problem in said.err) == (1, True)
