"""How a job reaches the instance it works on."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import httpx2

from erpsync.erpnet.transport import AuthorizedTransport


@dataclass(frozen=True, slots=True)
class Connection:
    """A job's way to its instance; made by the daemon, shared by the jobs of one identity.

    `transport` adds the token. `root` gives the address of the Domain API and is None for an instance that has
    none. `timeout` is what the HTTP clients of plugins begin with. `ready` is there where no session ends with a
    token: it has one at hand that lives so long, before the plugin is entered. `granted` gives the scope of the token
    that calls will carry, None where nobody knows it; it opens no session.
    """

    transport: AuthorizedTransport
    root: Callable[[], Awaitable[str]] | None = None
    identity_name: str | None = None
    instance: str | None = None
    timeout: httpx2.Timeout = field(default_factory=lambda: httpx2.Timeout(120, connect=10))
    ready: Callable[[timedelta], Awaitable[object]] | None = None
    granted: Callable[[], Awaitable[tuple[str, ...] | None]] | None = None
