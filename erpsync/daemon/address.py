"""The address of [metrics]."""

import errno
import socket

from erpsync.core.errors import AddressTakenError, ConfigError
from erpsync.core.problem import Problem


def bind_address(listen: tuple[str, int]) -> socket.socket:
    """A listening socket at host and port.

    Raises:
        AddressTakenError: another process listens there; retryable.
        ConfigError: this machine has no such address, or this user no right to it.
    """
    family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
    try:
        return socket.create_server(listen, family=family)
    except (OSError, ValueError) as error:  # ValueError: what is no name of a machine at all
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            message = f"another process listens on {listen[0]}:{listen[1]}"
            raise AddressTakenError(message, hint="another port in [metrics], or listen = false") from error
        why = error.strerror if isinstance(error, OSError) else "that is no address"
        message = f"cannot listen on {listen[0]}:{listen[1]}: {why}"
        help_ = "another port, or listen = false"
        raise ConfigError([Problem("E402", "error", message, key="metrics.listen", help=help_)]) from error


def address_problems(host: str) -> list[Problem]:
    """Why nobody can listen on any port of this host; the port itself may be in use by the very daemon that asks."""
    try:
        bind_address((host, 0)).close()
    except ConfigError as error:
        return list(error.problems)
    return []
