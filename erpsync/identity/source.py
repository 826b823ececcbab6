"""What a token manager asks for tokens: one small interface for all grants."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

Origin = Literal["issued", "stored", "fixed"]
"""issued now; stored by a process before; fixed: made by hand, there is no other until a person makes one."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A token as the server gave it. `lifetime` is in seconds from sending; `doubts` say what the answer lacked.

    `refresh_token` and `id_token` come with a person's sign-in only.
    """

    access_token: str = field(repr=False)
    lifetime: float
    scope: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A grant and when its request was sent: wall clock (aware UTC), boot-time clock (seconds).

    `basis` tells with what it was asked for. The `lifetime` of a fixed one ends with the token, and reading it again
    is cheap.
    """

    grant: Grant
    sent_at: datetime
    sent_boot: float
    basis: str = ""
    origin: Origin = "issued"


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What a source has seen: token requests since start, the server's clock minus ours in seconds, the secret that
    worked last (index) and the endpoint; None where nothing is known. `warnings` tell people how things are now."""

    requests: int = 0
    skew: float | None = None
    secret_index: int | None = None
    endpoint: str | None = None
    warnings: tuple[str, ...] = ()


class Keeper(Protocol):
    """Carries the tokens of one identity from one process to the next."""

    async def recall(self) -> Fetched | None:
        """What the process before has left, without asking any server.

        Raises:
            LoginRequiredError: it is a person's, and somebody has to sign in first.
            SecretUnavailableError: whether it can be used, cannot be told.
        """
        ...

    async def keep(self, fetched: Fetched) -> None:
        """Leave this token to the next process. Never raises."""
        ...


class TokenSource(Protocol):
    """Gets one token at a time for one identity, by one grant."""

    async def fetch(self, *, anew: bool = False) -> Fetched:
        """A token from the server, `anew` even if a stored one would do; what must survive a crash is durable when it
        returns.

        Raises:
            IdentityError: retryable where waiting can help.
            SecretUnavailableError: a secret cannot be read.
        """
        ...

    async def changed(self) -> bool:
        """Whether what it fetches with (secret, sign-in) differs from what was tried last."""
        ...

    def withdrawn(self) -> bool:
        """Whether the token it gave last must not be used any more, whatever its life: cheap, asked for each use."""
        ...

    def facts(self) -> SourceFacts:
        """What it has seen."""
        ...
