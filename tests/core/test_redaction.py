"""Secrets in text: in every spelling that programs give them, by the thousand, and what merely looks like one."""

import base64
import hashlib
import html
import json
import re
import shlex
import xml.sax.saxutils
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpsync.core.redaction import LONGEST_FOREIGN, Redactor


@given(st.text(min_size=6, max_size=30), st.text(), st.text())
def test_a_learnt_secret_never_passes(secret: str, before: str, after: str) -> None:
    """Wherever a known value stands in a text, it does not come out."""
    redactor = Redactor()
    redactor.learn(secret)
    shown = redactor(before + secret + after)
    assert secret not in shown or secret in "[redacted]"


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON of PHP": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON of Go": lambda text: _each(json.dumps(text, ensure_ascii=False)[1:-1], "<>&", "\\u{:04x}"),
    "JSON of .NET": lambda text: _each(json.dumps(text)[1:-1].replace('\\"', '"'), "<>&\"'+`", "\\u{:04X}"),
    "JSON of .NET, all in capitals": lambda text: re.sub(
        r"(?<=\\u)....", lambda found: found[0].upper(), json.dumps(text)[1:-1]
    ),
    "repr": lambda text: repr(text)[1:-1],
    "repr of a text with both quotes": lambda text: repr(f"\"'{text}")[4:-1],
    "ascii": lambda text: ascii(text)[1:-1],
    "bytes": lambda text: repr(text.encode())[2:-1],
    "HTML": html.escape,
    "HTML without quotes": lambda text: html.escape(text, quote=False),
    "HTML of Django": lambda text: html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    "HTML of .NET": lambda text: "".join(
        f"&#x{ord(sign):X};" if ord(sign) > 126 else html.escape(sign) for sign in text
    ),
    "XML": lambda text: xml.sax.saxutils.escape(text, {"'": "&apos;", '"': "&quot;"}),
    "a path": quote,
    "a form": quote_plus,
    "a URL in small letters": lambda text: re.sub(
        "%..", lambda found: found[0].lower(), quote(text, safe="")
    ),
    "a URL of JavaScript": lambda text: quote(text, safe="!'()*"),
    "a URL of ours": lambda text: str(httpx2.URL("http://h/", params={"x": text})).partition("x=")[2],
    "every byte of a URL": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "escape() of JavaScript": lambda text: "".join(
        f"%u{ord(sign):04X}" if 255 < ord(sign) < 65536 else quote(sign) for sign in text
    ),
    "a shell": shlex.quote,
    "SQL": lambda text: text.replace("'", "''"),
    "without blanks around": str.strip,
    "on one line": lambda text: " ".join(text.split()),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "credentials": lambda text: base64.b64encode(b"me:" + text.encode()).decode(),
    "credentials, quoted before": lambda text: base64.b64encode(f"a:{quote_plus(text)}".encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(b"me:" + text.encode()).decode(),
    "hex": lambda text: text.encode().hex(),
    "hex in capitals": lambda text: text.encode().hex().upper(),
}
SECRETS = [
    'p@ss "w/rd+1', "don't-tell-7", "quo\"te\\back's`${HOME}`", "p%41ss+&=?#%zz", "<b>&amp;'secret'</b>", "Тайна-7",
    "geheim-éàü", "𝒮ecret-🔑", "a\\b\ncd ef", "  space\tat  ends ", "x" * 500, r"\u0041\x41\n&#65;%41 and 'more'",
]  # fmt: skip
CODED = ("base64", "credentials", "hex", "on one line", "without blanks", "a shell", "SQL")


def _each(text: str, signs: str, form: str) -> str:
    return "".join(form.format(ord(sign)) if sign in signs else sign for sign in text)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_learnt_secret_passes_in_no_spelling(secret: str, spelling: str) -> None:
    """However programs write it down, a known value stays inside; what stands around it stays as it was."""
    redactor = Redactor()
    redactor.learn(secret)
    spelled = SPELLINGS[spelling](secret)
    shown = redactor(f"say: {spelled}, 100% & \\more\\")
    assert shown.startswith("say: ")
    assert shown.endswith(", 100% & \\more\\")
    left = shown.removeprefix("say: ").removesuffix(", 100% & \\more\\")
    assert not any(part in left for part in _parts(spelled))


def _parts(spelled: str) -> list[str]:
    """Every eight characters that give something of a secret away."""
    return [spelled[at : at + 8] for at in range(max(len(spelled) - 7, 1))]


@pytest.mark.parametrize("width", [64, 76])
def test_a_learnt_secret_passes_in_no_base64_of_several_lines(width: int) -> None:
    """Mails and PEM break base64 into lines, wherever that falls."""
    redactor = Redactor()
    redactor.learn("correct-horse-battery")
    core = [base64.b64encode(b"-" * before + b"correct-horse-battery").decode() for before in range(3)]
    for before in range(width):
        whole = base64.b64encode(b"-" * (before + 60) + b"correct-horse-battery" + b"-" * 60).decode()
        shown = redactor("\n".join(whole[at : at + width] for at in range(0, len(whole), width)))
        assert not any(each[4:-4] in "".join(shown.split()) for each in core)


ESCAPES = [name for name in SPELLINGS if not name.startswith(CODED)]


@given(
    st.text(st.characters(codec="utf-8"), min_size=6, max_size=12).filter(
        lambda text: text == " ".join(text.split())
    ),
    st.lists(st.sampled_from(ESCAPES), max_size=3),
)
def test_a_learnt_secret_passes_in_no_layers(secret: str, layers: list[str]) -> None:
    """A text in a text in a text: whatever was escaped three times is found."""
    redactor = Redactor()
    redactor.learn(secret)
    spelled = secret
    for layer in layers:
        spelled = SPELLINGS[layer](spelled)
    assert redactor(f"<{spelled}>") in ("<[redacted]>", f"<{spelled}>".replace(secret, "[redacted]"))


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcDEF123456-_.x",
        "Basic dXNlcjpwYXNzd29yZA==",
        "enrt_0123456789ABCDEF0123456789",
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwIn0.c2lnbmF0dXJl",
        "client_secret=hunter2hunter2&scope=read",
        '{"refresh_token": "hunter2hunter2"}',
        "postgresql://erpsync:hunter2@db/x",
    ],
)
def test_what_looks_like_a_token_never_passes(text: str) -> None:
    """Unknown tokens are recognised by their shape."""
    shown = Redactor()(text)
    assert "[redacted]" in shown
    for part in ("abcDEF123456", "dXNlcjpw", "0123456789ABCDEF", "c2lnbmF0dXJl", "hunter2"):
        assert part not in shown


def test_a_reference_to_a_secret_is_none() -> None:
    """Where a secret is found may be shown."""
    line = 'client_secret = { secret = "night" }'
    assert Redactor()(line) == line


TOKEN = f"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJuaWdodCJ9{'Qx7' * 30}.{'sig-Nature_' * 30}"


@pytest.mark.parametrize("before", ["\\n", "%20", "access_token", "_", "x-", "key", "eyJ"])
def test_a_token_never_passes_whatever_stands_before_it(before: str) -> None:
    """Escapes and names run into a token where nobody has put a blank."""
    assert "sig-Nature_" not in Redactor()(f"said {before}{TOKEN} and more")


def test_a_secret_that_chance_has_put_into_a_token_does_not_hide_it() -> None:
    """Four characters of a token may be those of somebody's short secret: the token is removed all the same."""
    redactor = Redactor()
    redactor.learn("dCJ9")
    assert redactor(f"said {TOKEN} and more") == "said [redacted] and more"


@pytest.mark.parametrize("secret", [TOKEN, ("a secret with blanks, and of some length, " * 9).strip()])
@pytest.mark.parametrize("before", range(0, 400, 57))
def test_nothing_is_left_of_a_secret_where_long_text_is_cut(secret: str, before: int) -> None:
    """Also not where all before it was removed, so that the place of the cut is shown."""
    redactor = Redactor()
    redactor.learn(secret)
    text = "." * before + f" {secret}" * (LONGEST_FOREIGN // len(secret) + 2)
    for cut in (text, text[:LONGEST_FOREIGN]):
        assert set(redactor.shortened(cut).lstrip(".").split()) == {"[redacted]"}


def test_a_long_line_is_parted_beside_a_token() -> None:
    """Each part is redacted alone: the second half of a token would be none."""
    text = "x" * 50 + TOKEN
    assert Redactor().before(text, 200) == 50


def test_hostile_text_is_searched_once() -> None:
    """Long text without an end in sight does not cost its square, which would be hours here."""
    hostile = "eyJ" * 400_000
    assert Redactor()(hostile) == hostile


def test_ten_thousand_secrets_cost_no_more_than_a_hundred() -> None:
    """All of them are removed, and learning them takes the time it takes, not its square."""
    redactor = Redactor()
    secrets = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(10_000)]
    for secret in secrets:
        redactor.learn(secret)
    shown = redactor(" ".join(f"<{secret}>" for secret in secrets))
    assert shown == " ".join(["<[redacted]>"] * len(secrets))


def test_of_what_passes_only_the_newest_is_remembered() -> None:
    """Tokens come and go by the thousand: each owner's newest stay inside, and memory does not grow."""
    redactor = Redactor()
    tokens = [f"opaque-token-{number:04}" for number in range(1000)]
    for token in tokens:
        redactor.learn_passing("night@acme", token)
    redactor.learn_passing("other@acme", "another-one")
    shown = redactor(f"{tokens[-1]} {tokens[-3]} another-one {tokens[0]}")
    assert shown == f"[redacted] [redacted] [redacted] {tokens[0]}"


def test_what_is_still_in_use_is_not_forgotten() -> None:
    """A value that is learnt again is as new as the newest; one that lasts is never forgotten with what passes."""
    redactor = Redactor()
    redactor.learn("lasting-secret")
    redactor.learn_passing("ann", "lasting-secret")
    for number in range(20):
        redactor.learn_passing("ann", "static-refresh-token")
        redactor.learn_passing("ann", f"opaque-token-{number:04}")
    assert redactor("static-refresh-token lasting-secret") == "[redacted] [redacted]"


def test_short_words_are_not_torn_apart() -> None:
    """A secret of a few letters is not removed from ordinary text."""
    redactor = Redactor()
    redactor.learn("abc", "")
    assert redactor("abc is the alphabet") == "abc is the alphabet"
