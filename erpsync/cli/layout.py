"""How rows of text are laid out in the width there is: columns, and under a row what has no room beside it.

Nothing is ever cut. Pure: nothing here knows a terminal.
"""

import textwrap
from collections.abc import Callable, Collection, Sequence

from rich.cells import cell_len

_GAP = 2  # blanks between columns
_NARROWEST = 20  # cells that a column of words gets at least, if it has so many
_INSET = 4  # blanks before what stands under its row

Style = Callable[[str], Callable[[str], str]]
"""From the whole text of a cell to what each of its lines is drawn with."""


def laid_out(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int | None,
    *,
    fold: Collection[str] = (),
    style: Style,
    heading: Callable[[str], str],
) -> list[str]:
    """Lines without trailing blanks, the heading first; as wide as needed where `width` is None.

    In a width, columns `fold` are folded between words. What has no room even so stands under its row with its name,
    columns `fold` first, then from the right. Words longer than the width are left to the terminal.
    """
    natural = [
        max(cell_len(text) for text in (name, *(row[index] for row in rows)))
        for index, name in enumerate(columns)
    ]
    beside, below = _parted(columns, natural, width, fold)
    widths = _widths(columns, natural, beside, width, fold)
    lines = _row_lines(columns, beside, widths, lambda _: heading)
    for row in rows:
        lines += _row_lines(row, beside, widths, style)
        more = "; ".join(f"{columns[index]}: {row[index]}" for index in below if row[index] not in ("", "-"))
        lines += wrapped(" " * _INSET + more, width, _INSET) if more else []
    return lines


def wrapped(text: str, width: int | None, indent: int) -> list[str]:
    """One line of text as lines no wider than `width`, split between words; those that go on are indented, at least
    as far as the first."""
    if width is None or cell_len(text) <= width:
        return [text]
    words = text.lstrip()
    lead = text[: len(text) - len(words)]
    return textwrap.wrap(
        words,
        max(width, indent + _NARROWEST),
        initial_indent=lead,
        subsequent_indent=" " * max(indent, len(lead)),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _parted(
    columns: Sequence[str], natural: Sequence[int], width: int | None, fold: Collection[str]
) -> tuple[list[int], list[int]]:
    """The columns that stand beside each other, and those for which there is no room."""
    beside = list(range(len(columns)))
    leaving = sorted(beside[1:], key=lambda index: (columns[index] in fold, index))
    least = [min(each, _NARROWEST) if columns[i] in fold else each for i, each in enumerate(natural)]
    while width is not None and leaving and _sum([least[index] for index in beside]) > width:
        beside.remove(leaving.pop())
    return beside, [index for index in range(len(columns)) if index not in beside]


def _widths(
    columns: Sequence[str],
    natural: Sequence[int],
    beside: Sequence[int],
    width: int | None,
    fold: Collection[str],
) -> dict[int, int]:
    """Columns `fold` give way, the widest first."""
    widths = {index: natural[index] for index in beside}
    folding = [index for index in beside if columns[index] in fold]
    while width is not None and folding and _sum(widths.values()) > width:
        widest = max(folding, key=lambda index: widths[index])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def _sum(widths: Collection[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _row_lines(
    cells: Sequence[str], beside: Sequence[int], widths: dict[int, int], style: Style
) -> list[str]:
    folded = {index: _folded(cells[index], widths[index]) for index in beside}
    lines = []
    for number in range(max(len(each) for each in folded.values())):
        texts = [(folded[index][number : number + 1] or [""])[0] for index in beside]
        last = max((place for place, text in enumerate(texts) if text), default=0)
        drawn = [
            style(cells[index])(text) + " " * (widths[index] - cell_len(text) if place < last else 0)
            for place, (index, text) in enumerate(zip(beside, texts, strict=True))
            if place <= last
        ]
        lines.append((" " * _GAP).join(drawn).rstrip())
    return lines


def _folded(text: str, width: int) -> list[str]:
    """`text` in lines of `width`; a word that is longer goes on in the next line."""
    if cell_len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]
