"""Where rows go: the `target` table of a job's settings, and the columns of its SQL table."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from pydantic import field_validator

from erpsync.plugins.contract import Secret, Settings

Kind = Literal[
    "text", "integer", "boolean", "decimal", "float", "date", "datetime", "guid", "reference", "json"
]


class Target(Settings):
    """`{ url = "sqlite:///name.db", table = "products", password = { secret = "db" } }`.

    A relative file is in the daemon's data folder. The password is never part of the URL.
    """

    url: str
    table: str
    password: Secret | None = None

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if not parts.scheme or "://" not in url:
            raise ValueError('write a database URL like "sqlite:///name.db"')
        if "@" in parts.netloc and ":" in parts.netloc.rpartition("@")[0]:
            raise ValueError(
                'a password does not belong in a URL; write password = { secret = "name" } beside it'
            )
        if parts.scheme not in ("sqlite", "sqlite+pysqlite"):
            raise ValueError(f'a target of kind "{parts.scheme}" is not available; use "sqlite:///name.db"')
        return url

    @field_validator("table")
    @classmethod
    def _check_table(cls, table: str) -> str:
        if not table or table.lower().startswith(("_erpsync", "sqlite_")):
            raise ValueError("this name is empty or reserved; choose another table")
        return table


@dataclass(frozen=True, slots=True)
class Column:
    """A column and where its value lies in a row: `path` leads through nested tables, by default the name itself.

    Values: `decimal` takes Decimal, int or text and stays exact; `datetime` takes ISO 8601 text or an aware
    datetime and is kept in UTC; `reference` takes "Set(guid)" and keeps the guid; `json` takes anything.
    """

    name: str
    kind: Kind = "text"
    path: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[str, ...]:
        return self.path or (self.name,)
