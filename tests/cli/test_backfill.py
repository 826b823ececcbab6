"""`backfill`: slices of the past at a daemon, behind everything else."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli.conftest import Type
from tests.cli.test_with_daemon import daemon, slow, type_  # noqa: F401 - fixtures
from tests.daemon.conftest import eventually
from tests.servers.program import Program

PAST = ("--from", "2026-01-01", "--to", "2026-01-03T12:00", "--slice", "1d")


def test_the_past_is_worked_through_in_slices(daemon: Program) -> None:  # noqa: F811
    """Each slice is one run with its window; asked again nothing is done twice, under another name it is."""
    done = type_("backfill", "say", *PAST, "--format", "json")
    runs = json.loads(done.stdout)
    assert (done.returncode, [run["outcome"] for run in runs]) == (0, ["succeeded"] * 3), done
    days = [f"2026-01-0{day}T{hour}:00:00Z" for day, hour in ((1, "00"), (2, "00"), (3, "00"), (3, "12"))]
    assert [(run["window"]["from"], run["window"]["to"]) for run in runs] == [*pairwise(days)]
    assert {run["trigger"] for run in runs} == {"backfill"}
    same = json.loads(type_("backfill", "say", *PAST, "--format", "json").stdout)
    assert [run["id"] for run in same] == [run["id"] for run in runs]
    again = type_("backfill", "say", *PAST, "--name", "again")
    assert "3 slices: 3 succeeded" in again.stdout
    assert type_("backfill", "fail", *PAST).returncode == 1
    assert type_("backfill", "say", *PAST[:4], "--slice", "1s").returncode == 2
    assert type_("backfill", "nobody", *PAST).returncode == 2


def test_slices_let_other_runs_go_before(daemon: Program, slow: Path) -> None:  # noqa: F811
    """A run that is asked for while slices wait is not skipped for overlap, and starts before the next slice."""
    slices = json.loads(type_("backfill", "slow", *PAST, "--no-wait", "--format", "json").stdout)
    eventually(lambda: "4 of 10" in type_("status").stdout, "the first slice has begun")
    other = json.loads(type_("trigger", "slow", "--format", "json").stdout)
    assert other["state"] == "pending"
    (slow / "go").touch()
    assert type_("backfill", "slow", *PAST).returncode == 0
    runs = {run["id"]: run for run in json.loads(type_("runs", "slow", "--format", "json").stdout)}
    order = sorted(runs, key=lambda run_id: str(runs[run_id]["started_at"]))
    assert order == [slices[0]["id"], other["id"], slices[1]["id"], slices[2]["id"]]
    assert {run["outcome"] for run in runs.values()} == {"succeeded"}


@pytest.mark.parametrize(
    ("option", "value"), [("--slice", "0s"), ("--slice", "999ms"), ("--slice", "367d"), ("--name", "a b")]
)
def test_what_is_no_slice_and_no_name_is_refused_by_its_option(
    erpsync: Type, option: str, value: str
) -> None:
    """Before anybody is asked: 2, with the option and what it takes."""
    said = erpsync("backfill", "say", *PAST[:4], option, value)
    assert (said.code, option in said.err, "body" in said.err) == (2, True, False), said


@pytest.mark.usefixtures("folder")
def test_a_backfill_needs_a_daemon() -> None:
    """Where no daemon runs there is nobody who could take turns: 69."""
    assert type_("backfill", "say", *PAST).returncode == 69
