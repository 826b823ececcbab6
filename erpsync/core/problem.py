"""A problem in the configuration, with its place and its remedy."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: a stable `code`, a place (1-based line and column, None where there is none) and help.

    `source` is the text of the line, for the caret; it is not part of the JSON form.
    """

    code: str
    severity: Severity
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    key: str = ""
    help: str = ""
    source: str = ""

    def without(self, redact: Callable[[str], str]) -> "Problem":
        """The same, with nothing in its words that `redact` takes out."""
        return replace(self, message=redact(self.message), help=redact(self.help), source=redact(self.source))

    def text(self) -> str:
        """As people read it: code and message, place, the line with a caret, help."""
        lines = [f"{self.severity}[{self.code}]: {self.message}"]
        if self.file is not None:
            place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
            lines.append(f"  --> {place}")
        if self.source and self.line is not None:
            gutter = " " * len(str(self.line))
            lines.append(f" {gutter} |")
            lines.append(f" {self.line} | {self.source}")
            lines.append(f" {gutter} | {' ' * ((self.column or 1) - 1)}^")
        if self.help:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)

    def document(self) -> dict[str, object]:
        """The public JSON form (design section 4)."""
        names = ("code", "severity", "file", "line", "column", "key", "message", "help")
        return {name: getattr(self, name) for name in names}
