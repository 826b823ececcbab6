"""What commands share: the configuration, the state that is only read, the daemon that may be asked."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from erpsync.core.errors import ConfigError, OwnedElsewhereError
from erpsync.core.redaction import Redactor

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from erpsync.config.configuration import Configuration
    from erpsync.control.client import ControlClient
    from erpsync.store.run_log import RunLog

P = ParamSpec("P")
R = TypeVar("R")


class Workspace:
    """Everything is loaded when first used; what a command does not need costs it nothing."""

    def __init__(self) -> None:
        self.explicit: Path | None = None
        self.files_as_they_are = False
        self.redactor = Redactor()

    @cached_property
    def configuration(self) -> "Configuration":
        """The configuration; while the files are broken the one that a daemon accepted last, unless
        `files_as_they_are` matter. Raises ConfigError with all problems.
        """
        from erpsync.config.find import find_configuration
        from erpsync.config.load import load_configuration

        path = find_configuration(self.explicit, os.environ)
        try:
            return load_configuration(path, os.environ)
        except ConfigError:
            if self.files_as_they_are:
                raise
        from erpsync.cli.output import note
        from erpsync.daemon.acceptance import accept_or_go_back

        accepted = accept_or_go_back(path, os.environ)
        note(
            f"{path} is broken (erpsync check); this goes by what was accepted at {accepted.since:%Y-%m-%d %H:%M} UTC"
        )
        return accepted.configuration

    def examined(self) -> "Configuration":
        """What can be understood of the configuration, errors among its problems."""
        from erpsync.config.find import find_configuration
        from erpsync.config.load import examine_configuration

        return examine_configuration(find_configuration(self.explicit, os.environ), os.environ)

    def differs(self, daemon: "Mapping[str, Any]") -> str:
        """How the daemon's configuration differs from this one; empty where it does not."""
        ours = self.configuration
        if not self.is_own(daemon):
            return f"the daemon of this state runs another configuration: {daemon['configuration']}"
        if daemon["fingerprint"] != ours.fingerprint:
            return "the daemon runs an older configuration; erpsync plan shows the changes, reload takes them"
        return ""

    def daemon(self) -> "dict[str, Any] | None":
        """What the daemon of these files says of itself; None where nobody runs, or may be asked."""
        from erpsync.core.errors import ErpsyncError

        try:
            with self.client() as client:
                status = client.status()
        except ErpsyncError:
            return None
        return status if self.is_own(status) else None

    def is_own(self, daemon: "Mapping[str, Any]") -> bool:
        """Whether the daemon with this status runs this configuration, be it an older state of it."""
        return bool(daemon["configuration"] == str(self.configuration.path.resolve()))

    def require_own(self, daemon: "Mapping[str, Any]") -> None:
        """Raises OwnedElsewhereError where the daemon runs another configuration: a job may be another there."""
        if not self.is_own(daemon):
            hint = "give each configuration its own [daemon] data"
            raise OwnedElsewhereError(self.differs(daemon), owner=f"pid {daemon['pid']}", hint=hint)

    @contextmanager
    def own_daemon(self) -> "Iterator[ControlClient]":
        """As `client`, for what changes something: raises OwnedElsewhereError too."""
        with self.client() as client:
            self.require_own(client.status())
            yield client

    @contextmanager
    def client(self) -> "Iterator[ControlClient]":
        """The daemon of this configuration; every question raises NoDaemonError where it does not run."""
        from erpsync.control.client import ControlClient

        with ControlClient(self.configuration.control.socket) as client:
            yield client

    def read(
        self, query: "Callable[Concatenate[Connection, P], R]", default: R, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Ask the state, read-only; `default` where nothing has run yet. Raises StoreError."""
        from erpsync.store.state import Store

        path = self.configuration.daemon.state
        if not path.exists() and not path.parent.is_file():
            return default
        store = Store.open(path, read_only=True)
        try:
            return store.read_now(query, *args, **kwargs)
        finally:
            store.close()

    @property
    def run_log(self) -> "RunLog":
        """What the runs said."""
        from erpsync.daemon.place import run_log_of

        return run_log_of(self.configuration)
