"""Whatever is written into erpsync.toml, `check` answers with problems and never with a fault of its own."""

import io
import json
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erpsync.cli.main import run

SAMPLE = "".join(
    path.read_text() for path in sorted((Path(__file__).parents[2] / "config").rglob("*.toml"))
).replace("include", "# include")
WORDS = [
    *(
        "true",
        "-1",
        "0",
        "1e400",
        "nan",
        "inf",
        "99999999999999999999",
        '""',
        "[]",
        "{}",
        "''",
        "[[]]",
        "[[[1]]]",
    ),
    *(
        '"\\u0000"',
        '"\\uFFFF"',
        "2026-12-31",
        "00:00:00",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
    ),
    *(
        '"tag:"',
        '"!"',
        '"**"',
        '"${x}"',
        '"${vars.a}"',
        '"* * * * *"',
        '"0 0 30 2 *"',
        '"@reboot"',
        '"1h"',
        '"-1s"',
    ),
    *(
        '{ secret = "" }',
        '{ after = "products" }',
        '{ every = "0s" }',
        '{ cron = "" }',
        '"http://[::1"',
        '"://"',
    ),
    *("[a]", "[a.b]", "[[a]]", "a.b.c = 1", "=", "\n", "\t", "#", "\\", "'''", '"""', "[jobs]", "[jobs.x]"),
]

Edit = tuple[str, int, int, str]
edits: st.SearchStrategy[Edit] = st.tuples(
    st.sampled_from(["value", "key", "cut", "insert", "line", "swap"]),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.one_of(st.sampled_from(WORDS), st.text(max_size=12)),
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(edits, min_size=1, max_size=4))
def test_no_file_makes_check_fail(changes: list[Edit]) -> None:
    """Values, keys, lines and letters of the sample are replaced, removed and swapped; the command says in both
    formats what it found, and nothing else."""
    text = SAMPLE
    for change in changes:
        text = _EDITS[change[0]](text, *change[1:])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "erpsync.toml")
        path.write_bytes(text.encode("utf-8", "replace"))
        code, out, err = _type("--config", str(path), "check", "--format", "text")
        assert code in (0, 78), err
        assert "Traceback" not in out + err
        errors = out.count("error[")
        code, out, err = _type("--config", str(path), "check", "--format", "json")
        problems = json.loads(out)
        assert all(problem["message"] for problem in problems), err
        assert sum(problem["severity"] == "error" for problem in problems) == errors
        assert code == (78 if errors else 0)


def _type(*arguments: str) -> tuple[int, str, str]:
    """The command as it is typed, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(arguments)
    return code, out.getvalue(), err.getvalue()


def _value(text: str, at: int, _: int, word: str) -> str:
    """Another value for one key."""
    lines = text.split("\n")
    places = [index for index, line in enumerate(lines) if "=" in line and not line.startswith("#")]
    index = places[at % len(places)]
    lines[index] = lines[index].split("=")[0] + "= " + word
    return "\n".join(lines)


def _key(text: str, at: int, _: int, word: str) -> str:
    lines = text.split("\n")
    places = [index for index, line in enumerate(lines) if "=" in line and not line.startswith("#")]
    index = places[at % len(places)]
    lines[index] = word + " =" + lines[index].split("=", 1)[1]
    return "\n".join(lines)


def _cut(text: str, at: int, length: int, _: str) -> str:
    start = at % max(len(text), 1)
    return text[:start] + text[start + length % 40 :]


def _insert(text: str, at: int, _: int, word: str) -> str:
    start = at % (len(text) + 1)
    return text[:start] + word + text[start:]


def _line(text: str, at: int, _: int, word: str) -> str:
    lines = text.split("\n")
    lines.insert(at % (len(lines) + 1), word)
    return "\n".join(lines)


def _swap(text: str, one: int, other: int, _: str) -> str:
    lines = text.split("\n")
    one, other = one % len(lines), other % len(lines)
    lines[one], lines[other] = lines[other], lines[one]
    return "\n".join(lines)


_EDITS: dict[str, Callable[[str, int, int, str], str]] = {
    "value": _value,
    "key": _key,
    "cut": _cut,
    "insert": _insert,
    "line": _line,
    "swap": _swap,
}
