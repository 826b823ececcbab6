"""What of a configuration may be shown: a value whose key speaks of a secret is left out, a reference stays."""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from difflib import get_close_matches

HIDDEN = "[redacted]"

_SPEAKS_OF_SECRETS = re.compile(
    r"secret|passw|passphrase|pwd|token|credential|authorization|cookie|assertion"
    r"|(?:seal|private|signing|api|access|account)[_-]?key",
    re.IGNORECASE,
)
_MEANT = ("client_secret", "secret", "password", "passphrase", "token", "seal_key", "private_key", "api_key")
"""What a misspelt key may have meant."""
_HARMLESS = frozenset({"secrets", "secrets.from", "token_header", "token_expires", "largest_token"})
"""Keys of ours that speak of secrets and hold none."""

_NAMED = re.compile(r"(?:^|(?<=\.))(?:jobs|identities|instances|calendars|pools|notices)\.[^.]+")
"""What follows such a word is a name that somebody has given."""

SECRET_NAME = re.compile(r"[\w.@${}-]+")
VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
"""Whatever else is called the name of a secret or of a variable may be the secret itself."""
_REFERENCE = (
    r"\{\s*(?:"
    rf"""secret\s*=\s*["']{SECRET_NAME.pattern}["']|env\s*=\s*["']{VARIABLE_NAME.pattern}["']"""
    r"""|file\s*=\s*(?:"[^"\n]*"|'[^'\n]*')|command\s*=\s*\[[^\]\n]*\]"""
    r")\s*\}"
)
_OPEN = re.compile(rf"(?:{_REFERENCE}|true\b|false\b|\d{{4}}-\d\d-\d\d|\[\s*(?:{_REFERENCE}[,\s]*)*(?:\]|$))")
"""What may be shown where a secret belongs."""
_ONLY_REFERENCES = re.compile(rf"(?:{_REFERENCE}|[\s,\[\]])*(?:#.*)?")
_KEY = re.compile(
    r"""(?P<brace>\{\s*)?(?<![?&\w-])(?P<name>(?:[\w-]+|"[^"\n]*"|'[^'\n]*')(?:\s*\.\s*(?:[\w-]+|"[^"\n]*"|'[^'\n]*'))*)["']?\s*=\s*"""
)
_OF_A_URL = re.compile(
    r"""(?P<user>(?<=://)[^/\s:@"']*:)[^/\s"']+(?=@)"""
    r"""|(?P<query>[?&;][\w.%-]*(?:token|secret|passw|pwd|key|sig|signature|credential|code)[\w.%-]*=)[^&#\s"']+""",
    re.IGNORECASE,
)


def speaks_of_secrets(key: str) -> bool:
    """Whether a secret may stand there, by its name, misspelt ones too."""
    name = _NAMED.sub("", re.sub(r"[\s\"']", "", key))
    if name in _HARMLESS:
        return False
    if _SPEAKS_OF_SECRETS.search(name):
        return True
    return bool(get_close_matches(name.rpartition(".")[2].lower(), _MEANT, n=1, cutoff=0.8))


def shown_line(line: str, *, inside: bool = False) -> str:
    """A line of a file without what may be a secret, each tab as one blank so that a caret fits below.

    `inside`: it goes on with the value of a key that speaks of secrets.
    """
    line = line.rstrip("\r").replace("\t", " ")
    if inside and not _ONLY_REFERENCES.fullmatch(line):
        return "…"
    for key in _KEY.finditer(line):
        in_a_reference = key["brace"] is not None and re.match(_REFERENCE, line[key.start() :])
        if in_a_reference or not speaks_of_secrets(key["name"]) or _OPEN.match(line, key.end()):
            continue
        return shown_text(line[: key.end()], "…") + "…"
    return shown_text(line, "…")


def shown_text(text: str, instead: str = HIDDEN) -> str:
    """`text` without passwords and tokens in URLs."""
    return _OF_A_URL.sub(lambda found: (found["user"] or found["query"]) + instead, text)


def shown_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """A table of a plugin's settings as it may be shown: literals under keys that speak of secrets are left out."""
    return {key: _shown(value, hidden=speaks_of_secrets(key)) for key, value in settings.items()}


def without_literals(value: object, places: Container[str], at: str = "") -> object:
    """Settings without the values at these dotted keys, where a reference to a secret belongs."""
    if at in places:
        return HIDDEN
    if isinstance(value, Mapping):
        return {
            key: without_literals(inner, places, f"{at}.{key}" if at else key) for key, inner in value.items()
        }
    if isinstance(value, list):
        return [without_literals(inner, places, f"{at}.{index}") for index, inner in enumerate(value)]
    return value


def texts_in(value: object, way: Sequence[str] = ()) -> Iterator[str]:
    """Every text inside a value, or inside the part of it to which `way` leads."""
    if isinstance(value, str) and not way:
        yield value
    elif isinstance(value, Mapping | list):
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        for key, part in inner.items():
            if not way or str(key) == way[0]:
                yield from texts_in(part, way[1:])


def _shown(value: object, *, hidden: bool) -> object:
    if isinstance(value, Mapping):
        if _is_reference(value):
            return dict(value)
        return {key: _shown(inner, hidden=hidden or speaks_of_secrets(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner, hidden=hidden) for inner in value]
    if hidden and not isinstance(value, bool):
        return HIDDEN
    return shown_text(value) if isinstance(value, str) else value


def _is_reference(table: Mapping[str, object]) -> bool:
    if len(table) != 1:
        return False
    ((kind, value),) = table.items()
    name = {"secret": SECRET_NAME, "env": VARIABLE_NAME}.get(kind)
    return bool(name.fullmatch(str(value))) if name else kind in ("file", "command")
