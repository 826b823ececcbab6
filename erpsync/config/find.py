"""Finding erpsync.toml."""

from collections.abc import Mapping
from pathlib import Path

from erpsync.core.errors import ConfigError
from erpsync.core.problem import Problem

PLACES = (Path("erpsync.toml"), Path("config/erpsync.toml"), Path("/etc/erpsync/erpsync.toml"))


def find_configuration(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """The file that --config or $ERPSYNC_CONFIG names, else the first of the usual places.

    Raises:
        ConfigError: there is none; the problem lists the places looked at.
    """
    named = explicit or (Path(environ["ERPSYNC_CONFIG"]) if environ.get("ERPSYNC_CONFIG") else None)
    if named is not None:
        if named.exists() and not named.is_dir():  # what is no regular file is told when it is read
            return named
        if named.is_dir():
            help_ = f"--config {named / PLACES[0]}"
            raise ConfigError([Problem("E101", "error", f"{named} is a folder", help=help_)])
        origin = "--config" if explicit else "ERPSYNC_CONFIG"
        raise ConfigError([Problem("E101", "error", f"there is no file {named}", help=f"{origin} names it")])
    for place in PLACES:
        if place.is_file():
            return place
    looked = ", ".join(["$ERPSYNC_CONFIG", *(f"./{p}" if not p.is_absolute() else str(p) for p in PLACES)])
    help_ = f"looked at {looked}; --config names another"
    raise ConfigError([Problem("E101", "error", "there is no configuration", help=help_)])
