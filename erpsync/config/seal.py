"""The key that seals stored tokens: whether it is there, long enough, and missed where there is none."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from erpsync.config.configuration import Configuration
from erpsync.config.secrets import SecretResolver
from erpsync.core.errors import SecretUnavailableError
from erpsync.core.problem import Problem

SHORTEST_KEY = 32
"""Bytes a secret must have to seal with."""


def make_one(configuration: Configuration) -> str:
    """The command that makes a key where this configuration looks for its secrets, whatever folder it is typed in."""
    places = [Path(place) for place in configuration.secrets.from_ if Path(place).is_absolute()]
    folder = places[0] if places else configuration.files.folder / "secrets"
    reference = '{ secret = "seal" }' if places else '{ file = "secrets/seal" }'
    into = shlex.quote(str(folder))
    return (
        f"(umask 077; mkdir -p {into}; head -c 48 /dev/urandom | base64 -w0 > {into}/seal) makes one; "
        f"seal_key = {reference} in [daemon] names it"
    )


def seal_keys(configuration: Configuration, resolver: SecretResolver) -> tuple[list[str], list[Problem]]:
    """The keys that can be used, the one that seals first, and what is wrong with the others."""
    keys, problems, files = [], [], configuration.files
    for index, reference in enumerate(configuration.daemon.seal_key):
        place = files.existing(("daemon", "seal_key", index))
        try:
            key = resolver.resolve(reference)
        except SecretUnavailableError as error:
            problems.append(files.problem("E119", error.message, place, hint=error.hint))
            continue
        size = len(key.encode())
        if size >= SHORTEST_KEY:
            keys.append(key)
        else:
            message = f"the seal key has {size} bytes; at least {SHORTEST_KEY} are needed"
            problems.append(files.problem("E125", message, place, hint=make_one(configuration)))
    return keys, problems


def seal_problems(configuration: Configuration, resolver: SecretResolver | None) -> Iterator[Problem]:
    """What is wrong with seal keys, or with having none. Without `resolver` none is looked for."""
    if configuration.daemon.seal_key:
        yield from seal_keys(configuration, resolver)[1] if resolver else ()
        return
    files = configuration.files
    for name, identity in configuration.identities.items():
        if identity.grant == "authorization_code":
            message = f"{name} is a person, whose sign-in must be kept, and there is no seal_key to seal it"
            place = files.existing(("identities", name.split("@")[0], "grant"))
            yield files.problem("E124", message, place, hint=make_one(configuration))
    instances = {identity.instance for identity in configuration.identities.values()}
    erpnet = sorted(name for name in instances if configuration.instances[name].kind == "erpnet")
    if erpnet:
        more = f" and {len(erpnet) - 1} more" if len(erpnet) > 1 else ""
        message = (
            f'there is no seal_key: a restart cannot re-use the session at "{erpnet[0]}"{more}, '
            "and its licence slot stays taken for up to 20 minutes"
        )
        yield files.problem("W107", message, ("daemon", "seal_key"), hint=make_one(configuration))
