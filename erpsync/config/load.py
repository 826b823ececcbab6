"""Loading a configuration: all files, all layers, all problems at once."""

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TypeVar

from erpsync.config.calendar import read_calendars, read_pools
from erpsync.config.configuration import Configuration, Control, Daemon, Metrics, Retention
from erpsync.config.document import Document
from erpsync.config.environment import apply_environment, check_environment
from erpsync.config.fanout import FanOut
from erpsync.config.file import ANCHORED, read_included, read_main
from erpsync.config.instance import read_instances
from erpsync.config.reading import beneath, expanded, read_section
from erpsync.config.rule import check_targets, check_urls
from erpsync.config.section import ControlSection, DaemonSection, MetricsSection, SecretsSection, Section
from erpsync.config.shelf import Disk, Shelf
from erpsync.core.errors import ConfigError
from erpsync.core.problem import Problem

S = TypeVar("S", bound=Section)

_CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))


def load_configuration(
    path: Path, environ: Mapping[str, str], *, today: date | None = None, shelf: Shelf | None = None
) -> Configuration:
    """The configuration that `path` and its includes say, with the overrides of `environ`.

    The holidays of countries are those around `today`; without it, around today's date in UTC. Missing secrets
    are no error here: they keep only their jobs from running (see `secret_problems`). Files are those of `shelf`,
    else those on the disk.

    Raises:
        ConfigError: with every problem that was found, in the order of files and lines.
    """
    configuration = examine_configuration(path, environ, today=today, shelf=shelf)
    if any(problem.severity == "error" for problem in configuration.problems):
        raise ConfigError(configuration.problems)
    return configuration


def examine_configuration(
    path: Path, environ: Mapping[str, str], *, today: date | None = None, shelf: Shelf | None = None
) -> Configuration:
    """What can be understood of a configuration, its errors among its `problems`: to look for more, not to run.

    Raises:
        ConfigError: nothing can be understood.
    """
    shelf = shelf or Disk()
    document = read_main(path, shelf)
    apply_environment(document, environ)
    read_included(document, path, shelf)
    apply_environment(document, environ)
    check_environment(document, environ)
    daemon = _section(document, "daemon", DaemonSection)
    control = _section(document, "control", ControlSection)
    metrics = _section(document, "metrics", MetricsSection)
    secrets = _section(document, "secrets", SecretsSection)
    instances = read_instances(document)
    calendars = read_calendars(document, today or datetime.now(UTC).date())
    pools = read_pools(document)
    fanned = FanOut(document, instances, calendars, pools, daemon.timezone)
    fanned.run()
    check_urls(document)
    check_targets(document, fanned.jobs.values())
    resolved = _daemon(document, daemon, environ)
    return Configuration(
        path=path,
        daemon=resolved,
        control=_control(document, control, resolved.data, environ),
        metrics=Metrics(metrics.listen),
        secrets=_secrets(document, secrets),
        instances=instances,
        identities=fanned.identities,
        jobs=fanned.jobs,
        calendars=calendars,
        pools=pools,
        problems=_in_order(document),
        fingerprint=_fingerprint(document),
        files=document,
    )


def _fingerprint(document: Document) -> str:
    """Of what the files define; the overrides of the environment belong to a process, not to them."""
    defined = [document.root.get(section) for section in ANCHORED]
    return hashlib.sha256(repr(defined).encode()).hexdigest()


def _section(document: Document, name: str, model: type[S]) -> S:
    """A section, or its defaults after its problems were kept."""
    where = beneath(name)
    table = expanded(document, document.root.get(name, {}), {}, where)
    return read_section(document, model, table, where) or model()


def _in_order(document: Document) -> tuple[Problem, ...]:
    """By file in the order they were read, then by place; what has no file comes first."""
    order = {name: index for index, name in enumerate(document.names)}
    return tuple(
        sorted(
            document.found.values(),
            key=lambda problem: (order.get(problem.file or "", -1), problem.line or 0, problem.column or 0),
        )
    )


def _daemon(document: Document, section: DaemonSection, environ: Mapping[str, str]) -> Daemon:
    data = (
        data_folder(environ) if section.data == "auto" else _path(document, ("daemon", "data"), section.data)
    )
    beside = document.folder / "plugins"
    plugins = (str(beside),) if section.plugins is None and beside.is_dir() else section.plugins or ()
    return Daemon(
        data=data,
        state=data / "erpsync.db",
        timezone=section.timezone,
        plugins=tuple(
            _path(document, ("daemon", "plugins"), folder, index) for index, folder in enumerate(plugins)
        ),
        max_runs=section.max_runs,
        drain=section.drain,
        seal_key=section.seal_key,
        log_format=section.log.format,
        log_level=section.log.level,
        retention=Retention(section.retention.runs, section.retention.logs, section.retention.log_size),
    )


def _control(document: Document, section: ControlSection, data: Path, environ: Mapping[str, str]) -> Control:
    folder = _first(environ.get("RUNTIME_DIRECTORY", ""))
    automatic = (folder or data) / "control.sock"
    given = section.socket != "auto"
    socket = _path(document, ("control", "socket"), section.socket) if given else automatic
    return Control(socket, int(section.mode, 8), section.group)


def _secrets(document: Document, section: SecretsSection) -> SecretsSection:
    """The section with absolute folders."""
    places = [
        place
        if place == "credentials" or place.startswith("env:")
        else str(_path(document, ("secrets", "from"), place, index))
        for index, place in enumerate(section.from_)
    ]
    return SecretsSection.model_validate({"from": places})


def data_folder(
    environ: Mapping[str, str], *, marks: tuple[Path, ...] = _CONTAINER_MARKS, volume: Path = Path("/data")
) -> Path:
    """Where data = "auto" leads: systemd's folder, the volume of a container, else the user's state folder."""
    folder = _first(environ.get("STATE_DIRECTORY", ""))
    if folder:
        return folder
    if (environ.get("container") or any(mark.exists() for mark in marks)) and volume.is_dir():
        return volume
    state = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or Path.home()) / ".local/state"
    return Path(state).absolute() / "erpsync"


def _first(paths: str) -> Path | None:
    """systemd gives several folders as a list with colons."""
    first = paths.split(":")[0]
    return Path(first) if first else None


def _path(document: Document, keys: tuple[str, ...], text: str, *index: int) -> Path:
    """The absolute path; one that cannot be is a problem at `keys`, or at the element `index` of their list."""
    path = Path(text.replace("\0", ""))
    if "\0" in text:
        document.add("E105", "a path cannot hold the character NUL", (*keys, *index))
    try:
        path = path.expanduser()
    except RuntimeError:
        document.add("E105", f"there is no home folder {path.parts[0]}", (*keys, *index))
    return Path(os.path.normpath(document.folder_of(keys) / path))
