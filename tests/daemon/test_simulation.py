"""The schedule in virtual time, against what one can work out by hand."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from erpsync.config.configuration import Configuration
from erpsync.config.load import load_configuration
from erpsync.core.run import Outcome, Run, RunTrigger, State
from erpsync.daemon.simulation import (
    Expected,
    SimulatedRun,
    SimulationTooLargeError,
    configured_duration,
    expected_durations,
    simulate,
)
from erpsync.store.ledger import insert_runs
from erpsync.store.state import Store

EVENING = datetime(2026, 5, 1, 18, tzinfo=UTC)
MORNING = EVENING + timedelta(hours=14)


def job(name: str, keys: str) -> str:
    return f'[jobs.{name}]\nplugin = "http_call"\nwith = {{ url = "https://example.org/" }}\n{keys}\n'


def configuration(folder: Path, text: str, daemon: str = "") -> Configuration:
    file = folder / "erpsync.toml"
    file.write_text(f'[daemon]\ndata = "data"\n{daemon}\n{text}')
    return load_configuration(file, {})


def night(config: Configuration) -> list[SimulatedRun]:
    expected = {name: configured_duration(job) for name, job in config.jobs.items()}
    return simulate(config, expected, EVENING, MORNING)


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
        "often skipped: overlap x3",
        "often 19:00-20:00",
        "often skipped: overlap x1",
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


def test_too_many_runs_are_refused(tmp_path: Path) -> None:
    """A job of every second is more than anybody would look at, and that is said at once."""
    config = configuration(tmp_path, job("tick", 'schedule = { every = "1s" }\noverlap = "allow"'))
    with pytest.raises(SimulationTooLargeError, match="20000"):
        night(config)


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
