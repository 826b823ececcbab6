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
from erpsync.daemon.plan import plan_change
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
