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
    assert _problems(tmp_path, 'timeout = "10m"\nschedule = ["15 2 * * *", "@daily", { every = "1h" }]') == []
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


def test_a_fixed_time_in_a_clock_change_is_a_warning(tmp_path: Path) -> None:
    """Within twelve months, with the day and what happens, as the job's dst says; intervals meet none."""
    sofia = 'timezone = "Europe/Sofia"\nschedule = "30 3 * * *"'

    (problem,) = _problems(tmp_path, sofia)
    assert (problem.code, problem.severity, problem.message) == (
        "W302",
        "warning",
        '"30 3 * * *" falls into the clock change of 2027-03-28 (03:30 does not exist, it runs at 04:00), '
        "2027-10-31 (03:30 comes twice, it runs the first time only)",
    )
    (literal,) = _problems(tmp_path, sofia + '\ndst = "literal"')
    assert "(03:30 does not exist, it does not run)" in literal.message
    assert "(03:30 comes twice, it runs twice)" in literal.message
    for quiet in ("30 2 * * *", "*/30 * * * *", "0 4 * * *"):
        text = f'timeout = "1m"\ntimezone = "Europe/Sofia"\nschedule = "{quiet}"'
        assert _problems(tmp_path, text) == []


def test_a_time_out_longer_than_the_interval_is_a_warning(tmp_path: Path) -> None:
    """The shortest of the next intervals counts; runs that may overlap do not mind."""
    text = 'timeout = "30m"\nschedule = "0,20 3 * * *"'

    (problem,) = _problems(tmp_path, text)
    assert (problem.code, problem.key) == ("W303", "jobs.orders.timeout")
    assert "30m is longer than the 20m" in problem.message
    assert _problems(tmp_path, text + '\noverlap = "allow"') == []


def test_a_window_too_short_for_a_run_is_a_warning(tmp_path: Path) -> None:
    """The expected duration decides where it is known, else the time-out."""
    text = 'schedule = "0 23 * * *"\nwindow = { from = "23:00", to = "01:00" }\ntimeout = "3h"'

    (problem,) = _problems(tmp_path, text)
    assert (problem.code, problem.key) == ("W304", "jobs.orders.window")
    assert "open for 2h, shorter than the time-out of 3h" in problem.message
    assert _problems(tmp_path, text + '\nexpected_duration = "90m"') == []


def test_a_deadline_before_the_window_opens_is_a_warning(tmp_path: Path) -> None:
    """The first fire time that cannot make it is named."""
    text = 'schedule = "0 20 * * *"\nwindow = { from = "22:00", to = "06:00" }\nstart_by = '

    (problem,) = _problems(tmp_path, text + '"1h"')
    assert (problem.code, problem.key) == ("W305", "jobs.orders.start_by")
    assert "20:00 waits 2h for its window, and is missed after 1h" in problem.message
    assert _problems(tmp_path, text + '"3h"') == []


def test_a_schedule_that_its_blackout_forbids_never_fires(tmp_path: Path) -> None:
    """Sundays only, and never on Sundays."""
    text = 'schedule = "0 3 * * SUN"\nblackout = "free"\n[calendars.free]\nweekdays = ["SUN"]'

    (problem,) = _problems(tmp_path, text)
    assert (problem.code, problem.severity) == ("W301", "warning")
    assert "none of its fire times may start" in problem.message
