"""Events: facts that the rooms tell, and the callable they tell them to."""

from typing import Literal, Protocol

Level = Literal["debug", "info", "warning", "error"]


class Emit(Protocol):
    """Tell an event: a literal name `subject.past_tense`, everything else as keys.

    Never raises and never blocks; the receiver turns events into log lines and metrics. Keys hold plain values
    (strings, numbers, booleans, None, datetimes); secrets and tokens never.
    """

    def __call__(self, event: str, /, *, level: Level = "info", **fields: object) -> None: ...


def silent(event: str, /, *, level: Level = "info", **fields: object) -> None:
    """An Emit that tells nobody."""
