"""References to secrets: where a value is found, never the value."""

from dataclasses import dataclass
from typing import Literal

SecretKind = Literal["secret", "env", "file", "command"]


@dataclass(frozen=True, slots=True)
class SecretReference:
    """`{ secret = "name" }`, `{ env = "NAME" }`, `{ file = "path" }` or `{ command = ["pass", "show", "x"] }`.

    `value` has one element except for a command, whose arguments it holds; a file's path is absolute.
    """

    kind: SecretKind
    value: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}:{' '.join(self.value)}"
