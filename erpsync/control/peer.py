"""Who is at the other end of the control socket, for whoever serves it."""

import asyncio
import socket
import struct

from uvicorn.protocols.http.h11_impl import H11Protocol

from erpsync.control.listener import user_name

_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid: SO_PEERCRED in unix(7)


class PeerProtocol(H11Protocol):
    """HTTP on a Unix socket: `request.client.host` is the name of the user who connected."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.client = (peer_name(transport.get_extra_info("socket")), 0)


def peer_name(connection: socket.socket) -> str:
    """The user at the other end of a Unix socket, as the kernel says (SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return user_name(user)
