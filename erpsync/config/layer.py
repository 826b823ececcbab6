"""The layers that a job's keys come from, and where a key stands in them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from erpsync.config.document import Document, Table
from erpsync.config.source import Keys

Layer = Literal["default", "defaults", "job", "instance", "environment"]
"""What gave a key of a job, the weakest first."""


def merge(lower: Mapping[str, object], upper: Mapping[str, object]) -> Table:
    """`upper` over `lower`: tables key by key, everything else replaces."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


@dataclass(frozen=True, slots=True)
class Spot:
    """One job before it is read: its definition and the instance it runs at, if any."""

    document: Document
    definition: str
    instance: str | None

    @property
    def layers(self) -> Iterator[tuple[Layer, Keys]]:
        """Where the job's keys may stand, the strongest first."""
        if self.instance is not None:
            yield "instance", ("instances", self.instance, "jobs", self.definition)
        yield "job", ("jobs", self.definition)
        yield "defaults", ("defaults",)

    def origin(self, keys: Keys) -> tuple[Layer, Keys] | None:
        """The layer that gives the value at `keys`, and the keys there; None where it is a default."""
        for layer, prefix in self.layers:
            there = self.document.existing((*prefix, *keys))
            if len(there) == len(prefix) + len(keys):
                return layer, there
        return None

    def where(self, keys: Keys) -> Keys:
        """The keys in the document of a value, or of the nearest table around it that is really there."""
        for length in range(len(keys), 0, -1):
            origin = self.origin(keys[:length])
            if origin is not None:
                return origin[1]
        return ("jobs", self.definition)
