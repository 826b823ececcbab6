"""The control socket of a daemon: made at its start, made anew where somebody removes it, taken away at its end."""

import socket
from typing import Any

from erpsync.config.configuration import Control
from erpsync.control.listener import bind_control_socket
from erpsync.control.peer import PeerProtocol
from erpsync.core.errors import ConfigError, ErpsyncError
from erpsync.core.event import Emit
from erpsync.daemon.server import EmbeddedServer


class ControlSocket:
    """Bound from the beginning, so that a second daemon finds it; it answers from `serve` on."""

    def __init__(self, control: Control, emit: Emit) -> None:
        """Raises ConfigError, OwnedElsewhereError: see `bind_control_socket`."""
        self._control = control
        self._emit = emit
        self._listener = self._bind()
        self._application: Any = None
        self._server: EmbeddedServer | None = None
        self._told = False

    async def serve(self, application: Any) -> None:
        """Answer what is asked."""
        self._application = application
        self._server = EmbeddedServer(application, self._listener, PeerProtocol)
        await self._server.start()

    async def stop(self) -> None:
        """Answer nothing any more; the socket stays for others to find."""
        if self._server is not None:
            await self._server.stop()

    def close(self) -> None:
        """Take the socket away, unless another one stands there; where that cannot be, the next start replaces it."""
        self._listener.close()
        if not self._is_in_place():
            return
        try:
            self._control.socket.unlink(missing_ok=True)
        except OSError as error:
            self._emit("control.left", level="warning", error_message=str(error))

    async def mend(self) -> None:
        """Make it anew where it is gone; where something is in the way that is told once, and tried again."""
        if self._server is None or self._is_in_place():
            return
        before = self._server
        try:
            self._listener = self._bind()
        except (ErpsyncError, OSError) as error:
            if not self._told:
                hint = f"move away what is at {self._control.socket}: the daemon makes its socket anew"
                self._emit("control.lost", level="error", error_message=_words(error), hint=hint)
            self._told = True
            return
        self._told = False
        await self.serve(self._application)
        self._emit("control.renewed", level="warning", path=str(self._control.socket))
        await before.stop()

    def _bind(self) -> socket.socket:
        listener = bind_control_socket(self._control.socket, self._control.mode, self._control.group)
        found = self._control.socket.stat()
        self._identity = found.st_dev, found.st_ino
        return listener

    def _is_in_place(self) -> bool:
        try:
            found = self._control.socket.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity


def _words(error: Exception) -> str:
    """What is wrong; the file is not, whatever the error was made for."""
    if isinstance(error, ConfigError):
        return "; ".join(problem.message for problem in error.problems)
    return str(error)
