"""JSON values turned into what the tables keep."""

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from erpsync.sandbox.errors import malformed, refused
from erpsync.sandbox.filter import read_moment
from erpsync.sandbox.model import Attribute


def stored_value(attribute: Attribute, value: Any) -> Any:
    """The column of a plain attribute. Raises ErpError for a value that does not fit it."""
    stored = _STORED[attribute.kind](attribute, value)
    if stored is None:
        raise malformed(f"Cannot convert the value of '{attribute.name}'.")
    if attribute.max_length and len(stored) > attribute.max_length:
        raise refused(f"The value of '{attribute.name}' is longer than {attribute.max_length} characters.")
    return stored


def exact_number(attribute: Attribute, value: Any) -> str:
    """The digits of a number. Raises ErpError for anything else."""
    digits = _decimal(attribute, value)
    if digits is None:
        raise malformed(f"Cannot convert the value of '{attribute.name}'.")
    return digits


def _decimal(_attribute: Attribute, value: Any) -> str | None:
    """A JSON number or a quoted one; the digits stay as they were sent."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return f"{number:f}" if number.is_finite() else None


def _languages(_attribute: Attribute, value: Any) -> str | None:
    """All languages are replaced together; keys are kept in upper case."""
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        return None
    return msgspec.json.encode({language.upper(): text for language, text in value.items()}).decode()


def _moment(_attribute: Attribute, value: Any) -> str | None:
    return read_moment(value) if isinstance(value, str) else None


_STORED: Final[Mapping[str, Callable[[Attribute, Any], Any]]] = {
    "string": lambda _, value: value if isinstance(value, str) else None,
    "bool": lambda _, value: int(value) if isinstance(value, bool) else None,
    "int": lambda _, value: value if isinstance(value, int) and not isinstance(value, bool) else None,
    "enum": lambda attribute, value: attribute.values.get(value) if isinstance(value, str) else None,
    "decimal": _decimal,
    "ml": _languages,
    "date": lambda attribute, value: (_moment(attribute, value) or "")[:10] or None,
    "datetime": _moment,
}
