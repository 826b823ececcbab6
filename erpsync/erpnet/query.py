"""Queries as ERP.net understands them: literals, conditions, paths (querying-data/query-options/*.md).

It supports eq, ge, le, and, in, and a few functions. What it does not support is refused here, before it is sent.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from urllib.parse import quote
from uuid import UUID

from erpsync.core.errors import InvalidQueryError

_NAME = re.compile(r"[^\W\d]\w*")
_GUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_STRING = re.compile(r"'(?:[^']|'')*'")
_UNSUPPORTED = re.compile(r"(?<![\w/.])(or|not|ne|gt|lt)(?![\w/.])")
_INSTEAD = {
    "or": "use `in` (\"State in ('New','Released')\") or ask twice",
    "not": "leave it out and drop the rows in the plugin",
    "ne": "use `in` with the values you want, or drop the rows in the plugin",
    "gt": "use `ge` with the next value, or drop the equal rows in the plugin",
    "lt": "use `le` with the value before, or drop the equal rows in the plugin",
}


@dataclass(frozen=True, slots=True)
class Reference:
    """A row elsewhere: `Reference("General_Products_Products", id)`."""

    entity_set: str
    id: UUID | str

    def __str__(self) -> str:
        return row_path(self.entity_set, self.id)


def literal(value: object) -> str:
    """`value` as it stands in a filter: text quoted with '' for ', GUIDs bare, instants in UTC with Z.

    Raises:
        InvalidQueryError: no literal for it, or an instant without a zone.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Enum():
            return literal(value.value)
        case str() | Reference():
            return "'" + str(value).replace("'", "''") + "'"
        case Decimal() if value.is_finite():
            return f"{value:f}"
        case datetime() if value.tzinfo:
            return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
        case datetime():
            raise InvalidQueryError("an instant without a time zone", hint="give the datetime a tzinfo")
        case int() | UUID() | date():
            return str(value)
    raise InvalidQueryError(
        f"no literal for a value of type {type(value).__name__}", hint="use Decimal for numbers"
    )


def equals(path: str, value: object) -> str:
    return f"{path} eq {literal(value)}"


def at_least(path: str, value: object) -> str:
    return f"{path} ge {literal(value)}"


def at_most(path: str, value: object) -> str:
    return f"{path} le {literal(value)}"


def among(path: str, values: Iterable[object]) -> str:
    return f"{path} in ({','.join(literal(value) for value in values)})"


def contains(path: str, text: str) -> str:
    return f"contains({path},{literal(text)})"


def all_of(*conditions: str | None) -> str | None:
    """The conditions joined by `and`; those that are None or empty count for nothing."""
    return " and ".join(condition for condition in conditions if condition) or None


def check_filter(text: str) -> None:
    """Raises InvalidQueryError where ERP.net would refuse an operator, with what to write instead."""
    if found := _UNSUPPORTED.search(_STRING.sub("''", text)):
        raise InvalidQueryError(
            f"ERP.net does not support `{found[0]}` in a filter: {text[:200]}", hint=_INSTEAD[found[0]]
        )


def set_path(entity_set: str) -> str:
    """The path of a set or an unbound operation. Raises InvalidQueryError for what is no name."""
    if not _NAME.fullmatch(entity_set):
        raise InvalidQueryError(f'"{entity_set[:100]}" is not the name of an entity set or an operation')
    return entity_set


def row_path(entity_set: str, row_id: UUID | str) -> str:
    """`Set(guid)`. Raises InvalidQueryError where the id is no GUID."""
    if not _GUID.fullmatch(str(row_id)):
        raise InvalidQueryError(f'"{str(row_id)[:100]}" is not the id of a row', hint="an id is a GUID")
    return f"{set_path(entity_set)}({row_id})"


def function_path(name: str, parameters: Mapping[str, object]) -> str:
    """`Name(p='x',n=10)`; bare without parameters."""
    inside = ",".join(f"{set_path(key)}={literal(value)}" for key, value in parameters.items())
    return set_path(name) + (f"({quote(inside, safe=_PLAIN)})" if parameters else "")


def options(
    *,
    select: Sequence[str] | None = None,
    filter: str | None = None,  # noqa: A002 - OData's word
    expand: str | None = None,
    orderby: str | None = None,
    top: int | None = None,
) -> str:
    """The query string, with its question mark; empty where nothing is asked for."""
    if filter:
        check_filter(filter)
    given = {
        "$select": ",".join(select) if select else None,
        "$filter": filter or None,
        "$expand": expand or None,
        "$orderby": orderby or None,
        "$top": top,
    }
    parts = [f"{key}={quote(str(value), safe=_PLAIN)}" for key, value in given.items() if value is not None]
    return "?" + "&".join(parts) if parts else ""


_PLAIN = "/,:;()'$=*@!~"
