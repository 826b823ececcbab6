"""The people of the instance: its users (Systems.Security.Users), and the passwords with which they sign in."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from erpsync.sandbox.data import Database

PASSWORD: Final = "sandbox-password"  # noqa: S105 - published, opens nothing but a sandbox
PEOPLE: Final = ("admin", "clerk")


@dataclass(frozen=True, slots=True)
class Person:
    """A user who may sign in."""

    login: str
    user_id: str
    name: str
    email: str

    def claims(self) -> Mapping[str, Any]:
        """What tokens and userinfo tell of a person; booleans are texts there (auth/tokens/access-tokens)."""
        return {
            "name": self.name,
            "email": self.email,
            "email_verified": "true",
            "locale": "en",
            "user_type": "InternalUser",
            "is_admin": "true" if self.login == "admin" else "false",
        }


class People:
    """Who may sign in: users with a password as long as they are active."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._passwords = dict.fromkeys(PEOPLE, PASSWORD)

    def set_password(self, login: str, password: str) -> None:
        """Changes a password. Raises KeyError for somebody who cannot sign in."""
        if login not in self._passwords:
            raise KeyError(login)
        self._passwords[login] = password

    def check(self, login: str, password: str) -> Person | None:
        """The person, when the password is theirs."""
        right = self._passwords.get(login)
        if right is None or not secrets.compare_digest(right.encode(), password.encode()):
            return None
        return self.person(login)

    def person(self, login: str) -> Person | None:
        """An active user."""
        sql = 'SELECT id, "Name", "Email" FROM "Systems_Security_Users" WHERE "Login" = ? AND "Active"'
        for user_id, name, email in self._database.query(sql, (login,)):
            return Person(login, user_id, msgspec.json.decode(name)["EN"], email)
        return None
