"""What a plan says of cursors, and how it is printed."""

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpsync.cli.plan import toml_text
from erpsync.config.load import load_configuration
from erpsync.daemon.plan import PlannedJob, plan_change
from erpsync.store.cursors import History

TEXT = """
[jobs.products]
plugin = "mirror"
[jobs.products.with]
entity = "General_Products_Products"
page_size = 100
target = { url = "sqlite:///p.db", table = "products" }
"""


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("Products_Products", "Products_Groups"), "all is read anew, for other with.entity"),
        (('table = "products"', 'table = "goods"'), "all is read anew, for other with.target.table"),
        (("100", "200"), ""),
        (('"mirror"', '"http_call"'), "goes on from 2026 with other plugin"),
    ],
)
def test_what_becomes_of_a_cursor(tmp_path: Path, edit: tuple[str, str], said: str) -> None:
    """A plugin says which of its settings its cursor depends on: those let it begin anew, others do nothing."""
    path = tmp_path / "erpsync.toml"
    path.write_text(TEXT)
    before = load_configuration(path, {})
    path.write_text(TEXT.replace(*edit))
    cursor_of = {"mirror": ("entity", "target")}
    found = plan_change(
        before,
        load_configuration(path, {}),
        {"products": History(3, "2026")},
        datetime(2026, 1, 1, tzinfo=UTC),
        lambda plugin: cursor_of.get(plugin, ()),
    )
    assert said in found.jobs[0].at_stake
    assert bool(said) is bool(found.jobs[0].at_stake)


AA = """
[jobs.aa]
plugin = "mirror"
timeout = "10m"
with = { entity = "Products" }
"""
BB = """
[jobs.bb]
formerly = ["aa"]
plugin = "mirror"
timeout = "20m"
with = { entity = "Groups" }
"""


def plan_of(tmp_path: Path, before: str, after: str, history: dict[str, History]) -> dict[str, PlannedJob]:
    """The plan from one text to the other, by job."""
    path = tmp_path / "erpsync.toml"
    path.write_text(before)
    old = load_configuration(path, {})
    path.write_text(after)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    found = plan_change(old, load_configuration(path, {}), history, now, lambda plugin: ("entity",))
    return {each.job: each for each in found.jobs}


def test_a_renamed_job_shows_what_else_changes(tmp_path: Path) -> None:
    """The other changed keys and the cursor that they let begin anew, as with a job that keeps its name."""
    found = plan_of(tmp_path, AA, BB, {"aa": History(2, "2")})
    assert (found.keys(), found["bb"].change, found["bb"].former) == ({"bb"}, "renamed", "aa")
    assert [change.key for change in found["bb"].keys] == ["timeout", "with.entity"]
    assert found["bb"].at_stake == "its cursor 2 is left, and all is read anew, for other with.entity"


def test_a_name_with_a_history_of_its_own_takes_none_over(tmp_path: Path) -> None:
    """What is left behind is said beforehand, and from which cursor the job goes on instead."""
    found = plan_of(tmp_path, AA, BB, {"aa": History(2, "2"), "bb": History(1, "1")})
    assert {name: each.change for name, each in found.items()} == {"aa": "removed", "bb": "added"}
    left = "the history of 2 runs and its cursor 2 are left behind, for the state knows bb already"
    assert left in found["aa"].at_stake
    assert found["bb"].at_stake == "it goes on from its cursor 1"


def test_a_job_that_comes_back_goes_on_from_its_cursor(tmp_path: Path) -> None:
    """Its removal does not call the cursor lost, and its return names it; so under another name."""
    gone = plan_of(tmp_path, AA, "", {"aa": History(2, "2")})["aa"]
    unless = 'unless a job has this name again or says formerly = ["aa"]'
    assert gone.at_stake == f"the history of 2 runs and its cursor 2, {unless}"
    back = plan_of(tmp_path, "", AA, {"aa": History(2, "2")})["aa"]
    assert (back.change, back.at_stake) == ("added", "it goes on from its cursor 2")
    heir = plan_of(tmp_path, "", BB, {"aa": History(2, "2")})["bb"]
    assert (heir.change, heir.former, heir.at_stake) == ("renamed", "aa", "it goes on from its cursor 2")


def test_a_job_without_runs_has_nothing_at_stake(tmp_path: Path) -> None:
    """What the state knows of it is no more than that it was there."""
    assert plan_of(tmp_path, AA, "", {"aa": History(0, None)})["aa"].at_stake == ""


_WORDS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=8)
_VALUES = st.recursive(
    st.booleans() | st.integers(-(2**40), 2**40) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
)


@given(_VALUES)
def test_values_are_printed_as_they_are_written(value: object) -> None:
    """What a plan prints can be pasted into a file."""
    text = toml_text(value)
    assert tomllib.loads(f"value = {text}")["value"] == json.loads(json.dumps(value))
