"""Which configuration a daemon runs: that of the files, or the one accepted last where they are broken."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from erpsync.config.configuration import Configuration
from erpsync.config.load import data_folder, examine_configuration, load_configuration
from erpsync.config.shelf import Disk, Kept, Recording, keep, kept
from erpsync.core.errors import ConfigError
from erpsync.core.problem import Problem
from erpsync.daemon.check import require_service

_DATA = re.compile(
    r"^\s*\[daemon\]\s*(?:#.*)?\n(?:(?!\s*\[).*\n)*?\s*data\s*=\s*[\"']([^\"'\n]+)[\"']", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A configuration that can be run. Where it is an older one, `since` (aware UTC) says when it was accepted, and
    `refused` what is wrong with the files as they are now."""

    configuration: Configuration
    recording: Recording | None = None
    since: datetime | None = None
    refused: tuple[Problem, ...] = ()

    def keep(self, now: datetime, data: Path) -> None:
        """Remember the files as they were read: a later start with broken ones runs these. Raises OSError."""
        if self.recording is not None:
            keep(self.recording, self.configuration.path, now, data)


def accept(path: Path, environ: Mapping[str, str]) -> Accepted:
    """The configuration of the files as they are. Raises ConfigError with all that keeps a daemon from starting."""
    recording = Recording()
    configuration = load_configuration(path, environ, shelf=recording)
    require_service(configuration)
    return Accepted(_from_anywhere(configuration), recording)


def accept_or_go_back(path: Path, environ: Mapping[str, str]) -> Accepted:
    """The configuration of the files; where they are broken the one that was accepted last.

    Raises:
        ConfigError: the files are broken and none was accepted yet, or that one cannot be used any more either.
    """
    try:
        return accept(path, environ)
    except ConfigError as error:
        last = _last(path, environ)
        if last is None:
            raise
        try:
            older = load_configuration(path, environ, shelf=last)
            require_service(older)
        except ConfigError:
            raise error from None
        return Accepted(_from_anywhere(older), since=last.accepted_at, refused=error.problems)


def _from_anywhere(configuration: Configuration) -> Configuration:
    """The same, read again from wherever the process then is: a plugin may change its working directory."""
    return replace(configuration, path=configuration.path.absolute())


def _last(path: Path, environ: Mapping[str, str]) -> Kept | None:
    """What was accepted last, wherever the broken files let us find it."""
    try:
        data = examine_configuration(path, environ).daemon.data
    except ConfigError:
        return None
    return kept(path, data) or kept(path, _told_data(path) or data_folder(environ))


def _told_data(path: Path) -> Path | None:
    """The folder `data` of a file that cannot be parsed."""
    try:
        found = _DATA.search(Disk().read(path).decode(errors="replace"))
    except OSError:
        return None
    return path.absolute().parent / Path(found[1]).expanduser() if found else None
