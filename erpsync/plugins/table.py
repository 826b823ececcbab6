"""The SQL table behind a sink: its columns, its growth, and how values are stored exactly."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateColumn

from erpsync.core.errors import TargetError
from erpsync.plugins.target import Column, Kind

# SQLite has no exact decimal: a NUMERIC column would turn 12.10 into a binary float, so decimals are TEXT there.
_TYPES: Mapping[Kind, sa.types.TypeEngine[Any]] = {
    "text": sa.Text(),
    "integer": sa.BigInteger(),
    "boolean": sa.Boolean(),
    "decimal": sa.Numeric().with_variant(sa.Text(), "sqlite"),
    "float": sa.Double(),
    "date": sa.Date().with_variant(sa.Text(), "sqlite"),
    "datetime": sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite"),
    "guid": sa.Uuid(as_uuid=False).with_variant(sa.Text(), "sqlite"),
    "reference": sa.Uuid(as_uuid=False).with_variant(sa.Text(), "sqlite"),
    "json": sa.JSON().with_variant(sa.Text(), "sqlite"),
}
_encode_json = msgspec.json.Encoder(decimal_format="number").encode
_MOST_DIGITS = 1000  # of a number, before or behind its point


def build(name: str, columns: Sequence[Column], key: Sequence[str]) -> sa.Table:
    """The table as it should be.

    Raises:
        TargetError: two columns of one name, or a key that is no column.
    """
    names = [column.name.casefold() for column in columns]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise TargetError(f'two attributes give the column "{min(twice)}"', hint="select one of them only")
    missing = [name for name in key if name.casefold() not in names]
    if missing:
        message = f'the key "{missing[0]}" is not among the columns of table "{name}"'
        raise TargetError(message, hint=f"its columns are {', '.join(column.name for column in columns)}")
    return sa.Table(
        name,
        sa.MetaData(),
        *(
            sa.Column(column.name, _TYPES[column.kind], primary_key=column.name in key, autoincrement=False)
            for column in columns
        ),
    )


def evolve(connection: sa.Connection, table: sa.Table) -> bool:
    """Create the table, or add the columns that it lacks; whether all rows must be read (again) to fill it.

    Raises:
        TargetError: an existing column or key is another; nothing was changed.
    """
    inspector = sa.inspect(connection)
    if not inspector.has_table(table.name):
        table.create(connection)
        return True
    existing = {column["name"].casefold(): column["type"] for column in inspector.get_columns(table.name)}
    key = [name.casefold() for name in inspector.get_pk_constraint(table.name)["constrained_columns"]]
    _refuse_other_types(table, existing, connection.dialect)
    if key != [column.name.casefold() for column in table.primary_key]:
        raise TargetError(
            f'table "{table.name}" has the key ({", ".join(key)})',
            hint="choose another table, or drop this one",
        )
    added = [column for column in table.columns if column.name.casefold() not in existing]
    preparer = connection.dialect.identifier_preparer
    for column in added:
        definition = CreateColumn(column).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {preparer.format_table(table)} ADD COLUMN {definition}")
    return bool(added)


def _refuse_other_types(table: sa.Table, existing: Mapping[str, Any], dialect: sa.Dialect) -> None:
    for column in table.columns:
        found = existing.get(column.name.casefold())
        wanted = column.type.compile(dialect)
        if found is not None and found.compile(dialect) != wanted:
            raise TargetError(
                f'column "{column.name}" of table "{table.name}" is {found.compile(dialect)}, the rows need {wanted}',
                hint="choose another table, or drop this one: the next run reads everything again",
            )


def upsert_statement(table: sa.Table) -> str:
    """SQL that inserts a row or changes what differs; parameters in the order of the columns.

    A row that is there already just so is left alone, and does not count as a row changed.
    """
    insert = sqlite.insert(table)
    others = [column for column in table.columns if not column.primary_key]
    if not others:
        statement = insert.on_conflict_do_nothing()
    else:
        statement = insert.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={column.name: insert.excluded[column.name] for column in others},
            where=sa.or_(*(column.is_distinct_from(insert.excluded[column.name]) for column in others)),
        )
    return str(
        statement.compile(dialect=sqlite.dialect(), column_keys=[column.name for column in table.columns])
    )


def values(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """The rows as parameters of `upsert_statement`; column by column, which is twice as fast as row by row."""
    return list(zip(*(_column_values(column, rows) for column in columns), strict=True))


def require_keys(table: sa.Table, rows: Sequence[Sequence[object]]) -> None:
    """Raises TargetError where a row, its values in the order of the columns, has none for its key."""
    for index, column in enumerate(table.columns):
        if column.primary_key and any(row[index] is None for row in rows):
            message = (
                f'a row for table "{table.name}" has no "{column.name}", the key that tells its rows apart'
            )
            raise TargetError(message, hint="have the row corrected, or take another key")


def _column_values(column: Column, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    first, *rest = column.steps
    found: list[Any] = [row.get(first) for row in rows]
    for step in rest:
        found = [None if value is None else value.get(step) for value in found]
    convert = _CONVERT.get(column.kind)
    if convert is None:
        return found
    try:
        return [None if value is None else convert(value) for value in found]
    except (TypeError, ValueError, ArithmeticError) as error:
        message = f'column "{column.name}" got a value that is no {column.kind}'
        raise TargetError(message, hint="another kind for the column, or leave it out") from error


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _decimal(value: Any) -> str:
    """All digits, no exponent: "12.10", "1000000"."""
    return format(_bounded(value if isinstance(value, Decimal) else Decimal(value)), "f")


def _integer(value: Any) -> int:
    return int(_bounded(value))


def _bounded(value: Any) -> Any:
    """Raises ValueError for 1e1000000, whose digits would take minutes to write down."""
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) > _MOST_DIGITS:
        raise ValueError("too many digits")
    return value


def _datetime(value: Any) -> str:
    if isinstance(value, str):
        if value.endswith("Z"):
            return value
        value = datetime.fromisoformat(value)
    return datetime.isoformat(value.astimezone(UTC).replace(tzinfo=None)) + "Z"


def _reference(value: str) -> str:
    """The guid in "Set(guid)"."""
    return value[value.index("(") + 1 : -1]


_CONVERT: Mapping[Kind, Callable[[Any], object]] = {
    "text": _text,
    "integer": _integer,
    "boolean": bool,
    "decimal": _decimal,
    "float": float,
    "date": _text,
    "datetime": _datetime,
    "guid": _text,
    "reference": _reference,
    "json": lambda value: _encode_json(value).decode(),
}
