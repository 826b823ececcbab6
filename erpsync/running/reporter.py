"""What an attempt tells while it runs: lines for the run's log without secrets, rows so far, progress."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from erpsync.core.clock import Clock
from erpsync.core.event import Level
from erpsync.core.redaction import Redactor
from erpsync.core.run import Counts, utc_text
from erpsync.running.channel import shallow
from erpsync.running.fault import type_name
from erpsync.store.run_log import RunLog

_LONGEST = 16 * 1024  # characters of one value; a log is for reading


class RunReporter:
    """The daemon's ear of one attempt: a Reporter for plugins, and what others may read of it."""

    def __init__(self, run_id: str, run_logs: RunLog, redactor: Redactor, clock: Clock) -> None:
        self.counts = Counts()
        self.done: tuple[int, int | None] | None = None
        self._run_id = run_id
        self._run_logs = run_logs
        self._redactor = redactor
        self._clock = clock
        self._stopping = False

    def log(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        """Append to the run's log; a full disk takes the line, never the run."""
        if not self.is_full():
            said = {self._text(name): self._clean(_shallow(value)) for name, value in fields.items()}
            self._append(level, [self._text(event)], said)

    def printed(self, lines: Sequence[str], level: Level, stream: str) -> None:
        """The same for lines of output: one look for secrets in all of them, for a plugin may print without end."""
        if not self.is_full():
            whole = "\n".join(lines)
            clean = _cut if self._redactor(whole) == whole else self._text
            self._append(level, map(clean, lines), {"stream": stream})

    def is_full(self) -> bool:
        """Whether what is said now is thrown away."""
        return self._run_logs.is_full(self._run_id)

    def _append(self, level: Level, events: Iterable[str], said: Mapping[str, object]) -> None:
        at = utc_text(self._clock.now())
        records = ({"at": at, "level": level, "event": event} for event in events)
        with suppress(OSError):
            self._run_logs.append(self._run_id, *({**record, **said, **record} for record in records))

    def counted(self, counts: Counts) -> None:
        self.counts = counts

    def progress(self, done: int, total: int | None) -> None:
        self.done = (done, total)

    def stopping(self) -> bool:
        return self._stopping

    def stop(self) -> None:
        """From now on checkpoints end the attempt."""
        self._stopping = True

    def parting(self, text: str, at: int) -> int:
        """The last place up to `at` where a text can be parted without parting a secret."""
        return self._redactor.before(text, at)

    def _clean(self, value: object) -> object:
        match value:
            case None | bool() | int() | float():
                return value
            case datetime():
                return utc_text(value) if value.tzinfo else value.isoformat()
            case Mapping():
                return {self._text(name): self._clean(inner) for name, inner in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self._clean(inner) for inner in value]
            case _:
                return self._text(value)

    def _text(self, value: object) -> str:
        """Redacted before it is cut, lest half of a secret be left."""
        text = _plain(value)
        end = 2 * _LONGEST
        if len(text) > end:
            end = self._redactor.before(text[: 2 * end], end)
        return _cut(self._redactor(text[:end]), len(text))


def _shallow(value: object) -> object:
    try:
        return shallow(value)
    except BaseException:  # noqa: BLE001 - as in `_plain`, of a plugin's collection
        return f"<{type_name(value)}>"


def _cut(text: str, length: int = 0) -> str:
    """`text`, of what was `length` characters long, where people can still read it."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({length or len(text)} characters)"


def _plain(value: object) -> str:
    try:
        return str(value).encode(errors="replace").decode()
    except BaseException:  # noqa: BLE001 - a plugin's object may do anything here, and logging never raises
        return f"<{type_name(value)}>"
