"""Removing secrets and tokens from text before anyone sees it."""

import base64
import json
import re
from urllib.parse import quote, quote_plus

_SHAPES = re.compile(
    r"(?<![\w-])eyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]*"  # a JWT; tried once a word, or long words would cost their square
    r"|enrt_[0-9A-Za-z]{8,}"  # an ERP.net reference token
    r"|(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}"
    r"|(?i:\b(?:client_secret|refresh_token|access_token|code_verifier|client_assertion)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,{}\[\]]+"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # a password inside a URL
)
_MARKS = (
    "eyj",
    "enrt_",
    "bearer",
    "basic",
    "client_secret",
    "refresh_token",
    "access_token",
    "code_verifier",
    "client_assertion",
    "://",
)
"""Each shape holds one of these, in some case: a quick look at them spares most lines the search."""
_MASK = "[redacted]"
_SHORTEST = 4  # shorter values would tear ordinary words apart


class Redactor:
    """Knows the secret values of this process and removes them, and whatever looks like a token, from text.

    One object is shared by everything that learns secrets and everything that writes text. Safe from several
    threads: learning replaces one pattern by another.
    """

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, *values: str) -> None:
        """From now on these values appear in no text that passes through here."""
        plain = {part for value in values for part in (value, *value.splitlines()) if len(part) >= _SHORTEST}
        fresh = {form for part in plain for form in _forms(part)}
        if fresh <= self._known:
            return
        self._known |= fresh
        longest_first = sorted(self._known, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(value) for value in longest_first))

    def __call__(self, text: str) -> str:
        """`text` without secrets, and such that it can be written down: lone surrogates become escapes."""
        plain = text.isascii()
        if not plain:
            text = text.encode("utf-8", "backslashreplace").decode()
        if self._pattern is not None:
            text = self._pattern.sub(_MASK, text)
        low = text.lower()
        if plain and not any(
            mark in low for mark in _MARKS
        ):  # letters beyond ASCII may stand for some of them
            return text
        return _SHAPES.sub(_MASK, text)


def _forms(value: str) -> set[str]:
    """A value as it stands in text, in JSON and reprs, in forms and URLs, and in base 64."""
    return {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        quote(value, safe=""),
        quote_plus(value),
        base64.b64encode(value.encode("utf-8", "surrogatepass")).decode(),
    }
