"""Log lines: structlog turns events into JSON for machines or aligned text for people, without secrets."""

import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, TextIO, cast

import msgspec
import structlog
from structlog.typing import BindableLogger, EventDict, Processor, WrappedLogger

from erpsync.core.event import Emit, Level
from erpsync.core.redaction import Redactor
from erpsync.core.run import utc_text

Observer = Callable[[str, Mapping[str, object]], None]
"""Is told every event with its keys, log level or not: metrics, the follower of one run."""

_LEVELS: Mapping[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_FOREIGN = ("uvicorn", "apscheduler", "authlib", "httpx2", "asyncio")


def configure_logging(
    format: Literal["auto", "console", "json"],  # noqa: A002 - the configuration's word
    level: Level,
    redactor: Redactor,
    stream: TextIO | None = None,
) -> BindableLogger:
    """A logger on `stream` (standard error); "auto" is text for a terminal and JSON for all else. Times are UTC.

    JSON lines have the keys at (UTC), level, event and the event's own. Nothing global of structlog is touched.
    """
    stream = stream or sys.stderr
    redaction = Redaction(redactor)
    processors: list[Processor] = [redaction.render]
    if format == "console" or (format == "auto" and stream.isatty()):
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%SZ", utc=True)
        console = structlog.dev.ConsoleRenderer(colors=stream.isatty())
        processors = [structlog.processors.add_log_level, stamp, redaction.clean, console]
    return cast(
        "BindableLogger",
        structlog.wrap_logger(
            structlog.WriteLogger(stream),
            processors=processors,
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        ),
    )


def emitter(
    logger: BindableLogger, observers: Sequence[Observer] = (), *, without: Collection[str] = ()
) -> Emit:
    """The Emit that the rooms are given: a line in the log, and every observer told; it never raises.

    Events `without` a line are told to observers only.
    """
    methods: dict[str, Callable[..., object]] = {name: getattr(logger, name) for name in _LEVELS}

    def write(event: str, level: Level, fields: Mapping[str, object]) -> None:
        with suppress(Exception):  # a full disk or a closed pipe behind the log stops no run
            methods[level](event, **fields)

    def emit(event: str, /, *, level: Level = "info", **fields: object) -> None:
        for observer in observers:
            try:
                observer(event, fields)
            except Exception as error:  # noqa: BLE001 - watching must not stop what is watched
                write("observer.failed", "error", {"observed": event, "error_type": type(error).__name__})
        if event not in without:
            write(event, level, fields)

    return emit


class ForeignHandler(logging.Handler):
    """What libraries say at warning or above becomes the event library.warned."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(logging.WARNING)
        self._tell = emit

    def emit(self, record: logging.LogRecord) -> None:
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        error = type(record.exc_info[1]).__name__ if record.exc_info and record.exc_info[1] else None
        fields: dict[str, object] = {"error_type": error} if error else {}
        self._tell("library.warned", level=level, logger=record.name, message=record.getMessage(), **fields)


def adopt_foreign_logs(emit: Emit) -> None:
    """Libraries' own loggers speak through `emit` from now on, and through nothing else."""
    handler = ForeignHandler(emit)
    for name in _FOREIGN:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)


class Redaction:
    """Passes every string of an event through the redactor, however deep it lies, and renders JSON lines."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._encode = msgspec.json.Encoder(enc_hook=str).encode

    def clean(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """A processor: the event without secrets; instants as text."""
        return {key: self._cleaned(value) for key, value in event.items()}

    def render(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        """The only processor of JSON: one line without secrets.

        A line without escapes shows every string as it is, so one look at the whole line settles most events.
        """
        head = {"at": utc_text(datetime.now(UTC)), "level": method, "event": event["event"]}
        ordered = {**head, **event, **head}
        line = self._encode(ordered).decode()
        if "\\" not in line and self._redactor(line) == line:
            return line
        return self._encode(self.clean(logger, method, ordered)).decode()

    def _cleaned(self, value: object) -> object:
        if isinstance(value, str):
            return self._redactor(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, datetime):
            return utc_text(value)
        if isinstance(value, Mapping):
            return {str(key): self._cleaned(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._cleaned(inner) for inner in value]
        return self._redactor(str(value))
