"""Places of keys, and files that nobody wrote with care."""

import json
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erpsync.config.load import load_configuration
from erpsync.config.mask import shown_line
from erpsync.config.shelf import Disk
from erpsync.config.source import Keys, Source, read_source
from erpsync.core.errors import ConfigError
from erpsync.core.problem import Problem

ROOT = Path(__file__).parents[2]
TIMES = """
[calendars.weekend]
weekdays = ["SAT", "SUN"]
dates = [2026-12-31]
yearly = ["12-31"]
holidays = "DE-BY"
[pools.dock]
slots = 2
[jobs.report]
plugin = "mirror"
instances = ["*"]
schedule = ["@daily", { after = ["products", "ping"], on = ["failed"] }]
formerly = ["summary", "rates@example"]
blackout = "weekend"
window = { from = "22:00", to = "06:00" }
due_by = "06:30"
pool = "dock"
"""
VALID = "\n".join(file.read_text() for file in sorted((ROOT / "config").rglob("*.toml"))) + TIMES
PIECES = [
    *(
        "[",
        "]",
        "{",
        "}",
        '"',
        "'",
        '"""',
        "=",
        ".",
        ",",
        "#",
        "${",
        "!",
        "1",
        "-1",
        "1e9",
        "[[",
        "]]",
        "true",
        "inf",
    ),
    *(
        "2026-01-01",
        "2026-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "ж",
        "\\u0000",
        "\n",
        "\t",
        "\r",
        "{}",
    ),
    *("with", "schedule", "jobs", "include", "[defaults]", "tag:", ".x=1", "file = ", "x = ", "a.b.c = 1\n"),
]
TEXTS = ["\0", "${instance}", "https://a:b@c", "night", "example", "*", "1s", "10/s", "Europe/Sofia", "env:"]
TEXTS += ["report", "products@example", "weekend", "22:00", "BG", "-BY", "L"]
KEYS = [
    "secret",
    "file",
    "cron",
    "every",
    "at",
    "url",
    "table",
    "x",
    "enabled",
    "with",
    "after",
    "on",
    "from",
]
VALUES = st.recursive(
    st.sampled_from([*PIECES, *TEXTS, True, 0, -1, 1.5])
    | st.datetimes().map(lambda instant: instant.replace(microsecond=0)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)

SOURCE = """\
a.b = [1, # one
 {"ж x" = 2, q = { r = 3 }}]
[[z]]
k = 1
[[z]]
\tk = 2
[z.w]
"жж" = 1
[p . "q.r" . 's']
t = '''
=[x]
'''
u = [[0, 1], [{v = 1}]]
"""


@pytest.mark.parametrize(
    ("keys", "line", "column"),
    [
        (("a",), 1, 1),
        (("a", "b"), 1, 3),
        (("a", "b", 1), 2, 2),
        (("a", "b", 1, "ж x"), 2, 3),
        (("a", "b", 1, "q", "r"), 2, 20),
        (("z", 0, "k"), 4, 1),
        (("z", 1, "k"), 6, 2),
        (("z", 1, "w", "жж"), 8, 1),
        (("p", "q.r"), 9, 6),
        (("p", "q.r", "s", "t"), 10, 1),
        (("p", "q.r", "s", "u", 1, 0, "v"), 13, 16),
        (("p", "q.r", "nowhere", "x"), 9, 6),
        (("nowhere",), 1, 1),
    ],
)
def test_keys_have_places(tmp_path: Path, keys: Keys, line: int, column: int) -> None:
    """Dotted, quoted, inline and repeated tables; columns count characters; a missing key is at its nearest table."""
    (tmp_path / "x.toml").write_text(SOURCE)
    source = read_source(tmp_path / "x.toml", "x.toml", Disk())
    assert isinstance(source, Source)
    assert source.position(keys) == (line, column)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('client_secret = "dragon" # x', "client_secret = …"),
        ('x = { url = "u", password = "dragon" }', 'x = { url = "u", password = …'),
        ("client_secret = ['dragon', 'tree']", "client_secret = …"),
        ('"db.password" = "dragon"', '"db.password" = …'),
        ('url = "postgresql://me:dragon@db/x"', 'url = "postgresql://me:…@db/x"'),
        ('client_secret = { secret = "acme.night" }', 'client_secret = { secret = "acme.night" }'),
        ("\tx = 1\r", " x = 1"),
        ('seal_key = "dragon"', "seal_key = …"),
        ('private_key = "dragon"', "private_key = …"),
        ('seal_key = { value = "dragon" }', "seal_key = …"),
        ('seal_key = { file = "seal" }', 'seal_key = { file = "seal" }'),
        ('x = { password = "dragon" }', "x = { password = …"),
        ("password = 271828", "password = …"),
        ("client_secret = dragon", "client_secret = …"),
        ('client_secrt = "dragon"', "client_secrt = …"),
        ('passwrd = "dragon"', "passwrd = …"),
        ('client_secret = { secret = "dragon!%" }', "client_secret = …"),
        ('client_secret = { env = "dragon" }', "client_secret = …"),
        (
            'client_secret = [{ secret = "${instance}.new" }, { env = "OLD" }]',
            'client_secret = [{ secret = "${instance}.new" }, { env = "OLD" }]',
        ),
        ('client_secret = [{ secret = "new" }, "dragon"]', "client_secret = …"),
        (
            'headers = { Accept = "x/y", Authorization = "dragon" }',
            'headers = { Accept = "x/y", Authorization = …',
        ),
        ('url = "https://x.example/?a=1&api_key=dragon#x"', 'url = "https://x.example/?a=1&api_key=…#x"'),
        ("token_expires = 2027-03-01", "token_expires = 2027-03-01"),
        ('jobs.token-sync = { schedule = "61 * * * *" }', 'jobs.token-sync = { schedule = "61 * * * *" }'),
        ('from = ["secrets"]', 'from = ["secrets"]'),
    ],
)
def test_a_line_is_shown_without_secrets(line: str, expected: str) -> None:
    """What stands where a secret may stand is left out, references stay."""
    assert shown_line(line) == expected


SPREAD = """
[identities.night]
client_secret = [
    { secret = "night" },
    "dragon",
]
private_key = '''
dragon
'''
[jobs.x.with.password]
value = "dragon"
[jobs.token-sync]
schedule = "61 * * * *"
"""


@pytest.mark.parametrize(
    ("number", "expected"),
    [(4, '    { secret = "night" },'), (5, "…"), (8, "…"), (11, "…"), (13, 'schedule = "61 * * * *"')],
)
def test_a_line_that_goes_on_with_a_secret_is_not_shown(tmp_path: Path, number: int, expected: str) -> None:
    """Wherever the value began: in a list, in text of several lines, or in a table of its own."""
    (tmp_path / "x.toml").write_text(SPREAD)
    source = read_source(tmp_path / "x.toml", "x.toml", Disk())
    assert isinstance(source, Source)
    assert source.line(number) == expected


def test_what_follows_an_open_quote_is_not_shown(tmp_path: Path) -> None:
    """Where the parser has lost its way, a line that begins nothing may be the middle of a secret."""
    (tmp_path / "x.toml").write_text('client_secret = """\ndragon\n')
    problem = read_source(tmp_path / "x.toml", "x.toml", Disk())
    assert isinstance(problem, Problem)
    assert (problem.code, problem.source) == ("E102", "")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("client_id = erpsync.sandbox/service", "client_id"),
        ("  schedule = 15 2 * * *", "schedule"),
        ("timeout = 1h", "timeout"),
        ('name = "open', None),
        ("names = [a]", None),
        ("name =", None),
    ],
)
def test_missing_quotes_are_told(tmp_path: Path, line: str, key: str | None) -> None:
    """The most usual mistake has its own remedy, which does not repeat what may be a secret."""
    (tmp_path / "x.toml").write_text(f"[jobs.x]\n{line}\n")
    problem = read_source(tmp_path / "x.toml", "x.toml", Disk())
    assert isinstance(problem, Problem)
    assert problem.line == 2
    told = f'text needs quotes: {key} = "…"'
    assert (problem.help == told) is (key is not None), problem.help


@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(["", *PIECES]) | st.text(max_size=3)),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_loads_or_has_problems(
    edits: list[tuple[float, int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged file gives problems with places inside it, never another exception."""
    text = VALID
    for where, removed, piece in edits:
        start = int(where * len(text))
        text = text[:start] + piece + text[start + removed :]
    monkeypatch.chdir(tmp_path)
    load_or_tell(text)


@given(edits=st.lists(st.tuples(st.integers(0), VALUES), min_size=1, max_size=4))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_values_load_or_have_problems(
    edits: list[tuple[int, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands in place of any table or value is taken or told, never another exception."""
    tree = tomllib.loads(VALID)
    for where, value in edits:
        spots = list(_spots(tree))
        table, key = spots[where % len(spots)]
        table[key] = value
    monkeypatch.chdir(tmp_path)
    load_or_tell("\n".join(f"{key} = {_toml(value)}" for key, value in tree.items()))


def load_or_tell(text: str) -> None:
    """Load the text as a configuration, or look at each of its problems."""
    Path("x.toml").write_bytes(text.encode(errors="replace"))
    try:
        configuration = load_configuration(Path("x.toml"), {"HOME": "/nowhere"})
    except ConfigError as error:
        lines = text.count("\n") + 2
        for problem in error.problems:
            assert problem.text()
            assert problem.line is None or 1 <= problem.line <= lines
    else:
        for job in configuration.jobs.values():
            assert configuration.document(job)
            assert configuration.origins(job.name)


@given(
    st.recursive(
        st.none(), lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8
    )
)
@settings(max_examples=100)
def test_every_table_that_tomllib_reads_has_a_place(tree: dict[str, object] | None) -> None:
    """Whatever its keys are called, each is found where it stands."""
    lines, expected = _written(tree or {}, ())
    text = "\n".join(lines)
    source = Source("x", Path(), text, tomllib.loads(text))
    for keys, line in expected.items():
        assert source.position(keys)[0] == line


def _spots(tree: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for key, value in tree.items():
        yield tree, key
        if isinstance(value, dict):
            yield from _spots(value)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return value.isoformat() if isinstance(value, date) else json.dumps(value, ensure_ascii=False)


def _written(tree: dict[str, object], prefix: tuple[str, ...]) -> tuple[list[str], dict[Keys, int]]:
    """One header a line for each table that has none inside."""
    headers = list(_headers(tree, prefix))
    return ["[" + ".".join(map(_quoted, keys)) + "]" for keys in headers], {
        keys: number for number, keys in enumerate(headers, 1)
    }


def _headers(tree: dict[str, object], prefix: tuple[str, ...]) -> list[tuple[str, ...]]:
    found = []
    for key, inner in tree.items():
        keys = (*prefix, key)
        found += _headers(inner, keys) if isinstance(inner, dict) and inner else [keys]
    return found


def _quoted(key: str) -> str:
    return '"' + "".join(f"\\U{ord(letter):08x}" for letter in key) + '"'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"x = '{'y' * 100_000}'", "longer than 100000 characters"),
        (f"{'a.' * 3000}b = 1", "more than 200 parts"),
        (f"[{'a.' * 3000}b]", "more than 200 parts"),
        ("x = { " + '"a" . ' * 3000 + "b = 1 }", "more than 200 parts"),
    ],
)
def test_what_would_take_the_parser_long_is_refused_before(tmp_path: Path, line: str, said: str) -> None:
    """With the line, and at once."""
    (tmp_path / "x.toml").write_text(f"[jobs]\n{line}\n")
    problem = read_source(tmp_path / "x.toml", "x.toml", Disk())
    assert isinstance(problem, Problem)
    assert (problem.code, problem.line) == ("E102", 2)
    assert said in problem.message


def test_dots_in_text_are_no_key(tmp_path: Path) -> None:
    """Numbers, sentences and leaders may have as many as they like."""
    numbers = ", ".join(["1.5"] * 300)
    (tmp_path / "x.toml").write_text(f"x = [{numbers}]\ny = '{'it is so. ' * 300}{'.' * 300}'\n")
    assert isinstance(read_source(tmp_path / "x.toml", "x.toml", Disk()), Source)
