"""One TOML file: its values by tomllib, and the places of its keys by tree-sitter, only once one is asked for."""

import errno
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tree_sitter
import tree_sitter_toml

from erpsync.config.codes import REMEDIES
from erpsync.config.mask import shown_line, speaks_of_secrets
from erpsync.config.shelf import Shelf
from erpsync.core.problem import Problem

Keys = tuple[str | int, ...]
"""The way to a value: names of tables and keys, whole numbers for elements of lists."""

_DEEPEST = 40  # levels of nesting; nobody writes more, and recursion stays bounded
_LONGEST_LINE = 500  # characters; a caret under more helps nobody
_LONGEST_READ = 100_000  # characters of a line; the parsers' time grows faster than what they read
_MOST_PARTS = 200  # of one dotted key
_LONG_KEY = re.compile(
    rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{_MOST_PARTS}}}[\w"'-]"""
)
_TABLES = ("table", "table_array_element")
_LANGUAGE = tree_sitter.Language(tree_sitter_toml.language())
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_BEGINS_ANEW = re.compile(r"""\s*(?:\[|[\w."' -]+=\s*[^=\s])""")
"""A line that does not may go on with a key of text that holds a secret, where the parser has lost its way."""
_BARE = re.compile(r"""\s*([\w.-]+)\s*=\s*[^"'\[{\s#][^"']*$""")
"""A key and a value without quotes or brackets. Where the parser stops at such a line, its quotes are missing."""
_TWICE = re.compile(r"Cannot declare \((.*?),?\) twice")


@dataclass(frozen=True, eq=False)
class Source:
    """A file that was read: `name` as people know it, `folder` absolute, for what is relative to the file."""

    name: str
    folder: Path
    text: str
    values: dict[str, object]

    def position(self, keys: Keys) -> tuple[int, int]:
        """Line and column, from 1, in characters, of the key at the end of `keys` or the nearest around it."""
        places, bodies = self._places
        for length in range(len(keys) + 1):
            for pair in bodies.pop(keys[:length], ()):
                for inner, node in _walk_pair(pair, keys[:length]):
                    places.setdefault(inner, node.start_point)
        while keys and keys not in places:
            keys = keys[:-1]
        row, offset = places.get(keys, (0, 0))
        before = self._lines[row].encode()[:offset] if row < len(self._lines) else b""
        return row + 1, len(before.decode(errors="replace")) + 1

    def line(self, number: int) -> str:
        """The text of a line as it may be shown: tabs are one blank wide, what looks like a secret is left out."""
        line = self._lines[number - 1] if 0 < number <= len(self._lines) else ""
        return (
            shown_line(line, inside=self._goes_on_with_a_secret(number)) if len(line) <= _LONGEST_LINE else ""
        )

    def _goes_on_with_a_secret(self, number: int) -> bool:
        """Whether a line begins within the value of a key, or in a table, whose name speaks of secrets."""
        start = (number - 1, 0)
        node = self._tree.root_node.descendant_for_point_range(start, start)
        while node is not None:
            above = node.type == "pair" and node.start_point.row < start[0]
            if (above or node.type in _TABLES) and speaks_of_secrets(_dotted(node)):
                return True
            node = node.parent
        return False

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.split("\n")

    @cached_property
    def _tree(self) -> tree_sitter.Tree:
        return tree_sitter.Parser(_LANGUAGE).parse(self.text.encode())

    @cached_property
    def _places(self) -> tuple[dict[Keys, tuple[int, int]], dict[Keys, list[tree_sitter.Node]]]:
        """Row and byte offset, from 0, of each table's first mention; the pairs in tables not yet looked into."""
        places: dict[Keys, tuple[int, int]] = {}
        bodies: dict[Keys, list[tree_sitter.Node]] = {(): []}
        lengths: dict[Keys, int] = {}
        for node in self._tree.root_node.children:
            if node.type == "pair":
                bodies[()].append(node)
            elif node.type in _TABLES and _named(node):
                header, *rest = _named(node)
                keys: Keys = ()
                for keys, part in _walk_header(header, lengths, node.type == "table_array_element"):
                    places.setdefault(keys, part.start_point)
                bodies[keys] = [child for child in rest if child.type == "pair"]
        return places, bodies


def read_source(path: Path, name: str, shelf: Shelf) -> Source | Problem:
    """The file's values, or the one problem that keeps it from being read."""
    try:
        text = shelf.read(path).decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        return _unreadable(error, name)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        message = "the file is not UTF-8 text"
        return Problem("E102", "error", message, name, line, 1, help="save it as UTF-8")
    if problem := _unparsable(text, name):
        return problem
    try:
        source = Source(name, path.absolute().parent, text, tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # ValueError also for whole numbers of thousands of digits
        return _syntax_problem(Source(name, path.absolute().parent, text, {}), error)
    if _too_deep(source.values):
        message = f"nested more than {_DEEPEST} levels deep"
        return Problem("E102", "error", message, name, 1, 1, help="nothing of erpsync is: write it flatter")
    return source


_REMEDIES = {
    errno.ELOOP: "let the link lead to a file",
    errno.EACCES: "may this user read it?",
    errno.EINVAL: "write what it gives into a file: each reload and each start reads it again",
    errno.EISDIR: "name a file in it",
    errno.EFBIG: "is it the configuration? If so, divide it into files: [daemon] include",
}


def _unreadable(error: OSError, name: str) -> Problem:
    remedy = _REMEDIES.get(error.errno or 0, "")
    return Problem("E101", "error", f"cannot read the file: {error.strerror or error}", name, help=remedy)


def _unparsable(text: str, name: str) -> Problem | None:
    """What would keep a parser busy for minutes, told before one begins."""
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > _LONGEST_READ:
            message, help_ = f"a line is longer than {_LONGEST_READ} characters", "write it in several lines"
        elif line.count(".") >= _MOST_PARTS and _LONG_KEY.search(line):
            message, help_ = (
                f"a key has more than {_MOST_PARTS} parts",
                "no key of erpsync has more than a few",
            )
        else:
            continue
        return Problem("E102", "error", message, name, number, 1, help=help_)
    return None


def _syntax_problem(source: Source, error: Exception) -> Problem:
    """What tomllib says, in our words where its own are Python's."""
    message, place, hint = str(error), _AT.search(str(error)), REMEDIES["E102"]
    if not isinstance(error, tomllib.TOMLDecodeError):  # no place: the parser did not expect to fail so
        message = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        help_ = "no value of erpsync is: write it flatter" if "deeply" in message else "write fewer"
        return Problem("E102", "error", f"not valid TOML: {message}", file=source.name, help=help_)
    end = source.text.rstrip("\n")
    line, column = end.count("\n") + 1, len(end) - end.rfind("\n")
    if place:
        message = message[: place.start()]
        line, column = (int(place[1]), int(place[2])) if place[1] else (line, column)
    if twice := _TWICE.search(message):
        names = tuple(re.findall(r"""(?<=['"])[^'",]+(?=['"])""", twice[1]))
        message, hint = f"[{'.'.join(names)}] is defined twice", f"first in line {source.position(names)[0]}"
    elif bare := _BARE.match(source.text.split("\n")[line - 1]):
        hint = f'text needs quotes: {bare[1]} = "…"'
    elif message == r"Illegal character '\n'":
        message = "text in quotes must end before the line does"
    message = f"not valid TOML: {message[:1].lower()}{message[1:]}"
    shown = source.line(line) if _BEGINS_ANEW.match(source.text.split("\n")[line - 1]) else ""
    return Problem("E102", "error", message, source.name, line, column, "", hint, shown)


def _too_deep(value: object, level: int = 0) -> bool:
    if isinstance(value, dict):
        return level > _DEEPEST or any(
            _too_deep(inner, level + 1) for inner in value.values() if isinstance(inner, dict | list)
        )
    if isinstance(value, list):
        return level > _DEEPEST or any(
            _too_deep(inner, level + 1) for inner in value if isinstance(inner, dict | list)
        )
    return False


def _walk_header(
    header: tree_sitter.Node, lengths: dict[Keys, int], appends: bool
) -> Iterator[tuple[Keys, tree_sitter.Node]]:
    """The tables named by a header; `lengths` numbers the tables of each `[[x]]` as they come."""
    keys: Keys = ()
    for part in _parts(header):
        if keys in lengths:
            keys = (*keys, lengths[keys] - 1)
        keys = (*keys, _name(part))
        yield keys, part
    if appends:
        lengths[keys] = lengths.get(keys, 0) + 1
        yield (*keys, lengths[keys] - 1), header


def _walk_pair(pair: tree_sitter.Node, keys: Keys) -> Iterator[tuple[Keys, tree_sitter.Node]]:
    key, *values = _named(pair) or [pair]
    for part in _parts(key):
        keys = (*keys, _name(part))
        yield keys, part
    for value in values:
        yield from _walk_value(value, keys)


def _walk_value(value: tree_sitter.Node, keys: Keys) -> Iterator[tuple[Keys, tree_sitter.Node]]:
    if value.type == "inline_table":
        for child in _named(value):
            yield from _walk_pair(child, keys)
    elif value.type == "array":
        for index, element in enumerate(_named(value)):
            yield (*keys, index), element
            yield from _walk_value(element, (*keys, index))


def _named(node: tree_sitter.Node) -> list[tree_sitter.Node]:
    return [child for child in node.children if child.is_named and child.type != "comment"]


def _parts(key: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    if key.type == "dotted_key":
        for child in _named(key):
            yield from _parts(child)
    else:
        yield key


def _dotted(node: tree_sitter.Node) -> str:
    """The key of a pair, or the header of a table."""
    return ".".join(_name(part) for key in _named(node)[:1] for part in _parts(key))


def _name(part: tree_sitter.Node) -> str:
    text = (part.text or b"").decode(errors="replace")
    if part.type != "quoted_key":
        return text
    try:
        return next(iter(tomllib.loads(f"{text} = 0")))
    except ValueError:
        return text
