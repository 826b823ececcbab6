"""Literals, conditions and paths."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpsync.core.errors import InvalidQueryError
from erpsync.erpnet.query import (
    Reference,
    all_of,
    among,
    at_least,
    at_most,
    check_filter,
    contains,
    equals,
    function_path,
    literal,
    options,
    row_path,
    set_path,
)

ID = UUID("59098bcf-1d5e-4b3c-9c3a-00155d00050a")


class State(Enum):
    RELEASED = "Released"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("O'Neill's", "'O''Neill''s'"),
        ("Кирилица", "'Кирилица'"),
        (ID, str(ID)),
        (Decimal("1E+2"), "100"),
        (Decimal("0.10"), "0.10"),
        (7, "7"),
        (True, "true"),
        (None, "null"),
        (State.RELEASED, "'Released'"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (
            datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=timezone(timedelta(hours=2))),
            "2026-01-02T01:04:05.000600Z",
        ),
        (Reference("General_Products_Products", ID), f"'General_Products_Products({ID})'"),
    ],
)
def test_literals(value: object, text: str) -> None:
    """Each value has one form in a filter."""
    assert literal(value) == text


@pytest.mark.parametrize("value", [1.5, Decimal("NaN"), datetime(2026, 1, 1), b"x", [1]])  # noqa: DTZ001
def test_values_without_a_literal_are_refused(value: object) -> None:
    """Floats, naive instants and the like are refused instead of guessed."""
    with pytest.raises(InvalidQueryError):
        literal(value)


def test_conditions_are_joined() -> None:
    """Conditions read as they are built; what is None counts for nothing."""
    condition = all_of(
        equals("State", "New"),
        None,
        at_least("Number", 5),
        at_most("Number", 9),
        among("Code", ["a", "b"]),
        contains("Name", "x"),
    )
    assert condition == (
        "State eq 'New' and Number ge 5 and Number le 9 and Code in ('a','b') and contains(Name,'x')"
    )
    assert all_of(None, "") is None


@pytest.mark.parametrize("operator", ["or", "not", "ne", "gt", "lt"])
def test_unsupported_operators_are_refused_with_a_way_out(operator: str) -> None:
    """What ERP.net refuses is refused before it is sent, with what to write instead."""
    with pytest.raises(InvalidQueryError) as caught:
        check_filter(f"A eq 1 {operator} B eq 'x'")
    assert f"`{operator}`" in str(caught.value)
    assert caught.value.hint


@given(st.text(max_size=50))
def test_text_in_a_filter_is_only_text(text: str) -> None:
    """No text breaks out of its quotes: operators inside it are not seen, whatever it holds."""
    check_filter(all_of(equals("Name", f" or {text} not ne "), equals("A", 1)) or "")


@pytest.mark.parametrize(
    "condition",
    ["ordering eq 1", "Customer/lt eq 1", "Not eq 'or'", "x eq '' and y eq ' or '''", "notes eq 1"],
)
def test_names_that_look_like_operators_pass(condition: str) -> None:
    """Only operators themselves are refused."""
    check_filter(condition)


@pytest.mark.parametrize("name", ["a/b", "", "Set(1)", "../x", "a b", "1st", "x?y"])
def test_set_names_cannot_smuggle_a_path(name: str) -> None:
    """A set is named by letters, digits and underscores."""
    with pytest.raises(InvalidQueryError):
        set_path(name)


@pytest.mark.parametrize("row_id", ["1", "x')", "", f"{ID}/Lines", f"{{{ID}}}"])
def test_row_ids_are_guids(row_id: str) -> None:
    """An id that is no GUID is refused, not sent."""
    with pytest.raises(InvalidQueryError):
        row_path("Set", row_id)


def test_paths() -> None:
    """Rows, functions and options are written as ERP.net reads them."""
    assert row_path("Set", ID) == f"Set({ID})"
    assert function_path("F", {"p": "x y", "n": 10}) == "F(p='x%20y',n=10)"
    assert function_path("GetVersion", {}) == "GetVersion"
    assert options(
        select=["Id", "Name"], filter="Name eq 'A&B'", orderby="Name desc", expand="Lines", top=5
    ) == ("?$select=Id,Name&$filter=Name%20eq%20'A%26B'&$expand=Lines&$orderby=Name%20desc&$top=5")
    assert options() == ""
