"""The schedule in virtual time, against what one can work out by hand."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from erpsync.config.configuration import Configuration
from erpsync.config.load import load_configuration
from erpsync.core.errors import SimulationTooLargeError
from erpsync.core.job import After, Job
from erpsync.core.run import Outcome, Run, RunTrigger, State
from erpsync.daemon.simulated_run import SimulatedRun
from erpsync.daemon.simulation import expected_end, simulate
from erpsync.daemon.situation import (
    Expected,
    Situation,
    configured_duration,
    expected_durations,
    read_situation,
)
from erpsync.scheduling.handover import hand_over, successions
from erpsync.store.ledger import insert_runs
from erpsync.store.pauses import Pause, write_pauses
from erpsync.store.state import Store

EVENING = datetime(2026, 5, 1, 18, tzinfo=UTC)
MORNING = EVENING + timedelta(hours=14)


def job(name: str, keys: str) -> str:
    return f'[jobs.{name}]\nplugin = "http_call"\nwith = {{ url = "https://example.org/" }}\n{keys}\n'


def configuration(folder: Path, text: str, daemon: str = "") -> Configuration:
    file = folder / "erpsync.toml"
    file.write_text(f'[daemon]\ndata = "data"\n{daemon}\n{text}')
    return load_configuration(file, {})


def night(config: Configuration, situation: Situation | None = Situation(EVENING)) -> list[SimulatedRun]:
    """The night as simulated in the evening; without a situation, at some other time."""
    expected = {name: configured_duration(job) for name, job in config.jobs.items()}
    return simulate(config, expected, EVENING, MORNING, situation)


def live(name: str, state: State, began: timedelta = timedelta(0), **more: object) -> Run:
    """A run of a job that lives at EVENING; one that runs has begun `began` before."""
    at = EVENING - began
    run = Run(name, name, f"at:{at}", "http_call", RunTrigger.SCHEDULE, at, fire_at=at, state=state)
    started = at if state is State.RUNNING else None
    return replace(run, started_at=started, attempts=int(state is State.RUNNING), **more)  # type: ignore[arg-type]


def lines(runs: list[SimulatedRun]) -> list[str]:
    """Each run as "job start–end" or "job reason", with its waits in minutes."""
    found = []
    for run in runs:
        waits = "".join(f" {reason} {waited.total_seconds() / 60:g}" for reason, waited in run.waits.items())
        if run.started_at and run.finished_at:
            found.append(f"{run.job} {run.started_at:%H:%M}-{run.finished_at:%H:%M}{waits}")
        else:
            found.append(f"{run.job} {run.outcome}: {run.reason} x{run.fire_count}{waits}")
    return found


def test_slots_are_given_by_priority_and_the_rest_waits(tmp_path: Path) -> None:
    """Of three at one second two start, the more important first; the third waits for max_runs."""
    hour = 'schedule = "0 2 * * *"\nexpected_duration = "30m"'
    text = job("c", f"{hour}\npriority = 5") + job("a", hour) + job("b", hour)
    assert lines(night(configuration(tmp_path, text, "max_runs = 2"))) == [
        "a 02:00-02:30",
        "c 02:00-02:30",
        "b 02:30-03:00 max_runs 30",
    ]


def test_a_pool_and_an_instance_hold_back(tmp_path: Path) -> None:
    """A pool's slots and an instance's own limit are waited for under their names."""
    hour = 'schedule = "0 2 * * *"\nexpected_duration = "30m"'
    pooled = f'{hour}\npool = "warehouse"'
    text = '[pools.warehouse]\nslots = 1\n[instances.acme]\nkind = "oidc"\nmax_runs = 1\n'
    text += 'issuer = "https://id.example"\n'
    text += job("p", pooled) + job("q", pooled)
    text += job("x", f'{hour}\ninstances = ["acme"]') + job("y", f'{hour}\ninstances = ["acme"]')
    assert lines(night(configuration(tmp_path, text))) == [
        "p 02:00-02:30",
        "x@acme 02:00-02:30",
        "q 02:30-03:00 pool 30",
        "y@acme 02:30-03:00 instance max_runs 30",
    ]


def test_windows_delay_interrupt_and_let_go(tmp_path: Path) -> None:
    """A start waits for its window; at its end a run stops and goes on in the next one, where it is told to."""
    late = 'schedule = "0 20 * * *"\nexpected_duration = "90m"\nstart_by = "12h"\n'
    stops = late + 'window = { from = "22:00", to = "23:00", at_end = "checkpoint" }'
    text = job("goes-on", late + 'window = { from = "22:00", to = "23:00" }') + job("stops", stops)
    runs = night(configuration(tmp_path, text))
    assert lines(runs)[0] == "goes-on 22:00-23:30 window 120"
    assert runs[1].finished_at == datetime(2026, 5, 2, 22, 30, tzinfo=UTC)


def test_overlap_blackout_and_deadlines_leave_out(tmp_path: Path) -> None:
    """Skips in a row are one line with their number; who waits too long is missed for what it waited for."""
    text = '[calendars.may]\ndates = ["2026-05-02"]\n'
    text += job("often", 'schedule = { every = "15m" }\nexpected_duration = "1h"\nend = 2026-05-01T19:30:00Z')
    text += job("dark", 'schedule = "0 3 * * *"\nblackout = ["may"]')
    text += job("held", 'schedule = "0 3 * * *"\nwindow = { from = "12:00", to = "13:00" }\nstart_by = "1h"')
    assert lines(night(configuration(tmp_path, text))) == [
        "often 18:00-19:00",
        "often skipped: overlap x4",
        "often 19:15-20:15",
        "dark skipped: blackout x1",
        "held missed: window x1 window 60",
    ]


def test_one_after_the_other(tmp_path: Path) -> None:
    """A job that comes after two others starts when the last of them has ended; a skipped parent skips it too."""
    text = '[calendars.may]\ndates = ["2026-05-02"]\n'
    text += job("a", 'schedule = "0 2 * * *"\nexpected_duration = "10m"')
    text += job("b", 'schedule = "0 2 * * *"\nexpected_duration = "40m"')
    text += job("both", 'schedule = { after = ["a", "b"] }\nexpected_duration = "5m"')
    text += job("dark", 'schedule = "0 4 * * *"\nblackout = ["may"]')
    text += job("never", 'schedule = { after = "dark" }')
    assert lines(night(configuration(tmp_path, text))) == [
        "a 02:00-02:10",
        "b 02:00-02:40",
        "both 02:40-02:45",
        "dark skipped: blackout x1",
        "never skipped: parent x1",
    ]


def test_a_parents_skips_are_handed_over_night_by_night(tmp_path: Path) -> None:
    """A blackout of two nights skips what comes after two jobs in both, and in the third it runs in its own night."""
    text = '[calendars.may]\ndates = ["2026-05-02", "2026-05-03"]\n'
    text += job("a", 'schedule = "0 3 * * *"\nblackout = ["may"]') + job("b", 'schedule = "0 4 * * *"')
    text += job("c", 'schedule = { after = ["a", "b"] }') + job("d", 'schedule = { after = "c" }')
    text += job("e", 'schedule = { after = "c", on = ["skipped"] }')
    config = configuration(tmp_path, text)
    expected = {name: configured_duration(job) for name, job in config.jobs.items()}
    runs = simulate(config, expected, EVENING, EVENING + timedelta(days=3))
    assert [(run.fire_at.day, run.outcome, run.fire_count) for run in runs if run.job in "cd"] == [
        (2, Outcome.SKIPPED, 2),
        (2, Outcome.SKIPPED, 2),
        (4, Outcome.SUCCEEDED, 1),
        (4, Outcome.SUCCEEDED, 1),
    ]
    assert [(run.fire_at.day, run.outcome) for run in runs if run.job == "e"] == [
        (2, Outcome.SUCCEEDED),
        (3, Outcome.SUCCEEDED),
        (4, Outcome.SKIPPED),
    ]


def test_what_passed_in_a_pause_is_handed_over_at_its_end(tmp_path: Path) -> None:
    """As the daemon does: the skips of the pause are a parent's end."""
    text = job("a", 'schedule = "0 * * * *"\ncatch_up = "none"\ngrace = "1m"\nend = 2026-05-01T22:00:00Z')
    text += job("b", 'schedule = { after = "a", on = ["skipped"] }')
    pauses = {"a": Pause("a", EVENING, EVENING + timedelta(hours=2, minutes=30))}
    assert lines(night(configuration(tmp_path, text), Situation(EVENING, pauses))) == [
        "a skipped: paused x3",
        "b 20:30-20:31",
        "a 21:00-21:01",
        "b skipped: parent x1",
    ]


def test_queue_and_replace(tmp_path: Path) -> None:
    """One run waits its turn where the job says queue; where it says replace the old one is cancelled."""
    keys = 'schedule = { every = "20m" }\nexpected_duration = "30m"\nend = 2026-05-01T18:50:00Z\n'
    assert lines(night(configuration(tmp_path, job("q", keys + 'overlap = "queue"')))) == [
        "q 18:00-18:30",
        "q 18:30-19:00 queue 10",
        "q 19:00-19:30 queue 20",
    ]
    replaced = night(configuration(tmp_path, job("r", keys + 'overlap = "replace"')))
    assert [(run.outcome, run.reason) for run in replaced] == [
        (Outcome.CANCELLED, "replaced"),
        (Outcome.CANCELLED, "replaced"),
        (Outcome.SUCCEEDED, None),
    ]
    assert lines(replaced)[-1] == "r 18:40-19:10"


SLOT = """
[instances.acme]
url = "https://acme.example"
license_slots = 1
[identities.one]
instance = "acme"
client_id = "one"
client_secret = { env = "SECRET" }
[identities.two]
instance = "acme"
client_id = "two"
client_secret = { env = "SECRET" }
"""


def of_identity(name: str, identity: str, schedule: str, minutes: int) -> str:
    keys = f'identity = "{identity}"\nschedule = {schedule}\nexpected_duration = "{minutes}m"'
    return job(name, keys).replace("https://example.org/", "https://acme.example/")


def test_a_licence_slot_stays_with_its_identity(tmp_path: Path) -> None:
    """Runs of one identity share its slot; another identity waits until twenty minutes after the last of them."""
    text = SLOT + of_identity("a", "one", '"0 2 * * *"', 30) + of_identity("b", "two", '"5 2 * * *"', 10)
    text += of_identity("c", "one", '"10 2 * * *"', 5) + of_identity("d", "two", '"10 2 * * *"', 10)
    assert lines(night(configuration(tmp_path, text))) == [
        "a 02:00-02:30",
        "c 02:10-02:15",
        "b 02:50-03:00 licence 45",
        "d 02:50-03:00 licence 40",
    ]


def test_a_licence_slot_is_free_when_its_session_is_over(tmp_path: Path) -> None:
    """An identity that comes back every quarter of an hour keeps it for an hour at most; two slots serve two."""
    text = (
        SLOT + of_identity("a", "one", '"0,15,30,45 2 * * *"', 1) + of_identity("b", "two", '"1 2 * * *"', 10)
    )
    config = configuration(tmp_path, text)
    assert lines(night(config))[-1] == "b 03:00-03:10 licence 59"
    more = configuration(tmp_path, text.replace("license_slots = 1", "license_slots = 2"))
    assert lines(night(more))[1] == "b 02:01-02:11"


def test_a_pause_holds_until_it_ends(tmp_path: Path) -> None:
    """What passes in it is one skip, and is caught up as the job says; what comes after the job waits with it."""
    text = job("a", 'schedule = "0 * * * *"\nend = 2026-05-01T23:30:00Z') + job(
        "b", 'schedule = { after = "a" }'
    )
    config = configuration(tmp_path, text)
    until = EVENING + timedelta(hours=3, minutes=20)
    pauses = {
        "a": Pause("a", EVENING, until),
        "b": Pause("b", EVENING, EVENING + timedelta(hours=5, minutes=20)),
    }
    assert lines(night(config, Situation(EVENING, pauses))) == [
        "a skipped: paused x3",
        "a 21:20-21:21",
        "a 22:00-22:01",
        "a 23:00-23:01",
        "b 23:20-23:21",
    ]
    for_ever = Situation(EVENING, {"a": Pause("a", EVENING)})
    assert lines(night(config, for_ever)) == ["a skipped: paused x6"]


def test_what_lives_now_goes_on(tmp_path: Path) -> None:
    """What runs takes the rest of its time and its slot, what waits starts after it, and none is doubled."""
    hour = 'expected_duration = "1h"\nschedule = '
    text = job("runs", hour + '"0 18 1 5 *"') + job("waits", hour + '"manual"')
    text += job("late", hour + '{ after = ["runs", "gone"] }') + job("gone", 'schedule = "manual"')
    config = configuration(tmp_path, text, "max_runs = 1")
    runs = [
        live("waits", State.WAITING, waiting_for="max_runs"),
        live("runs", State.RUNNING),
        live("unknown", State.RUNNING),
    ]
    left = {("late", "gone"): Outcome.SUCCEEDED}
    assert lines(night(config, Situation(EVENING, {}, runs, left))) == [
        "runs 18:00-19:00",
        "waits 19:00-20:00 max_runs 60",
        "late 20:00-21:00 max_runs 60",
    ]


def test_slices_of_a_backfill_stand_in_nobodys_way(tmp_path: Path) -> None:
    """The job's own runs go before those that wait, and behind the one that runs, and none is skipped for them."""
    keys = 'schedule = "0 * * * *"\nexpected_duration = "30m"\nend = 2026-05-01T19:30:00Z'
    config = configuration(tmp_path, job("a", keys))
    more = {"trigger": RunTrigger.BACKFILL, "fire_at": None}
    slices = [
        replace(live("a", state, **more), id=f"slice-{state}") for state in (State.PENDING, State.WAITING)
    ]
    running = replace(live("a", State.RUNNING, timedelta(minutes=20), **more), id="running")
    assert lines(night(config, Situation(EVENING, {}, [*slices, running]))) == [
        "a 17:40-18:10",
        "a 18:10-18:40 queue 10",
        "a 18:40-19:10 queue 40",
        "a 19:10-19:40 queue 10",
        "a 19:40-20:10 queue 100",
    ]


def test_what_lives_now_may_be_over_by_then(tmp_path: Path) -> None:
    """What ends before the time that is looked at is left out, what lasts longer than expected ends soon; a time that
    is past knows nothing of today."""
    config = configuration(tmp_path, job("a", 'expected_duration = "1h"\nschedule = "manual"'))

    def seen(now: datetime, began: timedelta) -> list[str]:
        runs = [live("a", State.RUNNING, began)]
        return lines(night(config, Situation(now, {}, runs)))

    assert seen(EVENING, timedelta(minutes=20)) == ["a 17:40-18:40"]
    assert seen(EVENING, timedelta(hours=5)) == ["a 13:00-18:01"]
    assert seen(EVENING - timedelta(hours=1), timedelta(hours=2)) == []
    assert seen(EVENING + timedelta(hours=2), timedelta(minutes=20)) == []


def test_what_is_postponed_to_another_night_is_not_this_ones_end(tmp_path: Path) -> None:
    """A run that a blackout holds until midnight after the time looked at is shown, and does not count."""
    text = '[calendars.may]\ndates = ["2026-05-02"]\n' + job("a", 'schedule = "0 23 * * *"')
    text += job("b", 'schedule = "0 3 * * *"\nblackout = "may"\non_blackout = "postpone"')
    runs = night(configuration(tmp_path, text))
    assert [run.started_at for run in runs if run.job == "b"] == [datetime(2026, 5, 3, tzinfo=UTC)]
    assert expected_end(runs, MORNING) == datetime(2026, 5, 1, 23, 1, tzinfo=UTC)


def test_what_waits_longer_than_the_night_is_its_end(tmp_path: Path) -> None:
    """Runs that wait for slots beyond the time looked at belong to it, and what comes after them; those that a
    window or a blackout holds beyond it do not, nor what comes after those or waits behind them."""
    hour = 'schedule = "0 22 * * *"\nexpected_duration = "1h"'
    text = "".join(job(f"j{number}", hour) for number in range(10)) + job(
        "last", 'schedule = { after = "j9" }'
    )
    config = configuration(tmp_path, text, "max_runs = 1")
    runs = night(config)
    assert runs[-1].started_at == MORNING
    assert expected_end(runs, EVENING + timedelta(hours=12)) == MORNING + timedelta(minutes=1)

    keys = 'schedule = "0,10 5 * * *"\noverlap = "queue"\nstart_by = "20h"\nwindow = { from = "22:00", to = "05:00" }'
    text += job("held", keys) + job("after", 'schedule = { after = "held" }')
    runs = night(configuration(tmp_path, text, "max_runs = 1"))
    starts = {run.job: run.started_at for run in runs if run.started_at}
    assert min(starts["held"], starts["after"]) > MORNING + timedelta(hours=12)
    assert expected_end(runs, EVENING + timedelta(hours=12)) == MORNING + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            job("a", 'schedule = "0 12 * * *"\nwindow = { from = "22:00", to = "06:00" }'),
            ["a 22:00-22:01 window 600"],
        ),
        (
            job("a", 'schedule = "0 17 * * *"\nexpected_duration = "3h"')
            + job("b", 'schedule = { after = "a" }'),
            ["a 17:00-20:00", "b 20:00-20:01"],
        ),
        (
            '[calendars.free]\nweekdays = ["WED", "THU"]\n'
            + job("a", 'schedule = "30 3 29 4 *"\nblackout = "free"\non_blackout = "postpone"\n')
            + job("b", 'schedule = { after = "a" }\nwindow = { from = "18:00", to = "19:00" }'),
            ["b 18:00-18:01 window 1079"],
        ),
        (job("a", 'schedule = "0 17 * * *"') + job("b", 'schedule = { after = "a" }'), []),
        (
            job(
                "a",
                'schedule = "0 17 29 4 *"\nexpected_duration = "4h15m"\n'
                'window = { from = "17:00", to = "18:30", at_end = "checkpoint" }',
            ),
            ["a 17:00-18:15 window 2700"],
        ),
        (
            job("a", 'schedule = "30 17 * * *"\nwindow = { from = "22:00", to = "23:00" }\nstart_by = "1h"'),
            ["a missed: window x1 window 60"],
        ),
    ],
)
def test_what_was_due_before_may_live_in_the_night(tmp_path: Path, text: str, expected: list[str]) -> None:
    """What waits or runs when the night begins is part of it, and what comes after it; what is over is not."""
    assert lines(night(configuration(tmp_path, text), None)) == expected
    days_before = Situation(EVENING - timedelta(days=9))
    assert lines(night(configuration(tmp_path, text), days_before)) == expected
    assert lines(night(configuration(tmp_path, text))) == [], "now that is known from the state"


async def test_the_situation_is_read_from_the_state(tmp_path: Path) -> None:
    """Pauses in force, runs that are not finished, and what parents left."""
    store = Store.open(tmp_path / "state.db")
    waiting = live("a", State.PENDING)
    ended = replace(live("p", State.FINISHED), outcome=Outcome.SUCCEEDED)
    await store.write(insert_runs, waiting)
    await store.write(write_pauses, Pause("b", EVENING))
    await store.write(write_pauses, Pause("c", EVENING, EVENING + timedelta(hours=1)))
    child = Job("child", "child", "noop", schedules=(After(("p", "q")),))
    await store.write(
        lambda connection, runs: [hand_over(connection, runs, successions([child]), EVENING)], ended
    )
    found = store.read_now(read_situation, EVENING + timedelta(hours=2))
    store.close()
    assert (found.live, [*found.pauses]) == ([waiting], ["b"])
    assert found.left == {("child", "p"): Outcome.SUCCEEDED}


def test_a_child_runs_between_its_start_and_its_end_alone(tmp_path: Path) -> None:
    """What ends before the child's `start`, or when its `end` has come, has nobody after it, as in the daemon."""
    text = job("a", 'schedule = "0 2,4,6 * * *"')
    text += job("b", 'schedule = { after = "a" }\nstart = 2026-05-02T03:00:00Z\nend = 2026-05-02T05:00:00Z')
    assert [line for line in lines(night(configuration(tmp_path, text))) if line[0] == "b"] == [
        "b 04:01-04:02"
    ]


def test_a_night_of_every_second_is_simulated(tmp_path: Path) -> None:
    """Its runs end within their second, and nothing is left out."""
    text = job("tick", 'schedule = { every = "1s" }\nexpected_duration = "500ms"')
    runs = night(configuration(tmp_path, text))
    assert [run.outcome for run in runs] == [Outcome.SUCCEEDED] * 14 * 3600


def test_runs_beside_each_other_use_every_slot(tmp_path: Path) -> None:
    """One of every second that takes ten: ten are going at a time, and with sixteen slots none waits."""
    text = job("tick", 'schedule = { every = "1s" }\nexpected_duration = "10s"\noverlap = "allow"')
    runs = simulate(
        configuration(tmp_path, text, "max_runs = 16"),
        {"tick": Expected(timedelta(seconds=10), "assumed")},
        EVENING,
        EVENING + timedelta(minutes=30),
        Situation(EVENING),
    )
    assert [(run.outcome, run.started_at == run.fire_at) for run in runs] == [
        (Outcome.SUCCEEDED, True)
    ] * 1800


def test_too_many_runs_are_refused(tmp_path: Path) -> None:
    """Five jobs of every second are more than anybody would look at, and that is said."""
    text = "".join(job(f"tick-{number}", 'schedule = { every = "1s" }') for number in range(5))
    with pytest.raises(SimulationTooLargeError, match="200000"):
        night(configuration(tmp_path, text))


async def test_durations_come_from_the_ledger(tmp_path: Path) -> None:
    """The median of the last successes counts; without any what the configuration says, else a minute."""
    text = job("known", 'schedule = "manual"') + job("said", 'schedule = "manual"\nexpected_duration = "7m"')
    config = configuration(tmp_path, text + job("new", 'schedule = "manual"'))
    store = Store.open(tmp_path / "state.db")
    took = {"fast": 10, "slow": 50, "median": 20}
    runs = [
        Run(
            name, "known", name, "http_call", RunTrigger.MANUAL, EVENING, state=State.FINISHED,
            outcome=Outcome.SUCCEEDED, started_at=EVENING, finished_at=EVENING + timedelta(seconds=seconds),
        )
        for name, seconds in took.items()
    ]  # fmt: skip
    for run in runs:
        await store.write(insert_runs, run)
    found = store.read_now(expected_durations, list(config.jobs.values()))
    store.close()
    assert found == {
        "known": Expected(timedelta(seconds=20), "ledger"),
        "said": Expected(timedelta(minutes=7), "expected_duration"),
        "new": Expected(timedelta(minutes=1), "assumed"),
    }
