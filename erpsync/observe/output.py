"""Standard output of a process that runs plugins: what they print passes the redactor like everything else."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

from erpsync.core.redaction import Redactor

_LONGEST = 64 * 1024  # characters that are held back for the end of their line


class RedactedStream(io.TextIOBase):
    """Writes whole lines to `inner`, without secrets: one that is printed piece by piece is seen as one."""

    def __init__(self, inner: TextIO, redactor: Redactor) -> None:
        self._inner = inner
        self._redactor = redactor
        self._begun = ""

    def write(self, text: str, /) -> int:
        lines, end, rest = (self._begun + text).rpartition("\n")
        if len(rest) > _LONGEST:
            lines, end, rest = lines + end + rest, "\n", ""
        self._begun = rest
        if end:
            self._inner.write(self._redactor(lines) + end)
        return len(text)

    def flush(self) -> None:
        """What is a line is out; what is none waits for its end."""
        self._inner.flush()

    def finish(self) -> None:
        """The last words, line or not."""
        if self._begun:
            self.write("\n")
        self.flush()

    def writable(self) -> bool:
        return True


@contextmanager
def plugins_print_to(stream: TextIO, redactor: Redactor) -> Iterator[None]:
    """While this holds, both standard streams lead to `stream`, redacted: output of ours is written elsewhere."""
    redacted = RedactedStream(stream, redactor)
    with redirect_stdout(redacted), redirect_stderr(redacted):
        try:
            yield
        finally:
            redacted.finish()
