"""Looking for secrets where none may be: in what was said, in files, in processes; and typing what may say them."""

import base64
import html
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from tests.acceptance.site import Site
from tests.cli.conftest import Said, Type, erpsync

__all__ = ["erpsync"]

UNUSUAL = {
    "percent": "p%41ss+&=?#%zz",
    "quotes": "quo\"te\\back's`${HOME}`",
    "cyrillic": "Тайна-парола-7",
    "beyond": "𝒮ecret-\N{KEY}-of-four-bytes",
    "spaces": "  Blanks at  both ends ",
    "long": "x" * 496 + "-end",
    "regex": r"a.*+?^${}()|[]\d",
    "markup": "<b>&amp;'secret'</b>",
    "lines": "line-of-before\nline-of-after",
    "tabs": "semi;colon\ttab  two",
    "short": "s3c!",
}
"""By the name of the identity, and of the jobs, that have it."""
_SHORTEST_PART = 8


class Search:
    """Looks for values in every form in which somebody could read them, and for their beginnings."""

    def __init__(self, secrets: Iterable[str], tokens: Iterable[str]) -> None:
        self._forms = {form: value for value in secrets for form in spellings(value)}
        for token in tokens:
            self._forms |= dict.fromkeys(_parts_of_token(token), token)

    def found_in(self, texts: dict[str, bytes]) -> list[tuple[str, str, str]]:
        """Where, which value, and what stands around it."""
        return [
            (name, value, str(text[max(text.index(form) - 120, 0) :][:240]))
            for name, text in texts.items()
            for form, value in self._forms.items()
            if form in text
        ]


def spellings(value: str) -> Iterator[bytes]:
    """A value as text, its beginning, escaped, quoted, tidied up, in base 64 and in hex, alone and as credentials."""
    texts = {value, value.strip(), " ".join(value.split()), *value.splitlines()}
    texts |= {text[:_SHORTEST_PART] for text in texts if len(text) > _SHORTEST_PART}
    for text in texts:
        yield from (spelled.encode() for spelled in (text, repr(text)[1:-1], ascii(text)[1:-1]))
        yield from (html.escape(text, quote=quotes).encode() for quotes in (True, False))
        yield html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;").encode()
        yield repr(text.encode())[2:-1].encode()
        for inner in (json.dumps(text, ensure_ascii=escaped)[1:-1] for escaped in (True, False)):
            yield inner.encode()
            yield json.dumps(inner)[1:-1].encode()
        for quoted in (quote(text), quote(text, safe=""), quote_plus(text), quote(quote(text, safe=""))):
            yield from (quoted.encode(), re.sub("%..", lambda match: match[0].lower(), quoted).encode())
    for secret in (value, quote(value, safe="")):
        for pair in (secret, f"app/percent:{secret}", f"app%2Fpercent:{secret}"):
            yield from (base64.b64encode(pair.encode()), base64.urlsafe_b64encode(pair.encode()))
    if len(value) >= _SHORTEST_PART:
        yield from (value.encode().hex().encode(), value.encode().hex().upper().encode())


def _parts_of_token(token: str) -> Iterator[bytes]:
    """All of it, its beginning, and of a signed one the signature, which alone makes it one."""
    signature = token.rpartition(".")[2]
    opaque = signature.removeprefix("enrt_")
    yield from (part.encode() for part in (token, signature, opaque[:12]))


def key_lines(key: str) -> list[str]:
    """The lines of a PEM key that are secret."""
    return [line for line in key.splitlines() if not line.startswith("-----")]


def written(site: Site, configured: Iterable[str] = ("secrets",)) -> dict[str, bytes]:
    """Every file of the site, but for the folders where its secrets are configured to lie."""
    places = [site.folder / name for name in configured]
    files = {
        str(path.relative_to(site.folder)): path.read_bytes()
        for path in site.folder.rglob("*")
        if path.is_file() and not any(path.is_relative_to(place) for place in places)
    }
    assert "data/erpsync.db" in files
    return files


class Processes:
    """What can be read of all processes that this one has started, directly or not, sampled while they lived.

    The command line of each, and the environment of each but those of `_KNOWING`.
    """

    def __init__(self) -> None:
        self.seen: dict[str, bytes] = {}

    @contextmanager
    def watched(self) -> Iterator["Processes"]:
        """Look again and again, in a thread."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.05):
                self.look()

        looking = threading.Thread(target=look)
        looking.start()
        try:
            yield self
        finally:
            over.set()
            looking.join()

    def look(self) -> None:
        """Once."""
        parents = dict(_parents())
        ours = {os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= more
        own = Path("/proc/self/cmdline").read_bytes()
        for pid in ours - {os.getpid()}:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                environment = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if not command:  # in the middle of exec: whose environment that is shows next time
                continue
            self.seen[f"{pid} cmdline"] = command
            if command != own and not any(name in command for name in _KNOWING):
                self.seen[f"{pid} {_program(command)} environ"] = environment


_KNOWING = (
    b"erpsync.cli.main",  # we give some secrets to a daemon and to commands by their environment
    b"erpsync.plugins.probe",  # imports plugins as the daemon will right after, in the same environment
    b"cat\0",  # a command that fetches a secret, and may need a part of it to sign in somewhere
)
"""Programs that are given secrets in their environment on purpose; also seen between fork and exec of others."""


def _program(command: bytes) -> str:
    """Of `python … -m NAME` the name."""
    _, _, rest = command.partition(b"\0-m\0")
    return rest.partition(b"\0")[0].decode(errors="replace")


def _parents() -> Iterator[tuple[int, int]]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                yield int(process.name), int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue


Typed = Callable[..., Said]


@pytest.fixture
def folder(site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The site, as the place where `erpsync` types its commands."""
    monkeypatch.chdir(site.folder)
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    return site.folder


@pytest.fixture
def typed(site: Site, erpsync: Type) -> Typed:
    """Types a command in this process, which is quick, and keeps what it says."""

    def type_(*arguments: str) -> Said:
        said = erpsync(*arguments)
        site.outputs += [said.out, said.err]
        return said

    return type_
