"""Reading erpsync.toml and the files it includes into one document; no table is defined by two files."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from erpsync.config.document import Document, Table, did_you_mean, dotted
from erpsync.config.shelf import Shelf
from erpsync.config.source import Source, read_source
from erpsync.config.words import NOT_YET_HELP
from erpsync.core.problem import Problem

SINGLE = ("daemon", "control", "metrics", "secrets", "defaults")
NAMED = ("identities", "jobs", "instances", "calendars", "pools")
ANCHORED = ("defaults", "identities", "jobs", "instances")
NOT_YET = ("notices",)


def read_main(path: Path, shelf: Shelf) -> Document:
    """What the first file says; where it cannot be read, that is the document's problem."""
    document = Document(path.absolute().parent, names=[str(path)])
    main = read_source(path, str(path), shelf)
    if isinstance(main, Problem):
        document.keep(main)
    else:
        _take(document, main, main=True)
    return document


def read_included(document: Document, main: Path, shelf: Shelf) -> None:
    """Add the files that the first one includes; of the unreadable ones the others are still read."""
    seen = {os.path.realpath(main)}  # of a loop of links too, which is told when it is read
    for included in _included(document, main.parent, shelf):
        if (real := os.path.realpath(included)) not in seen:
            seen.add(real)
            document.names.append(str(included))
            source = read_source(included, str(included), shelf)
            if isinstance(source, Problem):
                document.keep(source)
            else:
                _take(document, source, main=False)


def _included(document: Document, folder: Path, shelf: Shelf) -> Iterator[Path]:
    patterns = document.root.get("daemon", {}).get("include", [])
    for index, pattern in enumerate(patterns if isinstance(patterns, list) else [patterns]):
        if not isinstance(pattern, str) or not pattern or "\0" in pattern:
            continue  # reported with the section
        keys = ("daemon", "include", index)
        matches = shelf.find(folder, pattern)
        if not matches and glob.has_magic(pattern):
            document.add("W101", f'"{pattern}" matches no file', keys)
        elif not matches:
            document.add("E101", f'there is no file "{pattern}"', keys)
        yield from (folder / match for match in matches)


def _take(document: Document, source: Source, *, main: bool) -> None:
    """Add one file's tables to the document."""
    for section, value in source.values.items():
        if section not in SINGLE and section not in NAMED:
            hint = NOT_YET_HELP if section in NOT_YET else did_you_mean(section, (*SINGLE, *NAMED))
            document.add("E103", f'unknown section "{section}"', (section,), hint=hint, source=source)
        elif not isinstance(value, dict):
            document.add("E104", f"{section} must be a table", (section,), source=source)
        elif section in SINGLE:
            if section == "daemon" and not main and "include" in value:
                message = "an included file cannot include others"
                document.add("E105", message, ("daemon", "include"), source=source)
            _claim(document, source, (section,), value)
        else:
            for name, table in value.items():
                if isinstance(table, dict):
                    _claim(document, source, (section, name), table)
                else:
                    document.add("E104", f"{section}.{name} must be a table", (section, name), source=source)


def _claim(document: Document, source: Source, keys: tuple[str, ...], table: Table) -> None:
    """Put a table into the document unless another file has put one there."""
    first = document.owners.get(keys)
    if first is not None:
        message = f"[{dotted(keys)}] is defined in {first.name}:{first.position(keys)[0]} already"
        document.add("E107", message, keys, hint="put all of one table into one file", source=source)
        return
    document.owners[keys] = source
    if keys[0] in ANCHORED:
        _anchor(table, source.folder)
    into = document.root.setdefault(keys[0], {}) if len(keys) == 2 else document.root
    into[keys[-1]] = table


def _anchor(value: object, folder: Path) -> None:
    """Make the paths of `{ file = "…" }` references absolute: they are relative to the file that names them."""
    if isinstance(value, list):
        for element in value:
            _anchor(element, folder)
    elif isinstance(value, dict):
        file = value.get("file")
        if len(value) == 1 and isinstance(file, str) and file:
            value["file"] = str(folder / file)
        for key, inner in value.items():
            if key != "vars":
                _anchor(inner, folder)
