"""The key that seals tokens: found, judged at its place, missed where it lacks."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from erpsync.config.load import load_configuration
from erpsync.config.seal import seal_keys, seal_problems
from erpsync.config.secrets import SecretResolver
from erpsync.core.problem import Problem
from erpsync.core.redaction import Redactor

REST = """
[identities.night]
client_id = "x"
client_secret = { env = "SECRET" }
instance = "acme"

[instances.acme]
url = "https://acme.my.erp.net"
"""
LONG, OTHER = "0123456789abcdef0123456789abcdef", "é" * 16


def look(folder: Path, text: str, environ: Mapping[str, str]) -> tuple[list[str], list[Problem], str]:
    """The keys, the problems, and what the file looks like to whoever has no secrets."""
    file = folder / "erpsync.toml"
    file.write_text(text + REST)
    configuration = load_configuration(file, {})
    resolver = SecretResolver(configuration.secrets, folder, environ, Redactor())
    blind = " ".join(problem.code for problem in seal_problems(configuration, None))
    return seal_keys(configuration, resolver)[0], list(seal_problems(configuration, resolver)), blind


@pytest.mark.parametrize(
    ("key", "keys"),
    [('{ env = "NEW" }', [LONG]), ('[{ env = "NEW" }, { env = "OLD" }]', [LONG, OTHER])],
    ids=["one", "ring"],
)
def test_keys(tmp_path: Path, key: str, keys: list[str]) -> None:
    """A reference or a list of them gives the keys in order; 32 bytes are enough, however few letters they make."""
    found = look(tmp_path, f"[daemon]\nseal_key = {key}\n", {"NEW": LONG, "OLD": OTHER})
    assert found == (keys, [], "")


def test_bad_keys(tmp_path: Path) -> None:
    """Missing and short keys are told at their places, with a command that makes one; the third key still seals."""
    text = '[daemon]\nseal_key = [\n  { env = "GONE" },\n  { env = "SHORT" },\n  { env = "NEW" },\n]\n'
    keys, problems, blind = look(tmp_path, text, {"SHORT": "s" * 31, "NEW": LONG})
    assert keys == [LONG]
    assert [(problem.code, problem.line) for problem in problems] == [("E119", 3), ("E125", 4)]
    assert "31 bytes" in problems[1].message
    assert "/dev/urandom" in problems[1].help
    assert blind == ""


def test_no_key(tmp_path: Path) -> None:
    """Without a key ERP.net instances bring one warning; it says what a restart costs and how to make a key."""
    keys, (problem,), blind = look(tmp_path, '[daemon]\ntimezone = "UTC"\n', {})
    assert (keys, problem.code, problem.severity, problem.line) == ([], "W107", "warning", 1)
    assert "licence slot" in problem.message
    assert f"{tmp_path}/secrets/seal) makes one; seal_key" in problem.help, "wherever it is typed"
    assert blind == "W107"


def test_no_key_and_no_folder_for_secrets(tmp_path: Path) -> None:
    """Where secrets come from the environment alone, the remedy names the file that it makes."""
    _, (problem,), _ = look(tmp_path, '[secrets]\nfrom = ["env:X_"]\n', {})
    assert f'{tmp_path}/secrets/seal) makes one; seal_key = {{ file = "secrets/seal" }}' in problem.help


def test_no_key_elsewhere(tmp_path: Path) -> None:
    """A server without licence slots needs no key."""
    file = tmp_path / "erpsync.toml"
    other = REST.replace('url = "https://acme.my.erp.net"', 'kind = "oidc"\nissuer = "https://id.example"')
    file.write_text(other)
    assert list(seal_problems(load_configuration(file, {}), None)) == []
