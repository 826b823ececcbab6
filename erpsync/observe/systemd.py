"""What systemd is told: sd_notify(3) over the socket it names, and the pace of its watchdog."""

import os
import socket
from collections.abc import Mapping


class ServiceNotifier:
    """Sends READY=1, STATUS=…, WATCHDOG=1, STOPPING=1 to $NOTIFY_SOCKET; without one it does nothing.

    The variables are removed from `environ`, so that no child process speaks for the daemon.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environ is None else dict(environ)
        address = variables.pop("NOTIFY_SOCKET", "")
        period, process = variables.pop("WATCHDOG_USEC", ""), variables.pop("WATCHDOG_PID", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        ours = process in ("", str(os.getpid()))
        self.watchdog_seconds: float | None = int(period) / 1e6 if ours and period.isdigit() else None

    def tell(self, **states: str | int) -> None:
        """Send `states` (READY=1, STATUS="3 running"); a service manager that does not listen is no fault."""
        if not self._address:
            return
        message = "\n".join(f"{name}={value}" for name, value in states.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto(message.encode(), self._address)
        except OSError:
            return
