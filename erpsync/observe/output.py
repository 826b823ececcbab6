"""Standard output of a process that runs plugins: what they print passes the redactor like everything else."""

import io
import sys
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
        if len(rest) > 2 * _LONGEST:  # the second half is longer than any secret that begins in the first
            at = self._redactor.before(rest, _LONGEST)
            lines, end, rest = lines + end + rest[:at], "\n", rest[at:]
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
    """While this holds, both standard streams lead to `stream`, redacted: output of ours is written elsewhere.

    So do the interpreter's own names of them. What is written to descriptors 1 and 2 themselves is out of reach:
    they are those of `stream` too.
    """
    redacted = RedactedStream(stream, redactor)
    original = sys.__stdout__, sys.__stderr__
    with redirect_stdout(redacted), redirect_stderr(redacted):
        sys.__stdout__ = sys.__stderr__ = redacted  # type: ignore[misc,assignment]  # made for such a purpose
        try:
            yield
        finally:
            sys.__stdout__, sys.__stderr__ = original  # type: ignore[misc]
            redacted.finish()
