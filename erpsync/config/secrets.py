"""Looking secrets up: systemd credentials, folders, the environment, explicit files and commands."""

import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

from erpsync.config.configuration import Configuration
from erpsync.config.layer import Spot
from erpsync.config.mask import VARIABLE_NAME
from erpsync.config.reference import references_in
from erpsync.config.section import SecretsSection
from erpsync.config.source import Keys
from erpsync.core.errors import SecretUnavailableError
from erpsync.core.problem import Problem, Severity
from erpsync.core.redaction import SHORTEST, Redactor
from erpsync.core.secret import SecretReference

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")
_LARGEST = 64 * 1024  # bytes
_COMMAND_SECONDS = 15.0
_SECRET_LIKE = 8  # characters of a line that a command has printed before it failed; words are shorter
_READABLE_BY_OTHERS = 0o004


_REMEDY = {
    "secret": "write the value into the first of these places; files with mode 0600",
    "env": "set it for the daemon and for the commands, or keep the value in a file",
    "file": "make it, mode 0600, with the value alone in it",
    "command": "run it by hand and see what it prints",
}


class SecretResolver:
    """Gives the value of a reference, read anew each time, and teaches it to the redactor."""

    def __init__(
        self, section: SecretsSection, base: Path, environ: Mapping[str, str], redactor: Redactor
    ) -> None:
        """`base` is the folder that relative paths start from; `redactor` knows every value that was found."""
        self._places = section.from_
        self._base = base
        self._environ = environ
        self.redactor = redactor

    def resolve(self, reference: SecretReference) -> str:
        """The secret, without the newline that ends a file; blocks while a command runs.

        Raises:
            SecretUnavailableError: it cannot be had; the message says where it was looked for.
        """
        value = self._read(reference)
        if not value:
            raise SecretUnavailableError(f'the secret "{reference}" is empty', hint=_REMEDY[reference.kind])
        if len(value) < SHORTEST:
            raise SecretUnavailableError(
                f'the secret "{reference}" has fewer than {SHORTEST} characters',
                hint="take a longer one: so short a value cannot be kept out of what is told",
            )
        self.redactor.learn(value)
        return value

    def exposed_file(self, reference: SecretReference) -> Path | None:
        """The file of a secret if other users of the machine can read it."""
        files: Iterator[Path | str] = iter(())
        if reference.kind == "file":
            files = iter((self._base / reference.value[0],))
        elif reference.kind == "secret":
            files = self._candidates(reference.value[0])
        for file in files:
            if isinstance(file, Path) and file.is_file():
                return file if file.stat().st_mode & _READABLE_BY_OTHERS else None
        return None

    def _read(self, reference: SecretReference) -> str:
        first = reference.value[0]
        if reference.kind == "command":
            return self._run(reference.value)
        if reference.kind == "file":
            value = _text_of(self._base / first)
            missing = f"there is no file {first}"
        elif reference.kind == "env":
            value = self._environ.get(first)
            named = first if VARIABLE_NAME.fullmatch(first) else "with the name given here"
            missing = f"the environment variable {named} is not set"
        else:
            value, missing = self._look_up(first)
        if value is None:
            raise SecretUnavailableError(missing, hint=_REMEDY[reference.kind])
        return value

    def _look_up(self, name: str) -> tuple[str | None, str]:
        """The value at the first place that has it, and what to say where none has."""
        if not _NAME.fullmatch(name):
            raise SecretUnavailableError(
                "what is given there cannot be the name of a secret",  # perhaps it is the secret
                hint="letters, digits, dot, hyphen, underscore and @",
            )
        looked = []
        for candidate in self._candidates(name):
            found = _text_of(candidate) if isinstance(candidate, Path) else self._environ.get(candidate)
            if found is not None:
                return found, ""
            looked.append(str(candidate) if isinstance(candidate, Path) else f"${candidate}")
        return None, f'there is no secret "{name}"; looked at {", ".join(looked) or "no place"}'

    def _candidates(self, name: str) -> Iterator[Path | str]:
        """Files and variables that may hold the secret `name`, in order."""
        for place in self._places:
            if place.startswith("env:"):
                yield place.removeprefix("env:") + re.sub(r"[^A-Z0-9]", "_", name.upper())
            elif place != "credentials":
                yield self._base / place / name
            elif folder := self._environ.get("CREDENTIALS_DIRECTORY"):
                yield Path(folder) / name

    def _run(self, command: tuple[str, ...]) -> str:
        """The first lines a command prints; its own words on failure pass through the redactor."""
        name = f'the command "{command[0]}"'
        try:
            code, output, errors = _ran(command, self._base, self._environ)
        except subprocess.TimeoutExpired as error:
            message = f"{name} gave no secret within {_COMMAND_SECONDS:.0f}s"
            raise SecretUnavailableError(
                message, hint="type it yourself: does it wait for an answer?"
            ) from error
        except OSError as error:
            hint = "is it installed, and may this user run it? No shell reads the command"
            raise SecretUnavailableError(f"{name} cannot be run: {error.strerror}", hint=hint) from error
        if code != 0 and len(output) <= _LARGEST:
            printed = output.decode(errors="replace").splitlines()
            self.redactor.learn(*(line for line in printed if len(line) >= _SECRET_LIKE))
            words = self.redactor.shortened(errors.decode(errors="replace").strip(), 200)
            raise SecretUnavailableError(f"{name} ended with {code}", hint=words)
        return _decoded(output, name)


def _ran(command: tuple[str, ...], folder: Path, environ: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """Exit code, output and errors of a command, killed once it has printed more than a secret can be long."""
    end = time.monotonic() + _COMMAND_SECONDS
    with subprocess.Popen(  # noqa: S603  # the operator's own command, without a shell
        command,
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            output, errors = _printed(process, end)
            if len(output) <= _LARGEST:
                process.wait(max(0.0, end - time.monotonic()))
        finally:
            process.kill()
    return process.returncode, output, errors


def _printed(process: "subprocess.Popen[bytes]", end: float) -> tuple[bytes, bytes]:
    """What a process prints until it closes both streams; of each at most one byte more than is allowed.

    Raises:
        subprocess.TimeoutExpired: the streams are open at `end` of the monotonic clock.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    streams = (process.stdout.fileno(), process.stderr.fileno())
    said = dict.fromkeys(streams, b"")
    with DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, EVENT_READ)
        while selector.get_map() and len(said[streams[0]]) <= _LARGEST:
            left = end - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready:
                raise subprocess.TimeoutExpired(process.args, _COMMAND_SECONDS)
            for key, _ in ready:
                piece = os.read(key.fd, _LARGEST)
                said[key.fd] = (said[key.fd] + piece)[: _LARGEST + 1]
                if not piece:
                    selector.unregister(key.fd)
    return said[streams[0]], said[streams[1]]


def secret_problems(configuration: Configuration, resolver: SecretResolver) -> list[Problem]:
    """What is wrong with the secrets that identities and jobs refer to, each at the place that names it.

    Of an identity's several secrets one is enough: then the others are warnings. Tables in a plugin's settings
    count where they have the form of a reference.
    """
    files = configuration.files
    verdict = cache(partial(_verdict, resolver))
    problems: dict[Problem, None] = {}
    for alternatives in _references(configuration):
        verdicts = [(keys, verdict(reference)) for keys, reference in alternatives]
        some = any(found is None or found[0] != "E119" for _, found in verdicts)
        for keys, found in verdicts:
            if found:
                code, message, hint = found
                severity: Severity | None = "warning" if some else None
                problems[files.problem(code, message, keys, hint=hint, severity=severity)] = None
    return list(problems)


def _verdict(resolver: SecretResolver, reference: SecretReference) -> tuple[str, str, str] | None:
    """Code, message and help where the secret is missing or lies open."""
    try:
        resolver.resolve(reference)
    except SecretUnavailableError as error:
        return "E119", error.message, error.hint
    exposed = resolver.exposed_file(reference)
    if exposed is not None:
        return "W104", f"every user of this machine can read {exposed}", f"chmod 600 {exposed}"
    return None


def _references(configuration: Configuration) -> Iterator[list[tuple[Keys, SecretReference]]]:
    """Every reference with its place; those of one identity together."""
    existing = configuration.files.existing
    for identity in configuration.identities.values():
        key = next((key for key in ("private_key", "token") if getattr(identity, key)), "client_secret")
        keys = ("identities", identity.name.split("@")[0], key)
        yield [(existing((*keys, index)), secret) for index, secret in enumerate(identity.secrets)]
    for job in configuration.jobs.values():
        spot = Spot(configuration.files, job.definition, job.instance)
        for inner, secret in references_in(job.settings):
            yield [(spot.where(("with", *inner)), secret)]


def _text_of(file: Path) -> str | None:
    """The text of a file, None where there is no such file."""
    try:
        with open(file, "rb", opener=_open_at_once) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                message = f"cannot read {file}: it is not a regular file"
                raise SecretUnavailableError(message, hint="put the secret into a file, or name a command")
            content = opened.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        hint = "may the user of the daemon read it?"
        raise SecretUnavailableError(f"cannot read {file}: {error.strerror}", hint=hint) from error
    return _decoded(content, str(file))


def _open_at_once(path: str, flags: int) -> int:
    """A pipe that nobody writes into is opened too, instead of waiting for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _decoded(content: bytes, origin: str) -> str:
    if len(content) > _LARGEST:
        message = f"{origin} holds more than {_LARGEST // 1024} KiB, too much for a secret"
        raise SecretUnavailableError(message, hint="it is to hold the secret and nothing else")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        hint = "a secret is text; encode what is not, as in base 64"
        raise SecretUnavailableError(f"{origin} holds no UTF-8 text", hint=hint) from error
    return text.removesuffix("\n").removesuffix("\r")
