"""What a plugin gets, without any client: counts, cursor, files, dead letters, checkpoints."""

import json
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from erpsync import Column, ConfigProblem, Counts, JobContext, JobResult, Settings, Target
from erpsync.core.clock import ManualClock
from erpsync.core.errors import RunCancelledError
from erpsync.core.event import Level
from erpsync.plugins.context import Cursor


class Notes:
    """A Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []
        self.counts: list[Counts] = []
        self.steps: list[tuple[int, int | None]] = []
        self.stop = False

    def log(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        self.lines.append((level, event, dict(fields)))

    def counted(self, counts: Counts) -> None:
        self.counts.append(counts)

    def progress(self, done: int, total: int | None) -> None:
        self.steps.append((done, total))

    def stopping(self) -> bool:
        return self.stop


def context(folder: Path, notes: Notes | None = None, **changes: Any) -> JobContext[Settings]:
    return JobContext(
        **{
            "settings": Settings(),
            "job": "products",
            "run_id": "r1",
            "reporter": notes or Notes(),
            "data": folder / "data",
            "artifacts": folder / "artifacts",
            "dead_letters": folder / "dead" / "r1.jsonl",
            "clock": ManualClock(datetime(2026, 1, 1, tzinfo=UTC)),
            **changes,
        }
    )


def test_counts_add_up_and_are_the_result(tmp_path: Path) -> None:
    """Every count is told as the total so far, and the result holds it with a note."""
    notes = Notes()
    ctx = context(tmp_path, notes)
    ctx.count(read=2, written=1)
    ctx.count(read=3, unchanged=4)
    assert notes.counts == [Counts(read=2, written=1), Counts(read=5, written=1, unchanged=4)]
    assert ctx.result("done") == JobResult(Counts(read=5, written=1, unchanged=4), "done")
    ctx.progress(5, 10)
    assert notes.steps == [(5, 10)]


def test_log_lines_go_to_the_reporter(tmp_path: Path) -> None:
    """Each level has its method; keys travel as they are."""
    notes = Notes()
    log = context(tmp_path, notes).log
    log.debug("a.b", n=1)
    log.info("a.c")
    log.warning("a.d")
    log.error("a.e")
    assert notes.lines == [
        ("debug", "a.b", {"n": 1}),
        ("info", "a.c", {}),
        ("warning", "a.d", {}),
        ("error", "a.e", {}),
    ]


def test_a_checkpoint_ends_the_run_only_when_asked(tmp_path: Path) -> None:
    """A checkpoint passes until somebody wants the run to stop."""
    notes = Notes()
    ctx = context(tmp_path, notes)
    ctx.checkpoint()
    notes.stop = True
    with pytest.raises(RunCancelledError):
        ctx.checkpoint()


def test_the_cursor_is_staged_not_moved(tmp_path: Path) -> None:
    """Staging leaves the value as it was read."""
    ctx = context(tmp_path, cursor=Cursor("5"))
    ctx.cursor.stage("7")
    assert (ctx.cursor.value, ctx.cursor.staged) == ("5", "7")
    number: Any = 8
    with pytest.raises(TypeError, match="a cursor is text, not int"):
        ctx.cursor.stage(number)
    assert ctx.cursor.staged == "7"


def test_an_artifact_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """Inside the block nothing has the name; a failed block leaves no file; the file is private."""
    ctx = context(tmp_path)
    final = tmp_path / "artifacts" / "deep" / "a.bin"
    with ctx.artifact("deep/a.bin") as file:
        file.write(b"first")
        assert not final.exists()
    assert final.read_bytes() == b"first"
    assert stat.S_IMODE(final.stat().st_mode) == 0o600

    with pytest.raises(TypeError), ctx.artifact("deep/a.bin") as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert final.read_bytes() == b"first"
    assert [path.name for path in final.parent.iterdir()] == ["a.bin"]


def test_a_dry_run_leaves_no_artifact(tmp_path: Path) -> None:
    """A dry run may write its files, they do not stay."""
    with context(tmp_path, dry_run=True).artifact("a.bin") as file:
        file.write(b"x")
    assert list((tmp_path / "artifacts").iterdir()) == []


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x"])
def test_artifacts_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    """A name that leads elsewhere is refused."""
    with pytest.raises(ValueError, match="inside the folder"), context(tmp_path).artifact(name):
        pass


def test_a_dead_letter_is_counted_and_kept(tmp_path: Path) -> None:
    """Failed rows are lines of a private file, exact numbers included, with the error redacted."""
    ctx = context(tmp_path, redact=lambda text: text.replace("s3cret", "[redacted]"))
    ctx.dead_letter(
        {"Id": 1, "Price": Decimal("12.10"), "At": datetime(2026, 1, 2, tzinfo=UTC)}, "bad s3cret"
    )
    ctx.dead_letter({"Id": 2}, ValueError("no such product"))
    file = tmp_path / "dead" / "r1.jsonl"
    first, second = map(json.loads, file.read_text().splitlines())
    assert first == {
        "at": "2026-01-01T00:00:00Z",
        "attempt": 1,
        "error": "bad [redacted]",
        "row": {"Id": 1, "Price": "12.10", "At": "2026-01-02T00:00:00Z"},
    }
    assert second["error"] == "no such product"
    assert ctx.counts.failed == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(TypeError, match="not str"):
        ctx.dead_letter("7", "no row")  # type: ignore[arg-type]  # it could not be taken up again
    assert ctx.counts.failed == 2


def test_clients_that_are_not_there_are_a_problem_of_the_configuration(tmp_path: Path) -> None:
    """A plugin that asks for the API in a job without an instance is told so."""
    ctx = context(tmp_path)
    with pytest.raises(ConfigProblem, match=r"no ERP\.net instance"):
        _ = ctx.erp
    with pytest.raises(ConfigProblem, match="no HTTP client"):
        _ = ctx.http


async def test_a_sink_lies_in_the_data_folder_and_knows_the_run(tmp_path: Path) -> None:
    """ctx.sink gives the async and the blocking form; runs with parameters move no watermark."""
    target, columns = Target(url="sqlite:///t.db", table="t"), [Column("Id")]
    async with context(tmp_path).sink(target, columns) as sink:
        await sink.upsert([{"Id": "1"}])
        await sink.finish("2026")
    with context(tmp_path, params={"set": {"x": 1}}).sink(target, columns) as blocking:
        assert blocking.watermark == "2026"
        blocking.finish("2027")
    with context(tmp_path, dry_run=True).sink(target, columns) as blocking:
        assert blocking.watermark == "2026"
    assert (tmp_path / "data" / "t.db").exists()
