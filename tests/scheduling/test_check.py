"""Problems of schedules, at their place in real configuration files."""

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cronsim import CronSim

from erpsync.config.load import examine_configuration, load_configuration
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


def _problems(folder: Path, text: str, now: datetime = NOW) -> list[Problem]:
    path = folder / "erpsync.toml"
    path.write_text(HEAD + text, encoding="utf-8")
    return schedule_problems(load_configuration(path, {"HOME": str(folder)}), now=now)


@pytest.mark.parametrize(
    "schedules",
    [
        ('{ after = "two" }', '{ after = "one" }'),
        ('{ after = "one" }', '"manual"'),
        ("[]", '{ after = "one" }'),
        ('{ after = "nobody" }', '{ after = ["one", "three"] }'),
        ("{ fortnightly = true }", '{ after = "one" }'),
    ],
)
def test_what_files_with_errors_make_of_schedules_is_looked_at(
    tmp_path: Path, schedules: tuple[str, str]
) -> None:
    """Circles, empty lists and parents that do not exist are told where they are found, and what others say is
    told beside them."""
    noop = '[jobs.%s]\nplugin = "noop"\nschedule = %s\n'
    pairs = zip(("one", "two", "never"), (*schedules, '"0 0 30 2 *"'), strict=True)
    path = tmp_path / "erpsync.toml"
    path.write_text("".join(noop % pair for pair in pairs), encoding="utf-8")
    examined = examine_configuration(path, {"HOME": str(tmp_path)})

    assert "error" in {problem.severity for problem in examined.problems}
    assert [each.key for each in schedule_problems(examined, now=NOW)] == ["jobs.never.schedule"]


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
        '"30 3 * * *" falls into the clock change of 2027-03-28 (03:30 does not exist, it is due at 04:00), '
        "2027-10-31 (03:30 comes twice, it runs the first time only)",
    )
    (literal,) = _problems(tmp_path, sofia + '\ndst = "literal"')
    assert "(03:30 does not exist, it does not run)" in literal.message
    assert "(03:30 comes twice, it runs twice)" in literal.message
    (hour,) = _problems(tmp_path, sofia.replace("30 3", "*/15 3") + '\ntimeout = "5m"')
    assert hour.message == (
        '"*/15 3 * * *" falls into the clock change of 2027-03-28 (03:00, 03:15, 03:30, … do not exist, it does not '
        "run), 2027-10-31 (03:00, 03:15, 03:30, … come twice, it runs twice)"
    )
    (skip,) = _problems(tmp_path, sofia.replace("30 3", "*/30 *") + '\ntimeout = "5m"\ndst = "skip"')
    assert skip.message.endswith("of 2027-10-31 (03:00, 03:30 come twice, it runs the first time only)")
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


@pytest.mark.parametrize(
    ("schedule", "gap"),
    [
        ('"0,20 3 * * *"', "20m"),
        ('"*/10 9-17 * * MON-FRI"', "10m"),
        ('["0 3 * * *", "10 3 1 * *"]', "10m"),
        ('["0 3 * * MON", { every = "7d", offset = "4d3h1m" }]', "1m"),
        ('{ every = "90s" }', "1m30s"),
        ('{ cron = "30 3 * * *", timezone = "Europe/Sofia", dst = "literal" }', "1h"),
        ('{ cron = "0 0,5 * * *", timezone = "Europe/Sofia" }', "4h"),
    ],
)
def test_the_shortest_gap_is_a_property_of_the_schedule(tmp_path: Path, schedule: str, gap: str) -> None:
    """Whatever hour and day it is when one asks: between two times of a day, where two schedules meet, through
    the clock changes of a year."""
    text = f'timeout = "4h30m"\nschedule = {schedule}'
    for hours in (0, 3.1, 9.5, 27, 100):
        found = _problems(tmp_path, text, NOW + timedelta(hours=hours))
        (message,) = [problem.message for problem in found if problem.code == "W303"]
        assert f"longer than the {gap} between fire times" in message


def test_a_time_out_of_all_jobs_is_told_once(tmp_path: Path) -> None:
    """Where it comes from [defaults] that is what is named, with the job that it suits least."""
    more = '[jobs.often]\nplugin = "noop"\nschedule = { every = "5m" }\n[jobs.own]\nplugin = "noop"\n'
    more += 'timeout = "20m"\nschedule = { every = "10m" }\n[defaults]\ntimeout = "30m"\n'

    own, shared = _problems(tmp_path, 'schedule = "*/15 * * * *"\n' + more)
    assert (own.code, own.key, own.message.partition(":")[0]) == (
        "W303",
        "jobs.own.timeout",
        "the time-out of 20m is longer than the 10m between fire times",
    )
    assert (shared.code, shared.key) == ("W303", "defaults.timeout")
    assert shared.message == (
        "the time-out of 30m in [defaults] is longer than the 5m between fire times of often, and too long for 2 "
        "more: a run that hangs costs the next ones"
    )


def test_dense_schedules_are_checked_in_bounded_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of each second and of one time a week takes some thousand steps, however many fire times a year has."""
    steps, step = itertools.count(), CronSim.__next__
    monkeypatch.setattr(CronSim, "__next__", lambda cron: (next(steps), step(cron))[1])
    text = (
        'timeout = "1h"\nschedule = ["* * * * * *", "7 3 * * MON"]\nwindow = { from = "22:00", to = "06:00" }'
    )

    assert {problem.code for problem in _problems(tmp_path, text)} == {"W303", "W304", "W305"}
    assert next(steps) < 10_000


def test_a_window_too_short_for_a_run_is_a_warning(tmp_path: Path) -> None:
    """The expected duration decides where it is known, else the time-out."""
    text = 'schedule = "0 23 * * *"\nwindow = { from = "23:00", to = "01:00" }\ntimeout = "3h"'

    (problem,) = _problems(tmp_path, text)
    assert (problem.code, problem.key) == ("W304", "jobs.orders.window")
    assert "open for 2h, shorter than the time-out of 3h" in problem.message
    assert _problems(tmp_path, text + '\nexpected_duration = "90m"') == []


def test_what_is_left_of_the_window_counts(tmp_path: Path) -> None:
    """A fire time late in a long window has what is left of it; one outside has it all; spread takes its share."""
    text = 'window = { from = "22:00", to = "06:00" }\ntimezone = "Europe/Sofia"\ntimeout = "1h"\nschedule = '

    (problem,) = _problems(tmp_path, text + '["0 1 * * *", "15 5 * * *"]')
    assert (problem.code, problem.key) == ("W304", "jobs.orders.window")
    assert "the fire time 05:15 has 45m left of its window, less than the time-out of 1h" in problem.message
    assert _problems(tmp_path, text + '["0 1 * * *", "0 5 * * *"]') == []
    assert _problems(tmp_path, text + '"0 20 * * *"') == []
    spread = _problems(tmp_path, text + '"0 5 * * *"\nspread = "10m"')
    assert {problem.code for problem in spread} == {"W304"}


def test_without_start_by_the_next_fire_time_is_the_deadline(tmp_path: Path) -> None:
    """Fire times outside the window are missed when the next one comes, the last one of the evening is not."""
    text = 'timeout = "15m"\nwindow = { from = "22:00", to = "06:00" }\nschedule = '

    (problem,) = _problems(tmp_path, text + '"0 * * * *"')
    assert (problem.code, problem.key) == ("W305", "jobs.orders.window")
    assert "06:00 waits 16h for its window, and is missed after 1h" in problem.message
    assert _problems(tmp_path, text + '["0 23 * * *", "0 20 * * *"]') == []
    assert _problems(tmp_path, text + '"0 0-5,22-23 * * *"') == []


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


def test_a_member_that_never_fires_is_told(tmp_path: Path) -> None:
    """One dead schedule of a list is hidden by the others; it is named."""
    (problem,) = _problems(tmp_path, 'schedule = ["0 0 31 2 *", "0 2 * * *"]')
    assert (problem.code, problem.message) == ("W301", '"0 0 31 2 *" never fires from now on')


def test_a_rare_schedule_that_a_blackout_meets_once_is_no_problem(tmp_path: Path) -> None:
    """29 February 2028 is a Tuesday, that of 2032 is not."""
    text = 'schedule = "0 12 29 2 *"\nblackout = "free"\n[calendars.free]\nweekdays = ["TUE"]'
    assert _problems(tmp_path, text) == []


def test_clock_changes_outside_of_start_and_end_do_not_matter(tmp_path: Path) -> None:
    """A job that ends before the next clock change is not warned of it, one that begins after it neither."""
    text = 'timezone = "Europe/Sofia"\nschedule = "30 3 * * *"\n'
    assert _problems(tmp_path, text + "end = 2026-12-01T00:00:00Z") == []
    (late,) = _problems(tmp_path, text + "start = 2027-05-01T00:00:00Z")
    assert "2027-10-31" in late.message
    assert "2027-03-28" not in late.message


def test_a_window_is_checked_on_the_days_of_clock_changes(tmp_path: Path) -> None:
    """A fire time that a gap moves out of its window is missed, one moved to its end has less time left."""
    text = 'timezone = "Europe/Sofia"\ntimeout = "44m"\n'
    window = 'window = { from = "03:00", to = "%s" }\nschedule = "%s"'

    lost = {each.code: each for each in _problems(tmp_path, text + window % ("04:00", "0 3 * * *"))}
    assert lost.keys() == {"W302", "W305"}
    assert "it is due at 04:00" in lost["W302"].message
    assert "the fire time 04:00 of 2027-03-28 waits 23h for its window" in lost["W305"].message
    short = {each.code: each for each in _problems(tmp_path, text + window % ("04:30", "45 3 * * *"))}
    assert "the fire time 04:00 of 2027-03-28 has 30m left" in short["W304"].message


def test_what_is_left_of_a_window_is_measured_in_time_that_passes(tmp_path: Path) -> None:
    """On the night without an hour a window of four hours is open for three, however early a run starts in it."""
    text = (
        'timezone = "Europe/Sofia"\nwindow = { from = "02:00", to = "06:00" }\nschedule = %s\ntimeout = "%s"'
    )
    for schedule in ('"0 2 * * *"', '"0 20 * * *"'):
        short = [each for each in _problems(tmp_path, text % (schedule, "3h30m")) if each.code == "W304"]
        assert "of 2027-03-2" in short[0].message
        assert "has 3h left of its window, less than the time-out of 3h30m" in short[0].message
        assert _problems(tmp_path, text % (schedule, "3h")) == []
    fixed = _problems(
        tmp_path, text % ('{ every = "1d", offset = "3h30m" }', "45m")
    )  # 05:30, in summer 06:30
    assert [each.code for each in fixed if each.code == "W304"] == ["W304"]


def test_a_window_that_a_gap_swallows_is_told(tmp_path: Path) -> None:
    """It does not open in the night of the change, and what waits for it is missed."""
    text = (
        'timezone = "Europe/Sofia"\ntimeout = "30m"\nwindow = { from = "03:00", to = "04:00" }\nschedule = '
    )
    for fire, waits in (("30 2", "23h30m"), ("0 22", "1d4h")):
        (problem,) = [each for each in _problems(tmp_path, text + f'"{fire} * * *"') if each.code == "W305"]
        assert f"waits {waits} for its window, and is missed after" in problem.message
        assert "of 2027-03-2" in problem.message


def test_what_comes_after_a_job_that_never_fires_never_fires(tmp_path: Path) -> None:
    """Along any number of jobs; after one that is started by hand it may well run, and by its own schedule too."""
    noop = '[jobs.%s]\nplugin = "noop"\nschedule = %s\n'
    after = noop % ("child", '{ after = ["live", "never"] }') + noop % ("grandchild", '{ after = "child" }')
    after += noop % ("also", '[{ after = "never" }, { after = "asked" }]')
    after += noop % ("both", '[{ after = "never" }, "0 3 * * *"]')
    jobs = noop % ("never", '"0 0 30 2 *"') + noop % ("live", '"0 2 * * *"') + noop % ("asked", '"manual"')

    problems = _problems(tmp_path, 'schedule = "manual"\n' + jobs + after)
    assert [(each.code, each.key, each.message) for each in problems] == [
        ("W301", "jobs.never.schedule", "this schedule never fires from now on"),
        ("W301", "jobs.child.schedule", "it comes after never, which never fires"),
        ("W301", "jobs.grandchild.schedule", "it comes after child, which never fires"),
    ]


def test_a_time_out_longer_than_the_interval_of_the_parents_is_a_warning(tmp_path: Path) -> None:
    """What comes after others is due as often as they are; after two, as often as the rarer one."""
    noop = '[jobs.%s]\nplugin = "noop"\nschedule = %s\ntimeout = "%s"\n'
    jobs = noop % ("often", '{ every = "10m" }', "5m") + noop % ("daily", '"0 2 * * *"', "5m")
    jobs += noop % ("child", '{ after = "often" }', "5h") + noop % (
        "both",
        '{ after = ["often", "daily"] }',
        "5h",
    )
    jobs += noop % ("grandchild", '{ after = "child" }', "11m") + noop % (
        "quick",
        '{ after = "often" }',
        "10m",
    )

    problems = _problems(tmp_path, 'schedule = "manual"\n' + jobs)
    assert [(each.code, each.key) for each in problems] == [
        ("W303", "jobs.child.timeout"),
        ("W303", "jobs.grandchild.timeout"),
    ]
    assert "5h is longer than the 10m between runs of often" in problems[0].message


def test_a_blackout_that_keeps_the_window_shut_is_told(tmp_path: Path) -> None:
    """What is due on Friday for the window after midnight finds the weekend there, and is missed."""
    text = 'timeout = "1h"\nwindow = { from = "00:00", to = "06:00" }\nblackout = "weekend"\nschedule = '
    calendar = '\n[calendars.weekend]\nweekdays = ["SAT", "SUN"]'

    (problem,) = _problems(tmp_path, text + '"30 23 * * *"' + calendar)
    assert (problem.code, problem.key) == ("W305", "jobs.orders.window")
    assert (
        "the fire time 23:30 of 2026-11-27 waits 2d for its window, and is missed after 1d" in problem.message
    )
    assert _problems(tmp_path, text + '"30 23 * * SUN-THU"' + calendar) == []


def test_chains_and_meshes_of_jobs_are_checked_in_bounded_work(tmp_path: Path) -> None:
    """Hundreds of jobs one after the other, and two after both of two on each of many levels, cost a step a job."""
    noop = '[jobs.%s]\nplugin = "noop"\nschedule = %s\ntimeout = "5m"\n'
    jobs = noop % ("c0", '{ every = "10m" }') + noop % ("l0", '"0 2 * * *"') + noop % ("r0", '"0 3 * * *"')
    jobs += "".join(noop % (f"c{n}", f'{{ after = "c{n - 1}" }}') for n in range(1, 1200))
    jobs += "".join(
        noop % (f"{side}{n}", f'{{ after = ["l{n - 1}", "r{n - 1}"] }}')
        for n in range(1, 40)
        for side in "lr"
    )
    last = noop.replace("5m", "11m") % ("last", '{ after = "c1199" }')

    (problem,) = _problems(tmp_path, 'schedule = "manual"\n' + jobs + last)
    assert (problem.code, problem.key) == ("W303", "jobs.last.timeout")
    assert "11m is longer than the 10m between runs of c1199" in problem.message


@pytest.mark.parametrize("on_blackout", ["skip", "postpone"])
def test_a_clock_change_on_a_day_without_runs_does_not_matter(tmp_path: Path, on_blackout: str) -> None:
    """Clocks change on Sundays, and weekends are blacked out; a blackout of one such day leaves the other."""
    text = f'timezone = "Europe/Sofia"\nschedule = "30 3 * * *"\nblackout = "free"\non_blackout = "{on_blackout}"\n'
    assert _problems(tmp_path, text + '[calendars.free]\nweekdays = ["SAT", "SUN"]') == []
    (left,) = _problems(tmp_path, text + '[calendars.free]\ndates = ["2027-03-28"]')
    assert left.message.endswith(
        "the clock change of 2027-10-31 (03:30 comes twice, it runs the first time only)"
    )


@pytest.mark.parametrize(
    ("keys", "is_missed"),
    [
        ('start_by = "1h"', True),
        ('start_by = "14h"', True),
        ('start_by = "15h"', False),
        ("", False),
    ],
)
def test_what_comes_after_a_job_may_not_live_to_see_its_window(
    tmp_path: Path, keys: str, is_missed: bool
) -> None:
    """Its parent ends between its start and its last time-out; where all of that is too early it is said."""
    jobs = (
        '[jobs.noon]\nplugin = "noop"\nschedule = "0 12 * * *"\ntimeout = "30m"\nretry = { attempts = 1 }\n'
    )
    jobs += '[jobs.next]\nplugin = "noop"\n'
    jobs += f'schedule = {{ after = "noon" }}\ntimeout = "30m"\nwindow = {{ from = "03:00", to = "05:00" }}\n{keys}'

    found = _problems(tmp_path, 'schedule = "manual"\n' + jobs)
    assert [(each.code, each.key, each.message) for each in found] == [
        (
            "W305",
            "jobs.next.start_by",
            f"what comes after noon, due at 12:00, waits 14h30m at least for its window, and is missed after "
            f"{keys[12:-1]}",
        )
    ] * is_missed


def test_a_run_that_is_replaced_costs_no_other(tmp_path: Path) -> None:
    """With overlap = "replace" it is the run that hangs that pays."""
    text = 'timeout = "30m"\nschedule = "0,20 3 * * *"\noverlap = "replace"'
    (problem,) = _problems(tmp_path, text)
    assert problem.message == (
        "the time-out of 30m is longer than the 20m between fire times: the next run replaces one that hangs before"
    )
