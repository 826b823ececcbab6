"""The catalogue of events and the code say the same."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
EVENT = re.compile(r"[a-z]+\.[a-z_]+")


def told(tree: ast.AST) -> Iterator[str]:
    """Event literals: the first argument of whatever emits, tells or writes, and values of a keyword `event`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if re.fullmatch(r"_?(emit|tell\w*|write)", name):
                yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))
            yield from (
                keyword.value.value
                for keyword in node.keywords
                if keyword.arg == "event" and isinstance(keyword.value, ast.Constant)
            )
        if isinstance(node, ast.Assign) and any(
            getattr(target, "id", "") == "event" for target in node.targets
        ):
            yield from (part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant))


def in_code() -> set[str]:
    rooms = [
        path
        for path in (REPOSITORY / "erpsync").iterdir()
        if path.is_dir() and path.name not in ("jobs", "sandbox")
    ]
    trees = (ast.parse(file.read_text()) for room in rooms for file in room.rglob("*.py"))
    return {word for tree in trees for word in told(tree) if isinstance(word, str) and EVENT.fullmatch(word)}


def test_catalogue_and_code_name_the_same_events() -> None:
    """Every event that the code tells is in docs/events.md, and every event there is told by the code."""
    documented = set(
        re.findall(r"^\| `([a-z_.]+)` \|", (REPOSITORY / "docs" / "events.md").read_text(), re.M)
    )
    assert len(documented) > 20
    assert in_code() == documented
