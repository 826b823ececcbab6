"""`$filter` read into SQL: the operators, functions and paths that ERP.net documents, and no others.

Source: domain-api/querying-data (query-options/filter.md, filterable-references.md).
"""
# ruff: noqa: S608 - names in statements come from the model, values are bound

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from erpsync.sandbox.errors import ErpError, malformed, unknown_property, unsupported
from erpsync.sandbox.model import SETS, Attribute, EntitySet

_TOKEN: Final = re.compile(
    r"""\s*(?:
    (?P<typed>[A-Za-z_][\w.]*'(?:[^']|'')*') | (?P<string>'(?:[^']|'')*')
    | (?P<guid>[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b)
    | (?P<date>\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?(?:Z|[+-]\d\d:\d\d)?)
    | (?P<number>-?\d+(?:\.\d+)?) | (?P<name>[A-Za-z_]\w*(?:/\w+)*) | (?P<mark>[(),])
    )""",
    re.VERBOSE,
)
_REFERENCE: Final = re.compile(r"\w+\(([0-9a-fA-F-]{36})\)")
_OPERATORS: Final = {"eq": ("em", "="), "ge": ("r", ">="), "le": ("r", "<=")}
_TEXT_FUNCTIONS: Final = {
    "contains": "instr(fold({}), fold(?)) > 0",
    "startswith": "instr(fold({}), fold(?)) = 1",
    "endswith": "substr(fold({}), -length(fold(?))) = fold(?)",
}
_NULL_FUNCTIONS: Final = {"equalnull": "eq", "lessequalnull": "le", "greaterequalnull": "ge"}


@dataclass(frozen=True, slots=True)
class Sql:
    """A piece of SQL with the values it binds."""

    text: str
    values: tuple[Any, ...] = ()


def both(first: Sql, second: Sql) -> Sql:
    """Both conditions; an empty first one does not count."""
    return Sql(f"{first.text} AND {second.text}", first.values + second.values) if first.text else second


def parse_filter(entity_set: EntitySet, text: str, *, truncate_times: bool) -> Sql:
    """The condition of a `$filter`, empty for an empty text. Raises ErpError for what ERP.net does not do."""
    return _Filter(entity_set, text, truncate_times).parse() if text.strip() else Sql("")


class _Filter:
    """A recursive descent over `term (and term)*`, the whole grammar that ERP.net documents."""

    def __init__(self, entity_set: EntitySet, text: str, truncate_times: bool) -> None:
        self._set = entity_set
        self._text = text
        self._tokens = list(_tokens(text))
        self._place = 0
        self._truncate_times = truncate_times

    def parse(self) -> Sql:
        result = self._conjunction()
        if self._peek()[0] != "end":
            raise self._refuse_word()
        return result

    def _conjunction(self) -> Sql:
        result = self._term()
        while self._peek() == ("name", "and"):
            self._place += 1
            result = both(result, self._term())
        return result

    def _term(self) -> Sql:
        if self._peek() == ("mark", "("):
            self._place += 1
            inner = self._conjunction()
            self._mark(")")
            return Sql(f"({inner.text})", inner.values)
        kind, word = self._take()
        if kind != "name":
            raise self._broken()
        if self._peek() == ("mark", "("):
            return self._function(word)
        return self._comparison(word)

    def _function(self, name: str) -> Sql:
        if name == "not":
            raise unsupported("The operator 'not' is not supported.")
        if name not in _TEXT_FUNCTIONS and name not in _NULL_FUNCTIONS:
            raise unsupported(f"The function '{name}' is not supported.")
        self._mark("(")
        path = self._take_kind("name")
        self._mark(",")
        literal = self._take()
        self._mark(")")
        if name in _TEXT_FUNCTIONS:
            return _walk(self._set, path, lambda found, column: _text(found, column, name, literal))
        return _walk(self._set, path, lambda found, column: self._compare(found, column, name, literal))

    def _comparison(self, path: str) -> Sql:
        if path == "not":
            raise unsupported("The operator 'not' is not supported.")
        operator = self._take_kind("name")
        if operator == "in":
            literals = self._list()
            return _walk(self._set, path, lambda found, column: self._among(found, column, literals))
        if operator not in _OPERATORS:
            raise unsupported(f"The operator '{operator}' is not supported.")
        literal = self._take()
        return _walk(self._set, path, lambda found, column: self._compare(found, column, operator, literal))

    def _compare(self, attribute: Attribute, column: str, operator: str, literal: tuple[str, str]) -> Sql:
        letters, sign = _OPERATORS[_NULL_FUNCTIONS.get(operator, operator)]
        _require(attribute, letters, operator)
        if literal == ("name", "null"):
            return Sql(f"{column} IS NULL")
        value = self._value(attribute, literal)
        text = f"{_comparable(attribute, column)} {sign} ?"
        if operator in _NULL_FUNCTIONS:
            text = f"({column} IS NULL OR {text})"
        return Sql(text, (value,))

    def _among(self, attribute: Attribute, column: str, literals: list[tuple[str, str]]) -> Sql:
        _require(attribute, "m", "in")
        values = tuple(self._value(attribute, literal) for literal in literals)
        return Sql(f"{_comparable(attribute, column)} IN ({', '.join('?' * len(values))})", values)

    def _value(self, attribute: Attribute, literal: tuple[str, str]) -> Any:
        value = _literal(attribute, literal)
        if attribute.kind == "datetime" and self._truncate_times:
            return value[:10] + "T00:00:00.000Z"
        return value

    def _list(self) -> list[tuple[str, str]]:
        self._mark("(")
        literals = [self._take()]
        while self._peek() == ("mark", ","):
            self._place += 1
            literals.append(self._take())
        self._mark(")")
        return literals

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._place] if self._place < len(self._tokens) else ("end", "")

    def _take(self) -> tuple[str, str]:
        token = self._peek()
        if token[0] == "end":
            raise self._broken()
        self._place += 1
        return token

    def _take_kind(self, kind: str) -> str:
        found, word = self._take()
        if found != kind:
            raise self._broken()
        return word

    def _mark(self, mark: str) -> None:
        if self._take() != ("mark", mark):
            raise self._broken()

    def _refuse_word(self) -> ErpError:
        kind, word = self._peek()
        return unsupported(f"The operator '{word}' is not supported.") if kind == "name" else self._broken()

    def _broken(self) -> ErpError:
        return malformed(f"Syntax error in $filter: {self._text}")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    place, text = 0, text.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            raise malformed(f"Syntax error at position {place} in $filter: {text}")
        yield match.lastgroup, match[match.lastgroup]
        place = match.end()


def _walk(entity_set: EntitySet, path: str, compare: Callable[[Attribute, str], Sql]) -> Sql:
    """A condition on an attribute, through owners and filterable references where `path` leads through some."""
    name, slash, rest = path.partition("/")
    if not slash:
        return compare(
            _attribute(entity_set, name), f'"{"id" if name == "Id" else name.removesuffix("Value")}"'
        )
    reference = _attribute(entity_set, name)
    if reference.kind != "ref" or "path" not in reference.flags:
        raise unsupported(f"Filtering by '{path}' is not supported: '{name}' is not a filterable reference.")
    inner = _walk(SETS[reference.target], rest, compare)
    return Sql(f'"{name}" IN (SELECT id FROM "{reference.target}" WHERE {inner.text})', inner.values)


def _attribute(entity_set: EntitySet, name: str) -> Attribute:
    """The attribute that a filter names; amounts and quantities are named with `Value` appended."""
    found = entity_set.attributes.get(name)
    if found is not None and found.kind not in ("amount", "quantity"):
        return found
    if name.endswith("Value"):
        measured = entity_set.attributes.get(name.removesuffix("Value"))
        if measured is not None and measured.kind in ("amount", "quantity"):
            return measured
    if found is not None:
        raise unsupported(f"Filtering by '{name}' is not supported; use '{name}Value'.")
    raise unknown_property(name, entity_set.type_name)


def _require(attribute: Attribute, letters: str, operator: str) -> None:
    if attribute.kind == "ml" or not set(letters) & set(attribute.filters):
        raise unsupported(f"The attribute '{attribute.name}' does not support the filter '{operator}'.")


def _comparable(attribute: Attribute, column: str) -> str:
    return f"CAST({column} AS REAL)" if attribute.kind in ("amount", "quantity", "decimal") else column


def _text(attribute: Attribute, column: str, function: str, literal: tuple[str, str]) -> Sql:
    if "l" not in attribute.filters or (attribute.kind == "ml" and function != "contains"):
        raise unsupported(f"The attribute '{attribute.name}' does not support the filter '{function}'.")
    if literal[0] != "string":
        raise malformed(f"A string is expected in {function}({attribute.name}, …).")
    text = _unquoted(literal[1])
    if attribute.kind == "ml":
        condition = f"EXISTS (SELECT 1 FROM json_each({column}) WHERE instr(fold(value), fold(?)) > 0)"
        return Sql(condition, (text,))
    condition = _TEXT_FUNCTIONS[function].format(column)
    return Sql(condition, (text,) * condition.count("?"))


def _literal(attribute: Attribute, literal: tuple[str, str]) -> Any:
    """The stored form of a literal. Raises ErpError where it does not fit the attribute."""
    kind, word = literal
    reader = _READERS.get((attribute.kind, kind))
    value = reader(attribute, word) if reader else None
    if value is None:
        raise malformed(f"The value {word} does not fit the type of '{attribute.name}'.")
    return value


def _unquoted(word: str) -> str:
    return word[word.index("'") + 1 : -1].replace("''", "'")


def _reference_id(_attribute: Attribute, word: str) -> str | None:
    match = _REFERENCE.fullmatch(_unquoted(word))
    return match[1].lower() if match else None


def _enum_number(attribute: Attribute, word: str) -> int | None:
    return attribute.values.get(_unquoted(word))


def _boolean(_attribute: Attribute, word: str) -> int | None:
    return {"true": 1, "false": 0}.get(word)


def read_moment(word: str) -> str | None:
    """A date or date-time text as the UTC text that is stored, cut to milliseconds. None for anything else."""
    try:
        moment = datetime.fromisoformat(f"{word[:10]}T00:00:00+00:00" if len(word) <= 11 else word)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{aware.microsecond // 1000:03d}Z"


_READERS: Final[Mapping[tuple[str, str], Callable[[Attribute, str], Any]]] = {
    ("id", "guid"): lambda _, word: word.lower(),
    ("guid", "guid"): lambda _, word: word.lower(),
    ("string", "string"): lambda _, word: _unquoted(word),
    ("ref", "string"): _reference_id,
    ("enum", "string"): _enum_number,
    ("enum", "typed"): _enum_number,
    ("bool", "name"): _boolean,
    ("date", "date"): lambda _, word: (read_moment(word) or "")[:10] or None,
    ("datetime", "date"): lambda _, word: read_moment(word),
    **{(kind, "number"): lambda _, word: float(word) for kind in ("int", "decimal", "amount", "quantity")},
}
