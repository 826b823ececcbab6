"""Reading escaped text as whoever unescapes it reads it, knowing where each character came from.

One pass undoes, side by side, whatever text is given on its way into a log or an error page:

* JSON and JavaScript: `\\"`, `\\n`, `\\/`, `\\u0422` in both cases; .NET and Go write `& < > ' +` so, too
* Python's repr, ascii and bytes: `\\'`, `\\xe9`, `\\U0001f511`
* HTML and XML: `&amp; &lt; &gt; &quot; &apos;`, `&#39;`, `&#x27;`
* URLs and forms: `%2F`, `%2f`, and `%u0422` of old servers
* base64 broken into lines as mail and PEM do: the breaks

Text that was escaped twice is read by two passes.
"""

import re
from collections.abc import Iterator

_ESCAPE = re.compile(
    r"(?:%[0-9A-Fa-f]{2})+"
    r"|(?:\\x[0-9A-Fa-f]{2})+"
    r"|(?:[\\%]u[0-9A-Fa-f]{4})+"
    r"|\\U[0-9A-Fa-f]{8}"
    r"|\\[abfnrtv0\\'\"/`]"
    r"|&(?:amp|lt|gt|quot|apos);"
    r"|&\#(?:[xX][0-9A-Fa-f]{1,6}|[0-9]{1,7});"
    r"|(?<=[0-9A-Za-z+/_-]{60})\r?\n[ \t]*(?=[0-9A-Za-z+/=_-])"
)
_MARKS = ("\\", "%", "&", "\n")
"""Each escape begins with one of these."""
_CONTROL = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "0": "\0",
}
_ENTITY = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'"}
_LAST = 0x10FFFF


def unescaped(text: str) -> tuple[str, list[int]] | None:
    """`text` with one layer of escapes undone, and for each of its characters, and its end, where it began in `text`;
    None where nothing is escaped."""
    if not any(mark in text for mark in _MARKS):
        return None
    pieces: list[str] = []
    begins: list[int] = []
    done = 0
    for escape in _ESCAPE.finditer(text):
        start = escape.start()
        pieces.append(text[done:start])
        begins.extend(range(done, start))
        for sign, width in _meant(escape[0]):
            pieces.append(sign)
            begins.append(start)
            start += width
        done = escape.end()
    if not done:
        return None
    pieces.append(text[done:])
    begins.extend(range(done, len(text) + 1))
    return "".join(pieces), begins


def _meant(escape: str) -> Iterator[tuple[str, int]]:
    """The characters an escape, or a row of them, stands for, each with the length of its escape."""
    if escape[:2] in ("\\u", "%u"):
        units = bytes.fromhex("".join(escape[at + 2 : at + 6] for at in range(0, len(escape), 6)))
        for sign in units.decode("utf-16-be", "surrogatepass"):
            yield sign, 12 if ord(sign) > 0xFFFF else 6
    elif escape[0] == "%" or escape[:2] == "\\x":
        width = escape.index("x") + 3 if escape[0] == "\\" else 3
        yield from _of_bytes(bytes.fromhex(re.sub(r"%|\\x", "", escape)), width)
    elif escape[0] == "&":
        yield _ENTITY.get(escape) or _numbered(escape[2:-1]), len(escape)
    elif escape[:2] == "\\U":
        yield _numbered("x" + escape[2:]), len(escape)
    elif escape[0] == "\\":
        yield _CONTROL.get(escape[1], escape[1]), len(escape)


def _of_bytes(data: bytes, width: int) -> Iterator[tuple[str, int]]:
    """UTF-8, or Latin-1 where it is none."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
        yield from ((sign, width) for sign in text)
    else:
        yield from ((sign, width * len(sign.encode())) for sign in text)


def _numbered(number: str) -> str:
    code = int(number[1:], 16) if number[0] in "xX" else int(number)
    return chr(code) if code <= _LAST else "\N{REPLACEMENT CHARACTER}"
