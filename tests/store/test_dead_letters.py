"""Which letters of a run count, after several attempts."""

from pathlib import Path

import pytest

from erpsync import Column, Target
from erpsync.plugins.letters import LetterBox
from erpsync.store.dead_letters import DeadLetters
from tests.plugins.test_context import context


def rows(letters: DeadLetters) -> list[tuple[int, object]]:
    return [(letter.attempt, letter.row["Id"]) for letter in letters.read(["r1"])]


def test_of_attempts_that_begin_anew_the_last_one_counts(tmp_path: Path) -> None:
    """What an attempt before has left is met again, or has been mended: also where the last one left nothing."""
    letters = DeadLetters(tmp_path)
    for attempt, ids in ((1, "ab"), (2, "b")):
        box = LetterBox(letters.file("r1"), attempt)
        for row in ids:
            box.add("2026-01-01T00:00:00Z", "refused", {"Id": row})
        letters.close("r1", attempt)
    assert rows(letters) == [(2, "b")]
    letters.close("r1", 3)
    assert rows(letters) == []
    letters.close("r2", 1)
    assert letters.run_ids() == ["r1"], "where nothing failed there is no file"


@pytest.mark.parametrize("moves", [True, False])
def test_rows_behind_a_position_count_whatever_comes_after(tmp_path: Path, moves: bool) -> None:
    """Nobody reads them again, unless the run leaves the position alone."""
    letters = DeadLetters(tmp_path / "dead")
    params = {} if moves else {"x": 1}
    for attempt, first, second in ((1, "a", "b"), (2, "b", "c")):
        ctx = context(tmp_path, attempt=attempt, params=params)
        target = Target(url=f"sqlite:///{tmp_path}/t.db", table="rows")
        with ctx.sink(target, [Column("Id")]) as sink:
            ctx.dead_letter({"Id": first}, "refused")
            sink.upsert([{"Id": "x"}], position={"after": "x"})
            ctx.dead_letter({"Id": second}, "refused")
        letters.close("r1", attempt)
    letters.close("r1", 3)
    assert rows(letters) == ([(1, "a"), (2, "b")] if moves else [])
