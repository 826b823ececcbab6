"""What people and programs see: tables and times for the one, one JSON document for the other."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import date, datetime
from typing import Literal
from zoneinfo import ZoneInfo

from erpsync.core.duration import format_duration
from erpsync.core.redaction import document_without
from erpsync.core.run import Run, RunFailure

Format = Literal["text", "json"]

_redact: Callable[[str], str] = str


def without_secrets(redact: Callable[[str], str]) -> None:
    """From now on whatever this process shows passes `redact`, once more where somebody thought of it before."""
    global _redact  # like the streams themselves there is one in a process
    _redact = redact


_QUIET_SECONDS = 1.0  # what ends sooner needs no progress


def shortened(text: str, longest: int) -> str:
    """`text` as it may be shown, on a terminal no longer than `longest` signs; a file or a pipe takes all of it."""
    text = _redact(text)
    return text if len(text) <= longest or not sys.stdout.isatty() else text[: longest - 1] + "…"


def print_json(document: object) -> None:
    """One document, alone on standard output."""
    sys.stdout.write(json.dumps(document_without(document, _redact), ensure_ascii=False, indent=2) + "\n")


def say(text: str = "") -> None:
    """A line of text for people on standard output."""
    sys.stdout.write(printable(_redact(text)) + "\n")


def note(text: str) -> None:
    """A line beside the result, on standard error; where that takes no more, the result counts nevertheless."""
    with suppress(OSError):
        sys.stderr.write(printable(_redact(text)) + "\n")
        sys.stderr.flush()


def counted(number: int, noun: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """`text` without control characters, which foreign words could use to forge what a terminal shows."""
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" for sign in text
    )


def inset(text: str) -> str:
    """Foreign words for a line of ours: lines they go on with are indented, so that none can pass for ours."""
    return text.replace("\n", "\n    ")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, fold: Sequence[str] = ()) -> None:
    """A table on standard output: fitted to a terminal (`layout.laid_out`), else as wide as it needs.

    Nothing is ever cut. Text in a pipe has no trailing blanks and no colour.
    """
    from erpsync.cli.layout import laid_out  # milliseconds that JSON need not pay

    cells = [[_cell_text(cell) for cell in row] for row in rows]
    style, heading = (_style, _painter(_BOLD)) if _coloured() else (_plain, str)
    lines = laid_out(columns, cells, _width(), fold=fold, style=style, heading=heading)
    sys.stdout.write("".join(line + "\n" for line in lines))


def say_wrapped(text: str, indent: int) -> None:
    """`say`, on a terminal split between words; lines that go on are indented."""
    from erpsync.cli.layout import wrapped

    for line in printable(_redact(text)).split("\n"):
        sys.stdout.write("".join(part + "\n" for part in wrapped(line, _width(), indent)))


def _width() -> int | None:
    """Of the terminal, in cells; None where there is none: a file or a pipe takes any."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _cell_text(cell: object) -> str:
    """On one line: a second one could pass for a row."""
    return printable("" if cell is None else _redact(str(cell))).replace("\n", " ⏎ ")


_BOLD, _RED, _GREEN, _YELLOW, _CYAN = 1, 31, 32, 33, 36  # what terminals understand (ECMA-48, SGR)
_COLOURS = {
    "succeeded": _GREEN,
    "partial": _YELLOW,
    "missed": _YELLOW,
    "failed": _RED,
    "timed_out": _RED,
    "abandoned": _RED,
    "running": _CYAN,
    "parked": _YELLOW,
    "rejected": _RED,
    "login_required": _RED,
    "backoff": _YELLOW,
    "warning": _YELLOW,
    "ok": _GREEN,
    "fresh": _GREEN,
}


def _coloured() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _plain(_cell: str) -> Callable[[str], str]:
    return str


def _style(cell: str) -> Callable[[str], str]:
    colour = _COLOURS.get(cell.partition(",")[0])
    return _painter(colour) if colour else str


def _painter(code: int) -> Callable[[str], str]:
    return lambda text: f"\x1b[{code}m{text}\x1b[0m" if text else ""


class Times:
    """Instants as people read them, in one zone that the heading names; `day` leaves a known date out."""

    def __init__(self, zone: str, day: date | None = None) -> None:
        self.zone = zone
        self._info = ZoneInfo(zone)
        self._day = day

    def __call__(self, instant: datetime | str | None) -> str:
        """Date and time in the zone; "-" where there is none. Text is the ISO form of a document."""
        if instant is None:
            return "-"
        local = self.local(instant)
        return f"{local:%H:%M:%S}" if local.date() == self._day else f"{local:%Y-%m-%d %H:%M:%S}"

    def local(self, instant: datetime | str) -> datetime:
        """The instant in the zone."""
        if isinstance(instant, str):
            instant = datetime.fromisoformat(instant)
        return instant.astimezone(self._info)

    def heading(self) -> str:
        """What a reader must know of the times below."""
        return f"times in {self.zone}" + (f", {self._day}" if self._day else "")


RUN_COLUMNS = ("run", "job", "trigger", "at", "lag", "took", "outcome", "rows", "why")


def print_runs(runs: Sequence[Run], zone: str) -> None:
    """A table of runs under its heading; the date is in the heading where it is the same for all."""
    times = Times(zone)
    days = {times.local(at).date() for run in runs for at in (_at(run), run.fire_until) if at}
    if len(days) == 1:
        times = Times(zone, days.pop())
    say(times.heading())
    table(RUN_COLUMNS, (run_row(run, times) for run in runs), fold=("rows", "why"))


def run_row(run: Run, times: Times) -> tuple[object, ...]:
    """The cells of `RUN_COLUMNS`."""
    at = times(_at(run))
    if run.fire_count != 1:
        at += f" … {times(run.fire_until)} ({run.fire_count if run.fire_count > 0 else 'many'})"
    why = _why(run.error) if run.error and not (run.waiting_for and run.reason) else run.reason or ""
    lag, took = _duration(run.lag_seconds), _duration(run.duration_seconds)
    return run.id, run.job, run.trigger, at, lag, took, _outcome(run), rows_text(run), why


def _why(error: RunFailure) -> str:
    """The message; with the type before it where it is a bare word, like that of a KeyError."""
    return error.message if " " in error.message else f"{error.type}: {error.message}"


def _at(run: Run) -> datetime | None:
    return run.fire_at or run.started_at or run.created_at


def _outcome(run: Run) -> str:
    state = run.outcome or (f"waiting: {run.waiting_for}" if run.waiting_for else run.state)
    return f"{state}, try {run.attempts}" if run.attempts > 1 else str(state)


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def rows_text(run: Run) -> str:
    """The counts that are not zero: "read 1250, written 3"."""
    return ", ".join(f"{kind} {amount}" for kind, amount in run.counts.document().items() if amount) or "-"


class LiveLine:
    """One line on a terminal's standard error that changes in place; silent elsewhere and in the first second."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._stream = sys.stderr  # the terminal itself: what plugins print meanwhile goes by whole lines
        self._people = self._stream.isatty()
        self._shown = ""

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._people and text != self._shown and time.monotonic() - self._since >= _QUIET_SECONDS:
            line, room = printable(_redact(text)), shutil.get_terminal_size().columns - 1
            self._stream.write("\r\x1b[2K" + (line if len(line) <= room else line[: room - 1] + "…"))
            self._stream.flush()
            self._shown = text

    def clear(self) -> None:
        """Leave no trace."""
        if self._shown:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
            self._shown = ""
