"""Where secrets are looked for, and what is said of those that are missing."""

import os
import sys
from pathlib import Path

import pytest

from erpsync.config.reference import reference_from
from erpsync.config.secrets import SecretResolver, secret_problems
from erpsync.config.section import SecretsSection
from erpsync.core.errors import SecretUnavailableError
from erpsync.core.redaction import Redactor
from erpsync.core.secret import SecretReference
from tests.config.conftest import ACME, BETA, NIGHT, Load

VALUE = "dragon-tree-7"


def resolver(
    base: Path, environ: dict[str, str], *places: str, redactor: Redactor | None = None
) -> SecretResolver:
    section = SecretsSection.model_validate({"from": list(places)})
    return SecretResolver(section, base, environ, redactor or Redactor())


def named(name: str) -> SecretReference:
    return SecretReference("secret", (name,))


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_first_place_that_has_it_wins(tmp_path: Path) -> None:
    """Credentials, folder, environment, in the order given; the name is changed for the environment."""
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "c"), "P_ACME_NIGHT_1": "from the environment"}
    look = resolver(tmp_path, environ, "credentials", "s", "env:P_")
    assert look.resolve(named("acme.night-1")) == "from the environment"
    write(tmp_path / "s" / "acme.night-1", "from the folder\n")
    assert look.resolve(named("acme.night-1")) == "from the folder"
    write(tmp_path / "c" / "acme.night-1", "from systemd\r\n")
    assert look.resolve(named("acme.night-1")) == "from systemd"


def test_a_missing_secret_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """Every file and variable is listed."""
    with pytest.raises(SecretUnavailableError) as caught:
        resolver(tmp_path, {}, "credentials", "s", "env:P_").resolve(named("acme.night"))
    assert caught.value.message == (
        f'there is no secret "acme.night"; looked at {tmp_path}/s/acme.night, $P_ACME_NIGHT'
    )


def test_explicit_forms(tmp_path: Path) -> None:
    """A variable, a file without the newline at its end, a command without a shell."""
    write(tmp_path / "key", f"{VALUE}\n")
    look = resolver(tmp_path, {"NAME": VALUE, "PATH": os.environ["PATH"]})
    script = f"import sys; print({VALUE!r} if sys.argv[1:] == ['a;b $x'] else '')"
    command = [sys.executable, "-c", script, "a;b $x"]
    for table in ({"env": "NAME"}, {"file": "key"}, {"command": command}):
        assert look.resolve(reference_from(table)) == VALUE


def test_the_value_is_read_anew_and_known_to_the_redactor(tmp_path: Path) -> None:
    """A changed file gives the new value, and no text shows either."""
    redactor = Redactor()
    look = resolver(tmp_path, {}, "s", redactor=redactor)
    for value in (VALUE, "dragon-tree-8"):
        write(tmp_path / "s" / "x", value)
        assert look.resolve(named("x")) == value
        assert value not in redactor(f"the value {value}")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"secret": "../key"}, "cannot be the name"),
        ({"secret": "empty"}, "is empty"),
        ({"secret": "short"}, "fewer than 4 characters"),
        ({"secret": "folder"}, "cannot read"),
        ({"secret": "binary"}, "no UTF-8"),
        ({"secret": "large"}, "too much"),
        ({"env": "NO_SUCH"}, "NO_SUCH is not set"),
        ({"secret": "pipe"}, "not a regular file"),
        ({"file": "no-such"}, "no file no-such"),
        ({"command": ["cat", "/dev/zero"]}, "too much"),
        (
            {"command": [sys.executable, "-c", "import sys; sys.stderr.write('x' * 200_000); sys.exit(4)"]},
            "with 4",
        ),
        ({"command": ["no-such-command-here"]}, "cannot be run"),
        ({"command": [sys.executable, "-c", "raise SystemExit(3)"]}, "ended with 3"),
    ],
)
def test_what_cannot_be_had_is_an_error(tmp_path: Path, table: dict[str, object], said: str) -> None:
    """With what is wrong, never with a value."""
    write(tmp_path / "key", VALUE)
    write(tmp_path / "s" / "empty", "\n")
    write(tmp_path / "s" / "short", "abc")
    (tmp_path / "s" / "folder").mkdir()
    (tmp_path / "s" / "binary").write_bytes(b"\xff")
    write(tmp_path / "s" / "large", "x" * 70_000)
    os.mkfifo(tmp_path / "s" / "pipe", 0o600)
    with pytest.raises(SecretUnavailableError) as caught:
        resolver(tmp_path, {"PATH": os.environ["PATH"]}, "s").resolve(reference_from(table))
    assert said in caught.value.message
    assert VALUE not in caught.value.message


def test_a_command_that_fails_after_it_has_printed_the_secret(tmp_path: Path) -> None:
    """What it has printed is a secret nevertheless, in its complaint too, and no half of it is left by the cut."""
    complaint = "import sys; print('hunter2-hunter2'); sys.exit('.' * 195 + 'hunter2-hunter2')"
    reference = reference_from({"command": [sys.executable, "-c", complaint]})
    with pytest.raises(SecretUnavailableError) as caught:
        resolver(tmp_path, {"PATH": os.environ["PATH"]}).resolve(reference)
    assert caught.value.hint == "." * 195 + "[red…"


@pytest.mark.parametrize(
    "table",
    [
        *("text", 1, [], {}, {"secret": ""}, {"secret": 1}, {"secret": ["x"]}),
        *({"a": "b"}, {"env": "A", "file": "b"}, {"command": "x"}, {"command": []}),
    ],
)
def test_only_four_forms_are_references(table: object) -> None:
    """Everything else is refused without being repeated."""
    with pytest.raises(ValueError, match="must be a reference"):
        reference_from(table)


def test_missing_secrets_are_told_at_their_references(load: Load, tmp_path: Path) -> None:
    """Of identities for each instance, and of plugins' settings; loading itself does not mind."""
    configuration = load(
        NIGHT
        + ACME
        + BETA
        + '[jobs.orders]\nplugin = "mirror"\nidentity = "night"\ninstances = ["*"]\n'
        + '[jobs.orders.with]\ntarget = { url = "postgresql://db/x", password = { secret = "db" } }\n'
    )
    write(tmp_path / "secrets" / "acme.night", VALUE)
    look = SecretResolver(configuration.secrets, tmp_path, {}, Redactor())
    found = secret_problems(configuration, look)
    assert [(problem.code, problem.line, problem.key) for problem in found] == [
        ("E119", 3, "identities.night.client_secret"),
        ("E119", 15, "jobs.orders.with.target.password"),
    ]
    assert "beta.night" in found[0].message


def test_one_of_several_secrets_is_enough(load: Load, tmp_path: Path) -> None:
    """During roll-over the other may be missing: a warning."""
    configuration = load(
        '[identities.night]\ninstance = "acme"\nclient_id = "x"\n'
        'client_secret = [{ secret = "new" }, { secret = "old" }]\n' + ACME
    )
    write(tmp_path / "secrets" / "old", VALUE)
    look = SecretResolver(configuration.secrets, tmp_path, {}, Redactor())
    assert [
        (problem.code, problem.severity, problem.column) for problem in secret_problems(configuration, look)
    ] == [("E119", "warning", 18)]


def test_a_secret_that_others_can_read_is_a_warning(load: Load, tmp_path: Path) -> None:
    """With the command that mends it."""
    configuration = load(NIGHT + 'instance = "acme"\n' + ACME)
    file = write(tmp_path / "secrets" / "acme.night", VALUE, 0o644)
    look = SecretResolver(configuration.secrets, tmp_path, {}, Redactor())
    (problem,) = secret_problems(configuration, look)
    assert (problem.code, problem.severity, problem.help) == ("W104", "warning", f"chmod 600 {file}")
    file.chmod(0o640)
    assert secret_problems(configuration, look) == []


@pytest.mark.parametrize(
    "script",
    [
        "import time; time.sleep(60)",
        "import os, time; os.close(1); os.close(2); time.sleep(60)",
        "import sys\nwhile True: sys.stderr.write('x')",
    ],
)
def test_a_command_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Silent, talking beside the point or with its mouth shut: it is ended when its time is over."""
    monkeypatch.setattr("erpsync.config.secrets._COMMAND_SECONDS", 0.2)
    with pytest.raises(SecretUnavailableError, match="gave no secret within"):
        resolver(tmp_path, {}).resolve(reference_from({"command": [sys.executable, "-c", script]}))
