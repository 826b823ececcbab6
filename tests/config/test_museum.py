"""A museum of bad files, each with the exact text of its problems beside it."""

from pathlib import Path

import pytest

from erpsync.config.codes import CODES
from erpsync.config.load import load_configuration
from erpsync.core.errors import ConfigError

BAD = Path(__file__).parent / "bad"
DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration-problems.md"


@pytest.mark.parametrize("file", sorted(BAD.glob("*.toml")), ids=lambda file: file.stem)
def test_a_bad_file_is_told_in_full(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every problem has code, message, place, caret and help; no literal secret is repeated."""
    monkeypatch.chdir(BAD)
    with pytest.raises(ConfigError) as caught:
        load_configuration(Path(file.name), {})
    text = "\n\n".join(problem.text() for problem in caught.value.problems) + "\n"
    assert text == file.with_suffix(".txt").read_text()
    assert "dragon-tree" not in text


def test_every_file_of_the_museum_has_its_text() -> None:
    """No text stands without its file, and no file without its text."""
    assert {file.stem for file in BAD.glob("*.toml")} == {file.stem for file in BAD.glob("*.txt")}


def test_the_document_lists_the_codes() -> None:
    """docs/configuration-problems.md has exactly the codes of this room, with their meaning."""
    rows = [
        line.strip("|").split("|") for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")
    ]
    listed = {code.strip(" `"): meaning.strip() for code, meaning, _ in rows}
    assert {code: listed[code] for code in listed if code[1] == "1"} == CODES
