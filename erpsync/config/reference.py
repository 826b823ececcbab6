"""Reading references to secrets out of tables; a literal secret is refused without being repeated."""

from collections.abc import Iterator, Mapping
from typing import cast, get_args

from erpsync.config.source import Keys
from erpsync.core.secret import SecretKind, SecretReference

FORMS = '{ secret = "name" }, { env = "NAME" }, { file = "path" } or { command = ["pass", "show", "x"] }'
_KINDS = get_args(SecretKind)


def reference_from(table: object) -> SecretReference:
    """The reference that a TOML table says.

    Raises:
        ValueError: the table is none; the text completes "<key> …" and never holds the value.
    """
    if isinstance(table, str):
        raise ValueError(f"must be a reference to a secret, not the secret itself: {FORMS}")
    if not isinstance(table, Mapping) or len(table) != 1 or next(iter(table)) not in _KINDS:
        raise ValueError(f"must be a reference to a secret: {FORMS}")
    ((kind, value),) = table.items()
    parts = (tuple(value) if isinstance(value, list) else ()) if kind == "command" else (value,)
    if not parts or not all(isinstance(part, str) and part and "\0" not in part for part in parts):
        raise ValueError(f"must be a reference to a secret: {FORMS}")
    return SecretReference(cast("SecretKind", kind), parts)


def references_in(value: object, keys: Keys = ()) -> Iterator[tuple[Keys, SecretReference]]:
    """Every table inside a plugin's settings that has the form of a reference, with the way to it."""
    if isinstance(value, Mapping):
        try:
            yield keys, reference_from(value)
        except ValueError:
            for key, inner in value.items():
                if isinstance(inner, Mapping | list):
                    yield from references_in(inner, (*keys, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            if isinstance(inner, Mapping | list):
                yield from references_in(inner, (*keys, index))
