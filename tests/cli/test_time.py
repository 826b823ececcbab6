"""The commands about time that need no daemon: next, simulate, night, check."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from erpsync.cli.instant import parse_instant
from erpsync.store.pauses import Pause, write_pauses
from erpsync.store.state import Store
from tests.cli.conftest import Type

SHIFTED = """
[calendars.may]
dates = ["2026-05-02"]
[jobs.night]
plugin = "say"
schedule = "30 3 * * *"
timezone = "Europe/Sofia"
spread = "2m"
blackout = ["may"]
window = { from = "04:00", to = "06:00" }
due_by = "06:30"
expected_duration = "45m"
with = { text = "hello" }
[jobs.later]
plugin = "say"
schedule = { after = ["night", "say"], on = ["succeeded", "partial", "skipped"] }
with = { text = "hello" }
"""


@pytest.fixture
def shifted(folder: Path) -> Path:
    """The folder with jobs that do not simply start when they are due."""
    with (folder / "erpsync.toml").open("a") as file:
        file.write(SHIFTED)
    return folder


def test_next_says_what_moves_a_start(erpsync: Type, shifted: Path) -> None:
    """The spread, the blackout that skips and the window that delays are told beside the nominal time."""
    arguments = ["next", "night", "--from", "2026-05-01T00:00", "-n", "2", "--format", "json"]
    held, dark = erpsync(*arguments).json
    assert held["at"] == "2026-05-01T03:30:00+03:00"
    assert "window: starts 2026-05-01T04:00+03:00" in held["note"]
    assert "spread +" in held["note"]
    assert "blackout may: skipped" in dark["note"]


def test_next_says_that_an_expression_never_fires(erpsync: Type) -> None:
    """A date that does not exist is told of the expression; no job was asked about."""
    said = erpsync("next", "--expr", "0 0 31 2 *")
    assert 'nothing is due: "0 0 31 2 *" has no fire time ahead' in said.err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["say", "--expr", "@daily"], "--expr"),
        (["--instance", "box", "--expr", "@daily"], "--expr"),
        (["--tag", "words", "--expr", "@daily"], "--expr"),
        (["say", "--tz", "UTC"], "--tz"),
        (["say", "--dst", "vixie"], "--dst"),
    ],
)
def test_next_refuses_options_that_would_do_nothing(erpsync: Type, arguments: list[str], hint: str) -> None:
    """An expression is looked at instead of jobs, and only an expression is given a zone and a rule."""
    said = erpsync("next", *arguments)
    assert (said.code, said.out) == (2, "")
    assert hint in said.err


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ('schedule = "manual"', "idle runs only when asked"),
        ('schedule = "@daily"\nenabled = false', "idle is disabled"),
        ('schedule = "@daily"\nend = 2026-01-01T00:00:00Z', "idle has no fire time ahead"),
    ],
)
def test_next_says_why_nothing_is_due(erpsync: Type, folder: Path, keys: str, why: str) -> None:
    """A job that is asked about by name, and has no fire time, says why; of all jobs that is no news."""
    with (folder / "erpsync.toml").open("a") as file:
        file.write(f'[jobs.idle]\nplugin = "say"\nwith = {{ text = "x" }}\n{keys}\n')
    said = erpsync("next", "idle")
    assert (said.code, said.err.splitlines()) == (0, [why])
    assert "idle" not in erpsync("next").err
    assert why in erpsync("next", "idle", "say").err


async def test_next_knows_of_pauses(erpsync: Type, folder: Path) -> None:
    """A fire time within a pause says so, one after it does not."""
    (folder / "data").mkdir()
    store = Store.open(folder / "data" / "erpsync.db")
    await store.write(
        write_pauses, Pause("say", datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 5, 1, 1, tzinfo=UTC))
    )
    store.close()
    arguments = ["next", "say", "--from", "2026-05-01T00:00Z", "-n", "2", "--format", "json"]
    assert [time["note"] for time in erpsync(*arguments).json] == ["", ""], "it is over"
    store = Store.open(folder / "data" / "erpsync.db")
    await store.write(
        write_pauses, Pause("say", datetime(2026, 5, 1, tzinfo=UTC), datetime(2099, 5, 1, 1, tzinfo=UTC))
    )
    store.close()
    within, after = erpsync(*arguments).json[0], erpsync("next", "say", "--from", "2099-05-01T01:00Z").out
    assert within["note"] == "paused until 2099-05-01T04:00+03:00"
    assert "paused" not in after
    assert "paused until" in erpsync("next", "say").out


def test_a_parked_job_is_marked_wherever_it_is_listed(erpsync: Type, folder: Path) -> None:
    """`jobs` and `next` say that a job cannot run, why, and what to do; without a daemon too."""
    file = folder / "erpsync.toml"
    file.write_text(file.read_text().replace('plugin = "say"', 'plugin = "sya"', 1))
    (said,) = (job for job in erpsync("jobs", "--format", "json").json if job["parked"])
    assert (said["name"], [problem["code"] for problem in said["parked"]]) == ("say", ["E201"])
    listed = erpsync("jobs")
    assert re.search(r"^say .* parked ", listed.out, re.MULTILINE)
    assert "say is parked: " in listed.err
    assert "there is no such plugin" in listed.err
    due = erpsync("next", "say")
    assert due.out.count("parked: ") == 5
    assert "say is parked: " in due.err
    assert erpsync("next", "fail").err == "fail runs only when asked\n"


def test_jobs_show_their_new_keys(erpsync: Type, shifted: Path) -> None:
    """`jobs` writes what a job comes after as people do; `jobs show` has calendars, windows and due times."""
    jobs = {job["name"]: job for job in erpsync("jobs", "--format", "json").json}
    assert jobs["later"]["schedule"] == ["after night, say on partial, skipped, succeeded"]
    assert jobs["later"]["paused"] is None
    assert (jobs["night"]["spread"], "30 3 * * *, spread 2m" in erpsync("jobs").out) == ("2m", True)
    text = erpsync("jobs", "show", "night").out
    for word in ("due_by", "06:30", "window", "04:00", "blackout", "expected_duration", "45m"):
        assert word in text


def test_simulate_draws_the_night(erpsync: Type, shifted: Path) -> None:
    """A line for each run with its bar, what it waits for, what is skipped, and the expected end."""
    arguments = ["simulate", "--from", "2026-05-01T00:00", "--to", "2026-05-02T02:00"]
    document = erpsync(*arguments, "--format", "json").json
    runs = {run["job"]: run for run in document["runs"] if run["fire_at"] < "2026-05-01T02:00:00Z"}
    assert runs["night"]["started_at"] == "2026-05-01T01:00:00Z"
    assert runs["night"]["finished_at"] == "2026-05-01T01:45:00Z"
    assert runs["night"]["waits"]["window"] > 0
    assert document["durations"]["night"] == {"seconds": 2700.0, "source": "expected_duration"}
    last = max(run["finished_at"] for run in document["runs"] if run["finished_at"])
    assert document["expected_end"] == last
    text = erpsync(*arguments).out
    assert "times in UTC" in text
    assert "█" in text
    assert "for window" in text
    assert "skipped: blackout" in text
    assert "expected end: 2026-05-02" in text


def test_simulate_tells_the_many_runs_of_a_job_as_one(erpsync: Type, folder: Path) -> None:
    """A night of every second is one line with its sum; one runs already when it begins."""
    job = '[jobs.tick]\nplugin = "http_call"\nwith = { url = "https://example.org/" }\nschedule = { every = "1s" }\n'
    (folder / "erpsync.toml").write_text(f'[daemon]\ndata = "data"\n{job}expected_duration = "1500ms"\n')
    text = erpsync("simulate", "--from", "2026-05-01T18:00Z", "--to", "2026-05-02T06:30Z").out
    line = next(line for line in text.splitlines() if line.startswith("tick"))
    assert line.endswith("22501 runs, 22500 skipped (overlap)")
    assert text.count("tick") == 1
    assert "more than 200000 runs" in erpsync("simulate", "--from", "2026-05-01", "--to", "2026-05-05").err


async def test_simulate_knows_what_is_paused_now(erpsync: Type, folder: Path) -> None:
    """A pause in force passes over its job's fire times, many or few, as one line; the rule for slots is told."""
    with (folder / "erpsync.toml").open("a") as file:
        file.write('[jobs.tick]\nplugin = "say"\nschedule = { every = "1s" }\nwith = { text = "tick" }\n')
    (folder / "data").mkdir()
    store = Store.open(folder / "data" / "erpsync.db")
    for job in ("tick", "say"):
        await store.write(write_pauses, Pause(job, datetime.now(UTC)))
    store.close()
    tick, say = sorted(
        erpsync("simulate", "--from", "0s", "--to", "4h", "--format", "json").json["runs"],
        key=lambda run: run["job"] != "tick",
    )
    assert (tick["reason"], tick["fire_count"], say["reason"]) == ("paused", -1, "paused")
    assert 2 <= say["fire_count"] <= 4
    text = erpsync("simulate", "--from", "0s", "--to", "4h").out
    assert "skipped: paused, many until" in text
    assert "-1 until" not in text
    assert "an identity keeps its own until 20m after its last run" in text


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--from", "soon", "--to", "06:00"], "--from"),
        (["--from", "2026-05-02", "--to", "2026-05-01"], "before --from"),
        (["--from", "2026-05-02"], "--to"),
        (["--from", "2026-05-02T18:00", "--to", "2026-05-02T18:00:00"], 'write "24h"'),
        (["--from", "18:00", "--to", "18:00"], 'write "24h"'),
    ],
)
def test_simulate_refuses_nonsense(erpsync: Type, arguments: list[str], hint: str) -> None:
    """Times that are none, that are the wrong way round or too far apart are usage errors that say so."""
    said = erpsync("simulate", *arguments)
    assert said.code == 2
    assert hint in said.err


def test_night_begins_at_the_second_that_is_asked_for(erpsync: Type) -> None:
    """A time of day may have seconds; what is none is a usage error."""
    assert "T04:05:30Z" in erpsync("night", "--since", "04:05:30", "--format", "json").json["since"]
    assert erpsync("night", "--since", "04:05:61").code == 2
    assert erpsync("night", "--since", "4:5:30:1").code == 2


def test_times_are_typed_in_the_zone_in_which_they_are_read(erpsync: Type, folder: Path) -> None:
    """`[daemon] timezone` is the zone of all commands, but of `next` for a job, and each help says so."""
    file = folder / "erpsync.toml"
    file.write_text(file.read_text().replace("[daemon]", '[daemon]\ntimezone = "Asia/Tokyo"', 1))
    night = ["--from", "2026-05-01T18:00", "--to", "2026-05-02T06:00"]
    assert erpsync("simulate", *night, "--format", "json").json["from"] == "2026-05-01T09:00:00Z"
    assert "times in Asia/Tokyo" in erpsync("simulate", *night).out
    assert erpsync("night", "--since", "2026-05-01T18:00").out.count("2026-05-01 18:00:00") == 1
    (first,) = erpsync("next", "say", "--from", "2026-05-01T02:00", "-n", "1", "--format", "json").json
    assert first["at"] == "2026-05-01T02:30:00+03:00", "the job's zone is Europe/Sofia"
    for command in ("simulate", "night", "pause", "runs", "run", "backfill"):
        assert "[daemon] timezone" in " ".join(erpsync(command, "--help").out.split())


@pytest.mark.parametrize("command", ["night", "runs"])
def test_since_lies_behind(erpsync: Type, command: str) -> None:
    """Of a time ahead nothing is known yet: a year typed wrong is a usage error, and never a night that was fine."""
    said = erpsync(command, "--since", "2099-01-01")
    assert said.code == 2
    assert "--since" in said.err
    assert '"2099-01-01" lies ahead' in said.err
    assert erpsync(command, "--since", "0s").code == 0


def test_next_names_the_parents_of_what_comes_after(erpsync: Type, shifted: Path) -> None:
    """A job that follows others has no fire time of its own; beside the table it is said whom it follows."""
    alone = erpsync("next", "later")
    assert (alone.code, "later comes after night, say on partial, skipped, succeeded" in alone.err) == (
        0,
        True,
    )
    all_ = erpsync("next")
    assert "later comes after night, say" in all_.err
    assert "later" not in all_.out
    document = erpsync("next", "--format", "json")
    assert "later" not in {time["job"] for time in document.json}


def test_night_finds_silence_without_any_daemon(erpsync: Type) -> None:
    """Where no daemon has ever planned, the fire times of the night are findings: exit 1, with what to type."""
    said = erpsync("night", "--since", "24h", "--format", "json")
    assert said.code == 1
    assert said.json["fine"] is False
    (finding,) = said.json["findings"]
    assert (finding["job"], finding["kind"], finding["next"]) == ("say", "silent", "erpsync status")
    assert finding["count"] >= 16
    text = erpsync("night", "--since", "24h")
    assert text.code == 1
    assert "not fine: 1 of 2 jobs" in text.out


def test_night_of_asked_runs(erpsync: Type, folder: Path) -> None:
    """A failed run is named with its error and the command that shows it; after a success all is fine."""
    file = folder / "erpsync.toml"
    file.write_text(re.sub(r"schedule = \[.*\]", 'schedule = "manual"', file.read_text()))
    assert erpsync("night").code == 0
    assert erpsync("run", "fail").code == 1
    (run,) = erpsync("runs", "--format", "json").json
    said = erpsync("night", "--since", "1h")
    assert said.code == 1
    assert f"erpsync show {run['id']}" in said.out
    assert "oh no" in said.out
    file.write_text(file.read_text().replace(", fails = true", ""))
    assert erpsync("run", "fail").code == 0
    fine = erpsync("night", "--since", "1h", "--format", "json")
    assert (fine.code, fine.json["fine"], fine.json["mended"]) == (0, True, 1)
    assert {each["job"]: each["age_seconds"] is not None for each in fine.json["data"]} == {
        "say": False,
        "fail": True,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("06:00", "2026-05-02T03:00:00+00:00"),
        ("19:00", "2026-05-01T16:00:00+00:00"),
        ("06:00:30", "2026-05-02T03:00:30+00:00"),
        ("2h", "2026-05-01T14:00:00+00:00"),
        ("2026-05-03", "2026-05-02T21:00:00+00:00"),
    ],
)
def test_instants_that_lie_ahead(text: str, expected: str) -> None:
    """Where the future is meant a time of day is the next one and a duration counts from now."""
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert parse_instant(text, "Europe/Sofia", now, ahead=True).isoformat() == expected


def test_check_warns_of_schedules(erpsync: Type, shifted: Path) -> None:
    """Warnings about time are shown and do not fail the check."""
    file = shifted / "erpsync.toml"
    never = '[jobs.never]\nplugin = "say"\nschedule = "0 0 31 2 *"\nwith = { text = "x" }\n'
    file.write_text(file.read_text() + never)
    said = erpsync("check")
    assert said.code == 0
    assert "warning[W301]" in said.out


def test_pause_needs_a_daemon(erpsync: Type) -> None:
    """Without a daemon `pause` and `resume` exit 69; an end that is over is a usage error."""
    assert erpsync("pause", "say").code == 69
    assert erpsync("resume", "--all").code == 69
    said = erpsync("pause", "say", "--until", "2020-01-01")
    assert (said.code, "over already" in said.err) == (2, True)
    assert erpsync("resume").code == 2
    assert erpsync("resume", "say", "--all").code == 2


def test_a_disabled_job_says_that_it_runs_because_somebody_asks(erpsync: Type, folder: Path) -> None:
    """It runs, since it was asked for; one line beside the result tells why it does not run otherwise."""
    file = folder / "erpsync.toml"
    file.write_text(file.read_text().replace('plugin = "say"', 'plugin = "say"\nenabled = false', 1))
    said = erpsync("run", "say")
    assert (said.code, said.err) == (0, "say is disabled; it runs because you ask\n")


def test_what_comes_after_a_run_of_our_own_waits_for_a_daemon(erpsync: Type, folder: Path) -> None:
    """Without a daemon `run` runs what was asked for; the job that comes after it is claimed and not started."""
    with (folder / "erpsync.toml").open("a") as file:
        file.write('[jobs.later]\nplugin = "say"\nschedule = { after = "say" }\nwith = { text = "x" }\n')
    assert erpsync("run", "say").code == 0
    later, said = erpsync("runs", "--format", "json").json
    assert (later["job"], later["trigger"], later["parents"]) == ("later", "after", [said["id"]])
    assert (later["state"], later["attempts"]) == ("pending", 0)
    assert "later (pending)" in erpsync("night", "--since", "1h").out
