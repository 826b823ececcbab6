"""All files of a configuration as one tree of values, and the problems found in it with their places."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from erpsync.config.codes import REMEDIES, severity_of
from erpsync.config.source import Keys, Source
from erpsync.core.problem import Problem, Severity

Table = dict[str, object]

_BARE = re.compile(r"[\w-]+")


@dataclass(slots=True)
class Document:
    """The merged values `root`, with what is known of their files and what was found wrong.

    `folder` is the first file's, `names` are all files in the order they were read. `owners` tells the file of each
    table: ("daemon",) for a section that is one, ("jobs", "products") for a named one; `environment` the variables
    that replaced values.
    """

    folder: Path
    root: dict[str, Table] = field(default_factory=dict)
    owners: dict[Keys, Source] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    environment: dict[Keys, str] = field(default_factory=dict)
    found: dict[tuple[object, ...], Problem] = field(default_factory=dict)

    def named(self, section: str) -> Mapping[str, Table]:
        """The tables of a section like "jobs" or "calendars" by their names."""
        return self.root.get(section, {})  # type: ignore[return-value]  # merging lets nothing but tables in

    def add(
        self,
        code: str,
        message: str,
        keys: Keys,
        *,
        hint: str = "",
        hide: bool = False,
        source: Source | None = None,
    ) -> None:
        """Keep a problem, once for each place.

        `hide` leaves the line out because it may hold a secret; `source` is a file that does not own the keys.
        """
        self.keep(self.problem(code, message, keys, hint=hint, hide=hide, source=source))

    def keep(self, problem: Problem) -> None:
        """Keep a problem that was found elsewhere."""
        same = (problem.code, problem.file, problem.line, problem.column, problem.key, problem.message)
        self.found.setdefault(same, problem)

    def problem(
        self,
        code: str,
        message: str,
        keys: Keys,
        *,
        hint: str = "",
        hide: bool = False,
        severity: Severity | None = None,
        source: Source | None = None,
    ) -> Problem:
        """A problem at `keys` or at the nearest table around them."""
        severity, hint = severity or severity_of(code), hint or REMEDIES.get(code, "")
        variable = next((self.environment[keys[:n]] for n in (2, 3) if keys[:n] in self.environment), None)
        owner = source or self.owner(keys)
        if variable or owner is None:
            return Problem(code, severity, message, key=variable or dotted(keys), help=hint)
        line, column = owner.position(keys)
        text = "" if hide else owner.line(line)
        return Problem(code, severity, message, owner.name, line, column, dotted(keys), hint, text)

    def owner(self, keys: Keys) -> Source | None:
        """The file that `keys` come from."""
        return self.owners.get(keys[:2]) or self.owners.get(keys[:1])

    def folder_of(self, keys: Keys) -> Path:
        """The folder to which relative paths at `keys` are relative: their file's; for variables the current one."""
        if keys in self.environment:
            return Path.cwd()
        owner = self.owner(keys)
        return owner.folder if owner else self.folder

    def existing(self, keys: Keys) -> Keys:
        """As much of `keys` as is really there; the digits of a list's index become a number."""
        value: object = self.root
        found: list[str | int] = []
        for key in keys:
            if isinstance(value, dict) and key in value:
                value = value[key]
            elif isinstance(value, list) and str(key).isdecimal() and int(key) < len(value):
                key = int(key)
                value = value[key]
            else:
                break
            found.append(key)
        return tuple(found)


def dotted(keys: Keys) -> str:
    """Keys as people write them: jobs.products.tags[1]."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += ("." if text else "") + (key if _BARE.fullmatch(key) else f'"{key}"')
    return text


def did_you_mean(word: str, known: Iterable[str], *, nearness: float = 0.6) -> str:
    """A help text with the nearest known word, or none."""
    near = get_close_matches(word, list(known), n=1, cutoff=nearness)
    return f'did you mean "{near[0]}"?' if near else ""
