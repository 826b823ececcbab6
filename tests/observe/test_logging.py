"""Log lines: formats, levels, redaction, and an emitter that never raises."""

import io
import json
import logging
import sys
from datetime import UTC, datetime

import pytest

from erpsync.core.redaction import Redactor
from erpsync.observe.logging import ForeignHandler, configure_logging, emitter
from erpsync.observe.output import plugins_print_to

SECRET = "correct-horse-Батерия-\"staple'"


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line_has_time_level_event_and_keys() -> None:
    """A JSON line begins with at, level and event, and carries the keys; instants are UTC with Z."""
    stream = io.StringIO()
    emit = emitter(configure_logging("auto", "info", Redactor(), stream))
    emit("run.finished", job="products", at_instant=datetime(2026, 3, 1, tzinfo=UTC), counts={"read": 3})
    (line,) = lines(stream)
    assert list(line)[:3] == ["at", "level", "event"]
    assert (line["level"], line["event"], line["job"]) == ("info", "run.finished", "products")
    assert line["at_instant"] == "2026-03-01T00:00:00Z"
    assert str(line["at"]).endswith("Z")


def test_console_line_is_readable() -> None:
    """A console line shows event and keys as key=value, without colour where there is no terminal."""
    stream = io.StringIO()
    emitter(configure_logging("console", "info", Redactor(), stream))("daemon.started", jobs=4)
    assert "daemon.started" in stream.getvalue()
    assert "jobs=4" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_levels_below_the_configured_one_are_left_out() -> None:
    """A debug event is not written at level info; observers are told nevertheless."""
    stream, seen = io.StringIO(), []
    logger = configure_logging("json", "info", Redactor(), stream)
    emit = emitter(logger, [lambda event, fields: seen.append((event, dict(fields)))])
    emit("run.started", level="debug", job="x")
    assert stream.getvalue() == ""
    assert seen == [("run.started", {"job": "x"})]


@pytest.mark.parametrize("style", ["json", "console"])
def test_secrets_are_removed_however_deep(style: str) -> None:
    """A learnt secret and anything that looks like a token leave no trace in a line, in lists and tables too."""
    stream, redactor = io.StringIO(), Redactor()
    redactor.learn(SECRET)
    emit = emitter(configure_logging(style, "info", redactor, stream))  # type: ignore[arg-type]
    token = "eyJhbGciOi.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    emit(
        "attempt.failed",
        message=f"bad {SECRET}",
        deep={"list": [f"Bearer {token}", SECRET]},
        error=ValueError(SECRET),
    )
    output = stream.getvalue()
    assert output.count("[redacted]") >= 4
    for part in (SECRET, json.dumps(SECRET)[1:-1], "staple", token):
        assert part not in output


def test_a_broken_observer_or_stream_stops_nobody() -> None:
    """An observer that raises is reported and the line is still written; a closed stream is survived."""
    stream, redactor = io.StringIO(), Redactor()

    def broken(_event: str, _fields: object) -> None:
        raise RuntimeError("no")

    emit = emitter(configure_logging("json", "info", redactor, stream), [broken])
    emit("run.started", job="x")
    assert [line["event"] for line in lines(stream)] == ["observer.failed", "run.started"]
    stream.close()
    emit("run.started", job="x")


def test_libraries_speak_through_events() -> None:
    """A library's warning becomes library.warned with the logger's name and no secret; its chatter is dropped."""
    stream, redactor = io.StringIO(), Redactor()
    redactor.learn(SECRET)
    handler = ForeignHandler(emitter(configure_logging("json", "info", redactor, stream)))
    logger = logging.Logger("somebody")
    logger.addHandler(handler)
    logger.info("chatter")
    logger.warning("look at %s", SECRET)
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("library.warned", "warning", "somebody")
    assert line["message"] == "look at [redacted]"


def test_what_is_printed_in_pieces_is_seen_as_one() -> None:
    """Lines are held back until they end: two halves of a secret do not pass, and nothing is lost at the end."""
    redactor, inner = Redactor(), io.StringIO()
    redactor.learn(SECRET)
    with plugins_print_to(inner, redactor):
        print("a", SECRET[:9], sep="", end="", flush=True)
        print(SECRET[9:], end="")
        assert inner.getvalue() == ""
        print("\nthe last words", end="")
    assert inner.getvalue() == "a[redacted]\nthe last words\n"


def test_what_is_printed_past_the_redirection_and_what_is_endless() -> None:
    """The interpreter's own streams lead there too, and a line without an end is parted beside a secret."""
    inner, redactor = io.StringIO(), Redactor()
    redactor.learn(SECRET)
    with plugins_print_to(inner, redactor):
        assert sys.__stderr__ is not None
        assert sys.__stdout__ is not None
        sys.__stderr__.write(f"past it {SECRET}\n")
        sys.__stdout__.write(f"{'.' * (64 * 1024 - 5)}{SECRET}")
        sys.__stdout__.write("." * 70_000)
    assert "past it [redacted]\n" in inner.getvalue()
    assert not any(SECRET[at : at + 4] in inner.getvalue() for at in range(len(SECRET) - 3))
    assert sys.__stderr__ is not inner
