"""Changed configurations under a running daemon: planned, taken over, refused; and starts with broken files."""

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.site import BASE, Site, eventually

PLUGIN = '''
import asyncio, pathlib
from erpsync import JobContext, JobResult, Settings, job

class Options(Settings):
    word: str = "one"
    gate: str = ""

@job("say", repeatable=True)
async def say(ctx: JobContext[Options]) -> JobResult:
    """Says its word; where it has a gate, once that is open."""
    while ctx.settings.gate and not pathlib.Path(ctx.settings.gate).exists():
        await asyncio.sleep(0.02)
    return ctx.result(ctx.settings.word)
'''
STEADY = '\n[jobs.steady]\nplugin = "say"\nschedule = { every = "1s" }\n'


def job(name: str, schedule: str, more: str = "") -> str:
    return f'\n[jobs.{name}]\nplugin = "say"\nschedule = {schedule}\n{more}'


@pytest.fixture
def talking(site: Site) -> Site:
    site.write(PLUGIN, "plugins/say.py")
    site.write(BASE + STEADY)
    return site


def succeeded(site: Site, name: str) -> Callable[[], list[dict[str, Any]]]:
    return lambda: site.runs(name, outcome="succeeded")


@pytest.mark.slow
def test_a_reload_does_what_the_plan_says(talking: Site) -> None:
    """Added, changed and removed jobs are planned and taken over; an unchanged one does not miss a fire time."""
    site = talking
    site.write(
        BASE + STEADY + job("old", '{ every = "1s" }') + job("other", '"0 3 * * *"', 'with.word = "a"\n')
    )
    with site.daemon() as daemon:
        eventually(succeeded(site, "old"), "the old job runs")
        site.write(
            BASE
            + STEADY
            + job("new", '{ every = "1s" }')
            + job("other", '{ every = "1s" }', 'with.word = "b"\n')
        )
        plan = site.json("plan")
        assert {each["job"]: each["change"] for each in plan["jobs"]} == {
            "new": "added",
            "old": "removed",
            "other": "changed",
        }
        assert "formerly" in next(each["at_stake"] for each in plan["jobs"] if each["job"] == "old")
        assert [each["job"] for each in site.json("reload")["jobs"]] == ["new", "old", "other"]
        assert site.json("plan")["jobs"] == []
        eventually(succeeded(site, "new"), "the new job runs")
        run = eventually(succeeded(site, "other"), "the changed job runs")[0]
        assert run["reason"] == "b"
        assert site.json("status")["problems"] == []
        assert site.stop(daemon) == 0
    runs = site.runs("steady")
    fires = sorted(run["fire_at"] for run in runs)
    assert len(set(fires)) == len(fires)
    assert all(run["outcome"] == "succeeded" for run in runs)


@pytest.mark.slow
def test_a_plan_for_other_data_says_where_it_looked(talking: Site) -> None:
    """With `data` the socket moves, so the daemon is not found: it is said, and how it is."""
    site = talking
    changed = BASE.replace('data = "data"', 'data = "elsewhere"') + STEADY + job("more", '"@daily"')
    with site.daemon() as daemon:
        site.write(changed)
        lost = site.erpsync("plan")
        assert f"no daemon has accepted a configuration in {site.folder}/elsewhere yet" in lost.stderr
        assert "ERPSYNC_DAEMON__DATA=" in lost.stderr
        found = site.erpsync("plan", "--format", "json", ERPSYNC_DAEMON__DATA="data")
        assert [each["job"] for each in json.loads(found.stdout)["jobs"]] == ["more"]
        assert "no daemon" not in found.stderr
        site.write(changed.replace("[daemon]", '[control]\nsocket = "data/control.sock"\n[daemon]'))
        told = site.json("plan")
        assert [each["job"] for each in told["jobs"]] == ["more"]
        assert "daemon.data" in told["restart"]
        assert site.stop(daemon) == 0


@pytest.mark.slow
def test_a_broken_file_changes_nothing_and_is_told(talking: Site) -> None:
    """`reload` ends with 78 and every problem, SIGHUP tells it; it goes on, and starts again with what it had."""
    site = talking
    with site.daemon() as daemon:
        eventually(succeeded(site, "steady"), "the job runs")
        site.write(BASE + STEADY + '\n[jobs.bad]\nplugin = "say"\nshedule = "x"\nretry = 3\n')
        refused = site.erpsync("reload")
        assert refused.returncode == 78
        assert 'did you mean "schedule"' in refused.stderr
        assert "erpsync.toml:" in refused.stderr
        assert refused.stderr.count("error[") >= 2
        daemon.send_signal(signal.SIGHUP)
        eventually(lambda: "SIGHUP" in _log(site), "the hang-up is answered")
        problems = site.json("status")["problems"]
        assert any("refused" in each for each in problems)
        before = len(succeeded(site, "steady")())
        eventually(lambda: len(succeeded(site, "steady")()) > before, "it goes on")
        assert site.stop(daemon) == 0
    assert site.erpsync("daemon", "--strict").returncode == 78
    with site.daemon() as daemon:
        before = len(succeeded(site, "steady")())
        eventually(lambda: len(succeeded(site, "steady")()) > before, "it runs what was accepted last")
        assert any("refused" in each for each in site.json("status")["problems"])
        site.write(BASE + STEADY)
        assert site.erpsync("reload").returncode == 0
        assert site.json("status")["problems"] == []
        assert site.stop(daemon) == 0
    site.write(BASE + "\n[jobs.broken\n")
    with site.daemon() as daemon:
        assert site.stop(daemon) == 0


@pytest.mark.slow
def test_a_running_attempt_keeps_its_settings_and_its_job_can_be_renamed(talking: Site) -> None:
    """What runs ends as it began, under the job's new name; the next run has the new settings."""
    site = talking
    gate = site.folder / "gate"
    site.write(BASE + job("first", '"manual"', f'with = {{ word = "one", gate = "{gate}" }}\n'))
    with site.daemon() as daemon:
        run = site.json("trigger", "first")
        eventually(lambda: site.json("show", run["id"])["state"] == "running", "it runs")
        renamed = f'formerly = ["first"]\noverlap = "queue"\nwith = {{ word = "two", gate = "{gate}" }}\n'
        site.write(BASE + job("second", '"manual"', renamed))
        plan = site.json("reload")
        assert [(each["change"], each["former"]) for each in plan["jobs"]] == [("renamed", "first")]
        later = site.json("trigger", "second")
        assert site.json("show", later["id"])["state"] != "running"
        gate.touch()
        ended = eventually(
            lambda: len(succeeded(site, "second")()) == 2 and succeeded(site, "second")(), "both end"
        )
        assert {each["id"]: each["reason"] for each in ended} == {run["id"]: "one", later["id"]: "two"}
        assert site.stop(daemon) == 0


def _log(site: Site) -> str:
    return "".join(path.read_text() for path in site.folder.glob("daemon-*.log"))


def test_what_cannot_run_is_said_before_and_after_a_reload(talking: Site) -> None:
    """A plugin that is not there parks its job and nothing else; `plan` and `reload` say so."""
    site = talking
    with site.daemon() as daemon:
        site.write(BASE + STEADY + job("lost", '"@daily"').replace('"say"', '"sya"'))
        for command in ("plan", "reload"):
            assert "lost" in site.json(command)["parked"]
        assert 'lost cannot run: there is no plugin "sya"' in site.erpsync("plan").stderr
        assert site.stop(daemon) == 0


def test_settings_that_do_not_fit_are_refused(talking: Site) -> None:
    """`plan` and `reload` end with 78 and the place; the job goes on. A start with them parks that job alone, and
    then they are in the way of no other change."""
    site = talking
    wrong = BASE + STEADY + "with = { bogus = 1 }\n"
    with site.daemon() as daemon:
        site.write(wrong)
        for command in ("plan", "reload"):
            refused = site.erpsync(command)
            assert (refused.returncode, "E202" in refused.stderr, "bogus" in refused.stderr) == (
                78,
                True,
                True,
            )
        before = len(succeeded(site, "steady")())
        eventually(lambda: len(succeeded(site, "steady")()) > before, "it goes on")
        assert site.stop(daemon) == 0
    with site.daemon() as daemon:
        assert [each["job"] for each in site.json("status")["daemon"]["parked"]] == ["steady"]
        site.write(wrong + job("other", '"manual"'))
        assert site.erpsync("plan").returncode == 0
        assert site.erpsync("reload").returncode == 0
        assert site.stop(daemon) == 0


def test_before_any_daemon_everything_is_new(talking: Site) -> None:
    """`plan` shows each job as added, with its first fire time."""
    plan = talking.json("plan")
    assert [(each["job"], each["change"], each["next_after"] is not None) for each in plan["jobs"]] == [
        ("steady", "added", True)
    ]


CHILD = '''
from erpsync import JobContext, JobResult, Settings, job
from .words import WORD

@job("child")
def child(ctx: JobContext[Settings]) -> JobResult:
    """Says the word of a helper."""
    return ctx.result(WORD)
'''


@pytest.mark.slow
def test_changed_plugin_files_are_named_and_not_entered_before_a_restart(talking: Site) -> None:
    """Whatever was imported and has other content, helpers too; not what was only touched. A child, which imports
    by itself, is as true to what the daemon knows as the daemon."""
    site = talking
    site.write(CHILD, "plugins/child.py")
    site.write('WORD = "one"\n', "plugins/words.py")
    site.write(
        BASE + STEADY + '[jobs.child]\nplugin = "child"\nschedule = "manual"\nretry = { attempts = 1 }\n'
    )
    plugin, helper = site.folder / "plugins" / "say.py", site.folder / "plugins" / "words.py"
    with site.daemon() as daemon:
        assert site.json("run", "child")["reason"] == "one"
        plugin.touch()
        assert site.erpsync("plan").stdout == "nothing changes\n"
        site.write(PLUGIN + "# more\n", "plugins/say.py")
        site.write('WORD = "the second"\n', "plugins/words.py")
        changed = [str(plugin), str(helper)]
        assert [sorted(site.json(command)["restart"]) for command in ("plan", "reload")] == [changed, changed]
        refused = site.erpsync("run", "child")
        assert refused.returncode == 78
        assert f"{helper} has changed since the daemon read it" in refused.stdout + refused.stderr
        assert site.stop(daemon) == 0
    with site.daemon() as daemon:
        assert site.erpsync("plan").stdout == "nothing changes\n"
        assert site.json("run", "child")["reason"] == "the second"
        assert site.stop(daemon) == 0
