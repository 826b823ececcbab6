"""Removing secrets and tokens from text before anyone sees it."""

import base64
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from urllib.parse import quote, quote_plus

from erpsync.core.escape import unescaped

_SHAPES = re.compile(
    # a JWT; a long header is tried once a word only, or long words would cost their square
    r"(?:(?<![\w-])eyJ[\w-]{6,}+|eyJ[\w-]{6,400}+)\.[\w-]{6,}+\.[\w-]*"
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
LONGEST_FOREIGN = 16 * 1024
"""Characters that are kept of foreign words until they have passed the redactor: they are cut short only after it,
or half of a secret would be left that nobody knows."""
_END_CUT = 4096
"""Of foreign words that have been cut, the end that is not shown: it may hold the first half of a secret."""
LONGEST_SHOWN = 2000
"""Characters of foreign words that are shown."""
SHORTEST = 4
"""Characters of the shortest value that is removed: shorter ones would tear ordinary words apart."""
_NO_CHANCE = 8  # characters that no date, number or name has in common with a secret
_FEW = 64  # forms that are looked for one by one, which is quickest
_LAYERS = 3  # of escapes: a JSON text in a JSON text in a log line
_PASSING = 8  # values an owner has at a time that come and go

_Head = tuple[str, ...]  # the first characters of a value, as zip() gives them


class Redactor:
    """Knows the secret values of this process and removes them, and whatever looks like a token, from text.

    One object is shared by everything that learns secrets and everything that writes text. Safe from several
    threads. Ten thousand values cost a look at each character of a text, and no more.
    """

    def __init__(self) -> None:
        self._heads: dict[_Head, tuple[str, ...]] = {}  # values by their first characters, the longest first
        self._few: tuple[str, ...] | None = ()  # all of them; None where they are many
        self._lasting: set[str] = set()
        self._passing: dict[str, list[str]] = {}  # of each owner, the newest last
        self._holders: Counter[str] = Counter()  # owners of each value that passes
        self._learning = threading.Lock()

    def learn(self, *values: str) -> None:
        """From now on these values appear in no text that passes through here."""
        for part in {part for value in values for part in (value, *value.splitlines())}:
            if len(part) >= SHORTEST and part not in self._lasting:
                with self._learning:
                    self._lasting.add(part)
                    self._change(_forms(part), ())

    def learn_passing(self, owner: str, value: str) -> None:
        """The same for a value that another one will replace: of each owner only the newest are remembered.

        What comes again is as new as the newest, so a value that stays in use stays known. What its shape gives
        away need not be remembered.
        """
        if len(value) < SHORTEST or _SHAPES.fullmatch(value):
            return
        with self._learning:
            kept = self._passing.setdefault(owner, [])
            if value in kept:
                kept.remove(value)
            else:
                self._holders[value] += 1
                self._change(_forms(value), ())
            kept.append(value)
            if len(kept) > _PASSING:
                self._forget(kept.pop(0))

    def _forget(self, value: str) -> None:
        """Unless it lasts, or another owner has it too."""
        self._holders[value] -= 1
        if not self._holders[value]:
            del self._holders[value]
            if value not in self._lasting:
                self._change((), _forms(value))

    def knows(self, value: str) -> bool:
        """Whether this is a secret itself."""
        return value in self._heads.get(_head(value), ())

    def _change(self, come: Collection[str], go: Collection[str]) -> None:
        for head in {_head(form) for form in (*come, *go)}:
            fresh = {form for form in come if _head(form) == head}
            values = fresh | {*self._heads.get(head, ())} - {*go}
            if values:
                self._heads[head] = tuple(sorted(values, key=len, reverse=True))
            else:
                del self._heads[head]
        if self._few is not None:
            few = tuple(value for values in self._heads.values() for value in values)
            self._few = few if len(few) <= _FEW else None

    def __call__(self, text: str) -> str:
        """`text` without secrets, and such that it can be written down: lone surrogates become escapes."""
        if not text.isascii():
            text = text.encode("utf-8", "backslashreplace").decode()
        return _masked(text, [*self._places(text), *_shaped(text)])

    def holds(self, text: str) -> bool:
        """Whether a text is a secret, or holds one long enough not to be there by chance."""
        return self.knows(text) or any(end - start >= _NO_CHANCE for start, end in self._places(text))

    def before(self, text: str, at: int) -> int:
        """The last place up to `at` where `text` can be parted without parting a secret."""
        places = [*self._places(text), *_shaped(text)]
        return min((start for start, end in places if start < at < end), default=at)

    def shortened(self, text: str, longest: int = LONGEST_SHOWN) -> str:
        """`text` without secrets, and then no longer than that."""
        if len(text) >= LONGEST_FOREIGN:  # cut before, perhaps within a secret, or here
            text = text[: self.before(text, LONGEST_FOREIGN - _END_CUT)]
        shown = self(text)
        return shown if len(shown) <= longest else shown[: longest - 1] + "…"

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Where known values stand, begin and end, read as they are and with each layer of escapes undone."""
        found, read, begins = [], text, None
        for layer in range(_LAYERS + 1):
            if self._holds_known(read):
                places = self._known_in(read)
                found += places if begins is None else [(begins[start], begins[end]) for start, end in places]
            further = unescaped(read) if layer < _LAYERS else None
            if further is None:
                break
            read, inner = further
            begins = inner if begins is None else [begins[at] for at in inner]
        return found

    def _holds_known(self, text: str) -> bool:
        """A quick look: no secret where it says so."""
        if self._few is not None:
            return any(map(text.__contains__, self._few))
        return not self._heads.keys().isdisjoint(zip(text, text[1:], text[2:], text[3:], strict=False))

    def _known_in(self, text: str) -> list[tuple[int, int]]:
        """The leftmost and longest known values."""
        places, done = [], 0
        for at in range(len(text) - SHORTEST + 1):
            if at >= done and (values := self._heads.get(_head(text[at : at + SHORTEST]))):
                value = next((value for value in values if text.startswith(value, at)), None)
                if value is not None:
                    done = at + len(value)
                    places.append((at, done))
        return places


def _shaped(text: str) -> list[tuple[int, int]]:
    """Where something stands that looks like a token, begin and end."""
    low = text.lower()
    # letters beyond ASCII may stand for some of the marks
    if text.isascii() and not any(mark in low for mark in _MARKS):
        return []
    return [match.span() for match in _SHAPES.finditer(text)]


def _masked(text: str, places: list[tuple[int, int]]) -> str:
    """`text` with one mask for each stretch of these places."""
    parts, done = [], 0
    for start, end in sorted(places):
        if start >= done:
            parts += [text[done:start], _MASK]
        done = max(done, end)
    return "".join([*parts, text[done:]])


_MADE_HERE = re.compile("id|retry_of|at|.*_at|since|until")
"""Keys of what erpsync makes up itself and programs read: a secret that is a year must not hide an instant."""


def document_without(value: object, redact: Callable[[str], str]) -> object:
    """A JSON document without secrets, however deep they lie; its keys are ours."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            key: inner
            if isinstance(inner, str) and _MADE_HERE.fullmatch(key)
            else document_without(inner, redact)
            for key, inner in value.items()
        }
    return [document_without(inner, redact) for inner in value] if isinstance(value, list | tuple) else value


def _head(text: str) -> _Head:
    return tuple(text[:SHORTEST])


def _forms(value: str) -> set[str]:
    """What of a value cannot be read by undoing escapes: tidied up, coded, and with escapes of its own undone."""
    worn = {value, value.strip(), " ".join(value.split())}  # what tidies text up leaves these
    forms = set(worn)
    for text in worn:
        forms.add(text.replace(" ", "+"))  # in a form, where a "+" itself is escaped
        forms.add(text.replace("'", "''"))  # in SQL and YAML
        forms.add(text.replace("'", "'\"'\"'"))  # shlex.quote
        for _ in range(_LAYERS):
            text, _begins = unescaped(text) or (text, None)
            forms.add(text)
    raw = value.encode("utf-8", "surrogatepass")
    forms |= {raw.hex(), raw.hex().upper()}
    # RFC 6749 section 2.3.1: in HTTP Basic the secret is quoted first, by others with %20
    for sent in {
        raw,
        quote_plus(value, errors="surrogatepass").encode(),
        quote(value, "", errors="surrogatepass").encode(),
    }:
        forms.update(_in_base64(sent))
    return {form for form in forms if len(form) >= SHORTEST}


def _in_base64(value: bytes) -> Iterator[str]:
    """The characters that stand for all of `value` but a few bits, wherever it lies in what was encoded."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + value).decode()
        whole = (before + len(value)) * 8 // 6
        core = text[(before * 8 + 5) // 6 : whole]
        yield core
        yield core.replace("+", "-").replace("/", "_")
