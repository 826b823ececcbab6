"""Standard output of a process that runs plugins: what they print passes the redactor like everything else."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

from erpsync.core.redaction import Redactor


class RedactedStream(io.TextIOBase):
    """Writes to `inner`, without secrets; a secret printed in two halves is beyond it."""

    def __init__(self, inner: TextIO, redactor: Redactor) -> None:
        self._inner = inner
        self._redactor = redactor

    def write(self, text: str, /) -> int:
        self._inner.write(self._redactor(text))
        return len(text)

    def flush(self) -> None:
        self._inner.flush()

    def writable(self) -> bool:
        return True


@contextmanager
def plugins_print_to(stream: TextIO, redactor: Redactor) -> Iterator[None]:
    """While this holds, both standard streams lead to `stream`, redacted: output of ours is written elsewhere."""
    redacted = RedactedStream(stream, redactor)
    with redirect_stdout(redacted), redirect_stderr(redacted):
        yield
