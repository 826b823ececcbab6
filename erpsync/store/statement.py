"""Statements that are rendered once and then given to the driver as they are.

What SQLAlchemy adds to an execution (finding the rendered text, expanding lists, a result object) takes ten times as
long as a small write itself, and the writer makes a dozen of them a run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Delete, Dialect, Insert, Select, Update
from sqlalchemy.engine.interfaces import DBAPICursor

_Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Rendered:
    """The text for one dialect, and how values go in and come out."""

    text: str
    constants: Mapping[str, Any]
    conversions: tuple[tuple[str, _Convert], ...]
    columns: tuple[tuple[str, _Convert | None], ...]


class Statement:
    """A Core statement with named parameters, none of them a list. What it raises are the driver's errors."""

    def __init__(self, clause: Select[Any] | Insert | Update | Delete) -> None:
        self._clause = clause
        self._rendered: dict[str, _Rendered] = {}

    def run(self, connection: Connection, values: Mapping[str, object]) -> int:
        """Execute it; the number of rows that it changed."""
        return self._execute(connection, self._for(connection.dialect), values).rowcount

    def rows(self, connection: Connection, values: Mapping[str, object]) -> list[dict[str, Any]]:
        """Execute it; what it selects or returns, by the names of the columns."""
        rendered = self._for(connection.dialect)
        return [
            {
                name: value if convert is None else convert(value)
                for (name, convert), value in zip(rendered.columns, row, strict=True)
            }
            for row in self._execute(connection, rendered, values).fetchall()
        ]

    def _execute(
        self, connection: Connection, rendered: _Rendered, values: Mapping[str, object]
    ) -> DBAPICursor:
        parameters = {**rendered.constants, **values}
        for name, convert in rendered.conversions:
            parameters[name] = convert(parameters[name])
        cursor = connection.connection.cursor()
        cursor.execute(rendered.text, parameters)
        return cursor

    def _for(self, dialect: Dialect) -> _Rendered:
        known = self._rendered.get(dialect.name)
        if known is None:
            known = self._rendered[dialect.name] = _render(self._clause, dialect)
        return known


def _render(clause: Select[Any] | Insert | Update | Delete, dialect: Dialect) -> _Rendered:
    compiled = clause.compile(dialect=dialect)
    binds = {name: bind for bind, name in compiled.bind_names.items()}
    inward = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in binds.items()}
    selected = clause.selected_columns if isinstance(clause, Select) else clause.exported_columns
    return _Rendered(
        text=str(compiled),
        constants={name: bind.effective_value for name, bind in binds.items() if not bind.required},
        conversions=tuple((name, convert) for name, convert in inward.items() if convert is not None),
        columns=tuple(
            (str(column.key), column.type.dialect_impl(dialect).result_processor(dialect, None))
            for column in selected
        ),
    )
