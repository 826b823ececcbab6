"""Query options read into SQL: `$select`, `$expand`, `$orderby`, `$search` and paging, and rows rendered as JSON.

Source: domain-api/querying-data (query-options, paging.md).
"""
# ruff: noqa: S608 - names in statements come from the model, values are bound

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from erpsync.sandbox.errors import malformed, unknown_property, unsupported
from erpsync.sandbox.filter import Sql, both, parse_filter
from erpsync.sandbox.guid import sort_key
from erpsync.sandbox.model import SETS, Attribute, EntitySet


@dataclass(frozen=True, slots=True)
class Projection:
    """What is shown of a row: attribute names in order, and the navigations that are expanded."""

    select: tuple[str, ...]
    expand: Mapping[str, "Projection | None"] = field(default_factory=dict)
    """None stands for links only (`Lines/$ref`)."""


@dataclass(frozen=True, slots=True)
class Query:
    """The options of one collection request. `top` is the page size, None for everything at once."""

    projection: Projection
    where: Sql
    order: tuple[str, ...] = ()
    top: int | None = None
    skip: int = 0
    skiptoken: str = ""
    count: bool = False
    skip_nulls: bool = False


_KNOWN: Final = frozenset(
    {"$select", "$expand", "$filter", "$orderby", "$top", "$skip", "$skiptoken", "$count"}
)


def parse_query(entity_set: EntitySet, options: Mapping[str, str], *, truncate_times: bool) -> Query:
    """Reads the options of a request. Raises ErpError for what cannot be read or is not supported."""
    for name in options:
        if name.startswith("$") and name not in _KNOWN | {"$search"}:
            raise unsupported(f"The query option '{name}' is not supported.")
    where = parse_filter(entity_set, options.get("$filter", ""), truncate_times=truncate_times)
    search = options.get("$search", "")
    if search:
        where = both(where, _search(entity_set, search))
    return Query(
        parse_projection(entity_set, options),
        where,
        _order(entity_set, options.get("$orderby", "")),
        _number(options, "$top"),
        _number(options, "$skip") or 0,
        options.get("$skiptoken", ""),
        options.get("$count", "").lower() == "true",
        "skipnulls" in options.get("options", "").lower(),
    )


def _number(options: Mapping[str, str], name: str) -> int | None:
    text = options.get(name)
    if text is None:
        return None
    if not text.isdigit():
        raise malformed(f"Invalid value '{text}' for {name} query option.")
    return int(text)


def parse_projection(entity_set: EntitySet, options: Mapping[str, str]) -> Projection:
    """Reads `$select` and `$expand`."""
    names: list[str] = []
    expand = dict(_expansion(entity_set, item) for item in _split(options.get("$expand", ""), ","))
    for word in _split(options.get("$select", "") or "default", ","):
        if word in ("*", "default"):
            names += _default_names(entity_set)
        elif word in entity_set.attributes:
            names.append(word)
        elif word in entity_set.children:
            expand.setdefault(word, None)
        else:
            raise unknown_property(word, entity_set.type_name)
    return Projection(tuple(dict.fromkeys(names)), expand)


def _default_names(entity_set: EntitySet) -> list[str]:
    """Without `Id` and calculated attributes (select.md)."""
    return [
        item.name
        for item in entity_set.attributes.values()
        if item.kind not in ("id", "display") and "calculated" not in item.flags
    ]


def _expansion(entity_set: EntitySet, text: str) -> tuple[str, Projection | None]:
    name, bracket, inside = text.partition("(")
    links_only = name.endswith("/$ref")
    name = name.removesuffix("/$ref")
    target = _navigation(entity_set, name)
    if links_only:
        return name, None
    options: dict[str, str] = {}
    for part in _split(inside.removesuffix(")"), ";") if bracket else ():
        key, _, value = part.partition("=")
        if key not in ("$select", "$expand"):
            raise unsupported(f"The query option '{key}' is not supported within $expand.")
        options[key] = value
    return name, parse_projection(target, options)


def _navigation(entity_set: EntitySet, name: str) -> EntitySet:
    attribute = entity_set.attributes.get(name)
    if attribute is not None and attribute.kind == "ref":
        return SETS[attribute.target]
    if name in entity_set.children:
        return SETS[entity_set.children[name][0]]
    raise unknown_property(name, entity_set.type_name)


def _split(text: str, separator: str) -> list[str]:
    """Splits at separators that stand outside brackets."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == separator and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [part for part in [*parts, text[start:].strip()] if part]


def _order(entity_set: EntitySet, text: str) -> tuple[str, ...]:
    terms = []
    for part in _split(text, ","):
        name, _, direction = part.partition(" ")
        attribute = entity_set.attributes.get(name)
        if attribute is None:
            raise unknown_property(name, entity_set.type_name)
        if "o" not in attribute.filters or direction.strip() not in ("", "asc", "desc"):
            raise unsupported(f"Ordering by '{part}' is not supported.")
        terms.append(f'"{name}" {direction.strip()}'.strip())
    return tuple(terms)


def _search(entity_set: EntitySet, text: str) -> Sql:
    """`$search`: contained in the code or the display text (search.md)."""
    names = [name for name in dict.fromkeys((entity_set.code, entity_set.label)) if name and "/" not in name]
    if not names:
        raise unsupported(f"$search is not supported for '{entity_set.name}'.")
    pieces = " OR ".join(f'instr(fold("{name}"), fold(?)) > 0' for name in names)
    return Sql(f"({pieces})", (text.strip('"'),) * len(names))


def page_sql(entity_set: EntitySet, query: Query) -> Sql:
    """The rows of a page with one more, as (JSON text, id): the extra row tells whether a page follows."""
    conditions, values = query.where.text, query.where.values
    if query.skiptoken:
        conditions = f"{conditions} AND sort >= ?" if conditions else "sort >= ?"
        values = (*values, _skip_key(query.skiptoken))
    limit = -1 if query.top is None else query.top + 1
    order = ", ".join((*query.order, "sort"))
    row = row_json(entity_set, query.projection, "t", skip_nulls=query.skip_nulls)
    where = f"WHERE {conditions}" if conditions else ""
    text = f'SELECT CAST({row} AS BLOB), id FROM "{entity_set.name}" AS t {where} ORDER BY {order} LIMIT ? OFFSET ?'
    return Sql(text, (*values, limit, query.skip))


def _skip_key(token: str) -> str:
    try:
        return sort_key(token)
    except ValueError as error:
        raise malformed("Invalid $skiptoken.") from error


def row_json(entity_set: EntitySet, projection: Projection, alias: str, *, skip_nulls: bool) -> str:
    """An SQL expression that is one row as JSON text; SQLite writes a page several times faster than Python would."""
    pieces = []
    for name in projection.select:
        if name not in projection.expand:
            pieces.append((name, _value_json(entity_set, entity_set.attributes[name], alias)))
    for name, inner in projection.expand.items():
        pieces.append((name, _expanded_json(entity_set, name, inner, alias, skip_nulls)))
    if skip_nulls:
        texts = [f"""coalesce(',"{name}":'||{value}, '')""" for name, value in pieces]
    else:
        texts = [f"""',"{name}":'||coalesce({value}, 'null')""" for name, value in pieces]
    if entity_set.keyless:
        return f"""'{{'||substr({"||".join(texts) or "''"}, 2)||'}}'"""
    start = f"""'{{"@odata.id":"{entity_set.name}('||{alias}.id||')"'"""
    return "||".join([start, *texts, "'}'"])


def _value_json(entity_set: EntitySet, attribute: Attribute, alias: str) -> str:
    """The JSON text of an attribute, NULL where it has no value."""
    column = f'{alias}."{attribute.name}"'
    match attribute.kind:
        case "id":
            return f"""'"'||{alias}.id||'"'"""
        case "display":
            return _display_json(entity_set, alias)
        case "guid" | "datetime":
            return f"""'"'||{column}||'"'"""
        case "date":
            return f"""'"'||{column}||'T00:00:00Z"'"""
        case "string":
            return f"CASE WHEN {column} IS NOT NULL THEN json_quote({column}) END"
        case "bool":
            return f"CASE {column} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"
        case "enum":
            names = " ".join(
                f"""WHEN {number} THEN '"{name}"'""" for name, number in attribute.values.items()
            )
            return f"CASE {column} {names} END"
        case "amount" | "quantity":
            second = attribute.columns[1]
            key = second.rpartition(".")[2]
            return f"""'{{"Value":'||{column}||',"{key}":'||json_quote({alias}."{second}")||'}}'"""
        case "ref":
            return f"""'{{"@odata.id":"{attribute.target}('||{column}||')"}}'"""
        case _:
            return column


def _display_json(entity_set: EntitySet, alias: str) -> str:
    """The display text: the label in English, or as it is where it has no languages."""
    name, slash, rest = entity_set.label.partition("/")
    if not name:
        return "NULL"
    if slash:
        inner = SETS[entity_set.attributes[name].target]
        english = f"""json_extract(d."{rest}", '$.EN')"""
        return f"""(SELECT json_quote({english}) FROM "{inner.name}" AS d WHERE d.id = {alias}."{name}")"""
    if entity_set.attributes[name].kind == "ml":
        return f"""json_quote(json_extract({alias}."{name}", '$.EN'))"""
    return f'json_quote({alias}."{name}")'


def _expanded_json(
    entity_set: EntitySet, name: str, inner: Projection | None, alias: str, skip_nulls: bool
) -> str:
    target, below = _navigation(entity_set, name), f"{alias}x"
    projection = inner or Projection(())
    row = row_json(target, projection, below, skip_nulls=skip_nulls)
    if name not in entity_set.children:
        return f'(SELECT {row} FROM "{target.name}" AS {below} WHERE {below}.id = {alias}."{name}")'
    back = entity_set.children[name][1]
    rows = f'SELECT {row} AS item FROM "{target.name}" AS {below} WHERE {below}."{back}" = {alias}.id ORDER BY sort'
    return f"(SELECT '['||coalesce(group_concat(item, ','), '')||']' FROM ({rows}))"
