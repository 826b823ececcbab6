"""Problems of schedules, at their place in real configuration files."""

from datetime import UTC, datetime
from pathlib import Path

from erpsync.config.load import load_configuration
from erpsync.core.problem import Problem
from erpsync.scheduling.check import schedule_problems

HEAD = """
[instances.acme]
url = "https://acme.my.erp.net"
[instances.beta]
url = "https://beta.my.erp.net"
[identities.night]
grant = "client_credentials"
client_id = "app"
client_secret = { env = "SECRET" }
[jobs.orders]
plugin = "mirror"
identity = "night"
instances = ["acme", "beta"]
"""
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def _problems(folder: Path, text: str) -> list[Problem]:
    path = folder / "erpsync.toml"
    path.write_text(HEAD + text, encoding="utf-8")
    return schedule_problems(load_configuration(path, {"HOME": str(folder)}), now=NOW)


def test_a_good_schedule_is_no_problem(tmp_path: Path) -> None:
    """Every form of schedule passes, being asked only too."""
    assert _problems(tmp_path, 'schedule = ["15 2 * * *", "@daily", { every = "15m" }]') == []
    assert _problems(tmp_path, 'schedule = "manual"') == []


def test_a_bad_cron_expression_is_told_once_at_its_place(tmp_path: Path) -> None:
    """Two jobs of one definition share one problem: code, line, the field, and what to try."""
    (problem,) = _problems(tmp_path, 'schedule = "61 2 * * *"')

    assert (problem.code, problem.severity, problem.line, problem.key) == (
        "E301",
        "error",
        14,
        "jobs.orders.schedule",
    )
    assert 'the minute "61"' in problem.message
    assert "0-59" in problem.message
    assert "erpsync next --expr" in problem.help


def test_each_bad_member_of_a_list_is_told(tmp_path: Path) -> None:
    """All problems come at once."""
    problems = _problems(tmp_path, 'schedule = ["0 25 * * *", "0 0 * * *", "* * *"]')

    assert [problem.code for problem in problems] == ["E301", "E301"]


def test_a_schedule_that_never_fires_is_a_warning(tmp_path: Path) -> None:
    """A date that does not exist, and an instant that has passed, can be meant; they are told all the same."""
    for schedule in ('"0 0 30 2 *"', "{ at = 2025-12-31T23:00:00+02:00 }"):
        (problem,) = _problems(tmp_path, f"schedule = {schedule}")
        assert (problem.code, problem.severity) == ("W301", "warning")


def test_a_job_that_is_switched_off_may_rest(tmp_path: Path) -> None:
    """Disabled jobs never fire, which is no news; a bad expression in them is."""
    assert _problems(tmp_path, 'enabled = false\nschedule = "0 0 30 2 *"') == []
    assert [problem.code for problem in _problems(tmp_path, 'enabled = false\nschedule = "x"')] == ["E301"]
