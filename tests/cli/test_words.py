"""Exit codes, instants, tables and the way errors are told."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import pytest

from erpsync.cli.exit_code import code_of_error, code_of_run
from erpsync.cli.following import waiting_text
from erpsync.cli.instant import parse_instant
from erpsync.cli.layout import laid_out, wrapped
from erpsync.cli.main import main
from erpsync.cli.output import LiveLine, Times, inset, printable, run_row, table
from erpsync.core import errors
from erpsync.core.errors import ControlRefusedError, DaemonRefusedError, UnknownJobError
from erpsync.core.run import Run, RunFailure, RunTrigger
from erpsync.version import __version__
from tests.cli.conftest import Type

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError([]), 78),
        (errors.SecretUnavailableError("x"), 78),
        (errors.PluginLoadError("x"), 78),
        (errors.InvalidSettingsError("x"), 78),
        (errors.TokenEndpointError("x", credentials=True), 77),
        (errors.TokenEndpointError("x", retryable=True), 75),
        (errors.DiscoveryError("x"), 75),
        (errors.DiscoveryError("x", retryable=False), 78),
        (errors.UnreachableError("x"), 75),
        (errors.UnauthorizedError("x"), 77),
        (errors.OwnedElsewhereError("x"), 75),
        (errors.StoreUnavailableError("x"), 75),
        (errors.StoreCorruptError("x"), 78),
        (errors.SchemaMismatchError("x"), 78),
        (errors.StoreError("x"), 70),
        (errors.NoDaemonError("x"), 69),
        (UnknownJobError("x"), 2),
        (ControlRefusedError("x"), 77),
        (DaemonRefusedError("x", kind="StoreUnavailableError", retryable=True), 75),
        (DaemonRefusedError("x", kind="ParkedJobError", retryable=False), 78),
        (DaemonRefusedError("x", kind="KeyError", retryable=False), 70),
        (PermissionError(13, "x"), 77),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError(), 70),
    ],
)
def test_errors_and_exit_codes(error: BaseException, code: int) -> None:
    """Each kind of error has the exit code that the command line promises."""
    assert code_of_error(error) == code


@pytest.mark.parametrize(
    ("outcome", "failure", "code"),
    [
        ("succeeded", None, 0),
        ("partial", None, 3),
        ("timed_out", "AttemptTimedOutError", 1),
        ("abandoned", None, 1),
        ("skipped", None, 4),
        ("missed", None, 4),
        ("cancelled", "RunCancelledError", 4),
        ("failed", "RuntimeError", 1),
        ("failed", "UnreachableError", 75),
        ("failed", "AuthFailed", 77),
        ("failed", "ConfigProblem", 78),
        ("failed", "SecretUnavailableError", 78),
        ("failed", "TokenEndpointError", 75),
        ("failed", "BusinessRuleError", 1),
    ],
)
def test_outcomes_and_exit_codes(outcome: str, failure: str | None, code: int) -> None:
    """A run's outcome decides the exit code, of a failed one its cause."""
    run = {"outcome": outcome, "identity": "night", "error": {"type": failure} if failure else None}
    assert code_of_run(run, ()) == code


def test_refused_credentials_are_told_from_a_server_that_is_away() -> None:
    """A token endpoint that failed is temporary unless the identity is refused."""
    run = {"outcome": "failed", "identity": "night", "error": {"type": "TokenEndpointError"}}
    assert (code_of_run(run, {"other"}), code_of_run(run, {"night"})) == (75, 77)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-29T03:30", datetime(2026, 3, 29, 1, 0, tzinfo=UTC)),  # in the gap: the hour after it
        ("2026-05-01", datetime(2026, 4, 30, 21, 0, tzinfo=UTC)),
        ("2026-05-01T10:00:00Z", datetime(2026, 5, 1, 10, 0, tzinfo=UTC)),
        ("14:59", datetime(2026, 5, 1, 11, 59, tzinfo=UTC)),
        ("18:00", datetime(2026, 4, 30, 15, 0, tzinfo=UTC)),
        ("1h30m", datetime(2026, 5, 1, 10, 30, tzinfo=UTC)),
    ],
)
def test_instants_as_people_type_them(text: str, expected: datetime) -> None:
    """Dates and times are in the zone, a time of day is the newest one over, a duration is an age."""
    assert parse_instant(text, "Europe/Sofia", NOW) == (
        expected.replace(hour=1, minute=30) if text == "2026-03-29T03:30" else expected
    )


def test_tables_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe nothing is shortened, coloured, interpreted or padded at the end."""
    table(("run", "why"), [("01abc", "[red]x[/red] " + "y" * 300), ("02", "\x1b[2Jevil")], fold=("why",))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines][:2] == [["run", "why"], ["01abc", "[red]x[/red]", "y" * 300]]
    assert "\x1b" not in lines[2]
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (None, ["01abc  products@acme  held by night, then by day  12:00"]),
        (49, ["01abc  products@acme  held by night, then   12:00", "                      by day"]),
        (30, ["01abc  products@acme  12:00", "    note: held by night, then", "    by day"]),
        (22, ["01abc  products@acme", "    note: held by night,", "    then by day; until:", "    12:00"]),
    ],
)
def test_tables_fit_their_width_and_cut_nothing(width: int | None, lines: list[str]) -> None:
    """Words fold between words; what has no room beside its row stands under it, with its name."""
    row = ("01abc", "products@acme", "held by night, then by day", "12:00")
    columns = ("run", "job", "note", "until")
    told = laid_out(columns, [row], width, fold=("note",), style=lambda _: str, heading=str)
    assert told[1:] == lines


def test_lines_that_go_on_stay_indented() -> None:
    """What is wrapped begins no line of ours: foreign lines that were indented stay so."""
    assert wrapped("one two three four five six", 22, 2) == ["one two three four", "  five six"]
    assert wrapped("    " + "x" * 30 + " y", 24, 2) == ["    " + "x" * 30, "    y"]


def test_foreign_words_cannot_steer_a_terminal() -> None:
    """Control characters are replaced; letters of any script stay."""
    assert (
        printable("Продукт\x1b[31m\r\n") == "Продукт\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}\n"
    )


def test_times_are_in_the_named_zone() -> None:
    """Instants and their JSON form are shown in the zone."""
    times = Times("Europe/Sofia")
    assert times(NOW) == times("2026-05-01T12:00:00Z") == "2026-05-01 15:00:00"
    assert times(None) == "-"


def test_no_live_line_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress is shown on a terminal only."""
    line = LiveLine()
    line.show("x")
    line.clear()
    assert capsys.readouterr().err == ""


def test_version_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--version alone prints name and version and returns."""
    monkeypatch.setattr(sys, "argv", ["erpsync", "--version"])
    main()
    assert capsys.readouterr().out == f"erpsync {__version__}\n"


def _full() -> TextIO:
    return open("/dev/full", "w")


def _broken() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


@pytest.mark.parametrize("arguments", [["--version"], ["schema"], ["jobs", "--format", "json"], ["--help"]])
@pytest.mark.parametrize(
    ("made", "code", "words"),
    [
        (_full, 75, "error: what was asked for cannot be written: No space left on device\n"),
        (_broken, 141, ""),
        (lambda: None, None, ""),
    ],
)
def test_an_output_that_takes_no_more(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    made: Callable[[], TextIO | None],
    code: int | None,
    words: str,
) -> None:
    """One line where it is full, none where the reader has gone away, and nobody misses what was closed."""
    monkeypatch.setattr(sys, "argv", ["erpsync", *arguments])
    monkeypatch.setattr(sys, "stdout", made())
    ended = None
    try:
        main()
    except SystemExit as end:
        ended = end.code
    assert (ended, capsys.readouterr().err) == (code, words)
    sys.stdout.close()  # as the interpreter does at its end


def test_a_damaged_state(erpsync: Type, folder: Path) -> None:
    """It cannot be used as it is: exit 78 with the remedy."""
    (folder / "data").mkdir()
    (folder / "data" / "erpsync.db").write_bytes(b"no database, but long enough to look like one" * 100)
    said = erpsync("runs")
    assert said.code == 78
    assert "help: erpsync store restore" in said.err


def test_faults_of_our_own(erpsync: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault exits 70 with its kind and no traceback; ERPSYNC_DEBUG shows one."""

    def faulty(*_: object) -> None:
        raise ZeroDivisionError("of ours\nerror: forged")

    monkeypatch.setattr("erpsync.cli.workspace.Workspace.read", faulty)
    said = erpsync("runs")
    assert said.code == 70
    assert "ZeroDivisionError: of ours" in said.err
    assert "Traceback" not in said.err
    assert "\nerror: forged" not in said.err
    monkeypatch.setenv("ERPSYNC_DEBUG", "1")
    assert "Traceback" in erpsync("runs").err


def test_foreign_words_begin_no_line_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """A newline in a cell is shown as a sign, one in a sentence indents what follows."""
    table(("run", "why"), [("01", "evil\n02 fine")], fold=("why",))
    assert capsys.readouterr().out.splitlines()[1:] == ["01   evil ⏎ 02 fine"]
    assert inset("evil\nok") == "evil\n    ok"


def test_a_waiting_run_says_who_has_its_slot() -> None:
    """While a run waits, why it does goes before what an attempt ran into."""
    failure = RunFailure("ThrottledError", "slow down")
    run = Run(
        "r", "job", "at", "plugin", RunTrigger.SCHEDULE, NOW, waiting_for="licence", reason="night has it"
    )
    assert run_row(replace(run, error=failure), Times("UTC"))[-1] == "night has it"
    assert run_row(replace(run, error=failure, reason=None), Times("UTC"))[-1] == "slow down"


@pytest.mark.parametrize(
    ("reason", "error", "at", "said"),
    [
        ("the licence slot of box held by night", None, None, ": the licence slot of box held by night"),
        ("the slot is held", RunFailure("X", "it was full"), None, ": the slot is held"),
        (None, RunFailure("X", "it was full"), NOW, ", next try 12:00:00 (UTC): it was full"),
        (None, None, None, ""),
    ],
)
def test_a_followed_run_says_what_it_waits_for(
    reason: str | None, error: RunFailure | None, at: datetime | None, said: str
) -> None:
    """What the ledger says of this wait comes before what went wrong earlier."""
    waits = Run("r", "ping", "at", "plugin", RunTrigger.MANUAL, NOW, waiting_for="licence")
    told = replace(waits, next_attempt_at=at, reason=reason, error=error).document()
    assert waiting_text(told, Times("UTC", NOW.date())) == f"ping waits for licence{said}"
