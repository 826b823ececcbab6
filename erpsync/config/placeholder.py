"""Expanding `${…}` in text values after parsing."""

import re
from collections.abc import Callable, Mapping

from erpsync.config.source import Keys

_PLACEHOLDER = re.compile(r"\$(\$?)\{([^{}]*)\}")


def expand(
    value: object, variables: Mapping[str, str], unknown: Callable[[Keys, str], None], keys: Keys = ()
) -> object:
    """`value` with every `${name}` in its texts replaced; `$${name}` stays as `${name}`.

    Names that `variables` lacks are told to `unknown` with the way to the text; keys of tables are left alone.
    """
    if isinstance(value, str):
        if "${" not in value:
            return value
        return _PLACEHOLDER.sub(lambda found: _value(found, variables, unknown, keys), value)
    if isinstance(value, dict):
        return {key: expand(inner, variables, unknown, (*keys, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [expand(inner, variables, unknown, (*keys, index)) for index, inner in enumerate(value)]
    return value


def _value(
    found: re.Match[str], variables: Mapping[str, str], unknown: Callable[[Keys, str], None], keys: Keys
) -> str:
    escaped, name = found.groups()
    if escaped:
        return found[0][1:]
    if name.strip() not in variables:
        unknown(keys, name)
        return found[0]
    return variables[name.strip()]
