"""A control API on a real Unix socket, with what it was told written down."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from erpsync.control.api import control_application
from erpsync.control.listener import bind_control_socket
from erpsync.control.peer import PeerProtocol
from erpsync.core.errors import (
    ConfigError,
    RunRefusedError,
    StoreUnavailableError,
    TokenEndpointError,
    UnknownJobError,
    UnknownNameError,
    UnknownRunError,
)
from erpsync.core.event import silent
from erpsync.core.problem import Problem
from erpsync.core.redaction import Redactor
from erpsync.core.run import Outcome, Run, RunTrigger, State
from erpsync.daemon.server import EmbeddedServer

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@dataclass
class Desk:
    """Controls over runs in memory: the API's neighbour, not the API."""

    runs: dict[str, Run] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    heard: list[tuple[object, ...]] = field(default_factory=list)
    wishes: list[str | None] = field(default_factory=list)
    silent: int = 0  # claims that are never answered
    secret: str = "sandbox-secret"

    def redacted(self, text: str) -> str:
        """What the daemon's redactor does, for one secret."""
        redactor = Redactor()
        redactor.learn(self.secret)
        return redactor(text)

    def status(self) -> dict[str, object]:
        return {"pid": 7, "problems": [f"the password is {self.secret}"]}

    def identities(self) -> list[dict[str, object]]:
        return [{"identity": "night@acme", "state": "fresh"}]

    def identity(self, name: str) -> dict[str, object]:
        if name != "night@acme":
            raise UnknownNameError(f'there is no identity "{name}"', hint='did you mean "night@acme"?')
        return {"identity": name, "claims": {}}

    async def fetch(self, name: str) -> dict[str, object]:
        if name == "refused":
            raise TokenEndpointError("the identity server refuses", hint="mend IsEnabled", credentials=True)
        if name == "away":
            raise TokenEndpointError("the identity server is away", retryable=True)
        return self.identity(name) | {"fetched": {"scope": ["read"]}}

    async def examine(self, instance: str, *, api: bool) -> list[dict[str, object]]:
        self.heard.append(("examine", instance, api))
        return [{"instance": instance, "verdict": "ok"}]

    async def claim(
        self, jobs: Sequence[str], params: Mapping[str, object], requested_by: str, wish: str | None = None
    ) -> list[Run]:
        self.wishes.append(wish)
        if len(self.wishes) <= self.silent:
            await asyncio.Event().wait()
        return [await self._claim(job, params, requested_by) for job in jobs]

    async def _claim(self, job: str, params: Mapping[str, object], requested_by: str) -> Run:
        self.heard.append((job, dict(params), requested_by))
        if job == "locked":
            raise StoreUnavailableError("the state database is locked", hint="wait")
        if job == "fault":
            raise ZeroDivisionError("sandbox-secret")
        if job != "products":
            raise UnknownJobError(f'there is no job "{job}"', hint='did you mean "products"?')
        run = Run(
            "r1", job, "manual:1", "mirror", RunTrigger.MANUAL, NOW, fire_at=NOW, requested_by=requested_by
        )
        self.runs[run.id] = run
        return run

    async def find(self, run_id: str, wait: float) -> tuple[Run, tuple[int, int | None] | None]:
        if run_id not in self.runs:
            raise UnknownRunError(f'there is no run "{run_id}"')
        if wait:
            await asyncio.wait_for(self.ended.wait(), wait)
        return self.runs[run_id], None if self.ended.is_set() else (3, None)

    async def retry(self, run_id: str, force: bool, requested_by: str) -> Run:
        self.heard.append(("retry", run_id, force, requested_by))
        raise RunRefusedError("it has not ended", hint="wait")

    async def retry_dead(self, job: str, requested_by: str) -> Run:
        return await self._claim(job, {"dead": ["r0"]}, requested_by)

    async def reset_cursor(self, job: str, requested_by: str) -> None:
        self.heard.append(("reset_cursor", job, requested_by))

    async def backfill(
        self,
        job: str,
        window: tuple[datetime, datetime],
        size: timedelta,
        name: str | None,
        requested_by: str,
    ) -> list[Run]:
        self.heard.append(("backfill", job, window, size, name, requested_by))
        return []

    async def cancel(self, run_id: str, reason: str | None, requested_by: str) -> bool:
        self.heard.append(("cancel", run_id, reason, requested_by))
        self.runs[run_id] = replace(self.runs[run_id], state=State.FINISHED, outcome=Outcome.CANCELLED)
        self.ended.set()
        return True

    async def pause(
        self, jobs: Sequence[str], until: datetime | None, reason: str | None, requested_by: str
    ) -> list[dict[str, object]]:
        self.heard.append(("pause", [*jobs], until, reason, requested_by))
        return [{"job": job} for job in jobs]

    async def resume(self, jobs: Sequence[str] | None, requested_by: str) -> dict[str, object]:
        self.heard.append(("resume", jobs, requested_by))
        return {"resumed": ["products"], "released": False}

    async def reload(self, requested_by: str) -> dict[str, object]:
        message = f'unknown key "shedule", not {self.secret}'
        raise ConfigError([Problem("E103", "error", message, "erpsync.toml", 3, 1)])


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
async def served(desk: Desk, socket_path: Path) -> AsyncIterator[Desk]:
    """The desk, with its API served on `socket_path`."""
    listener = bind_control_socket(socket_path, 0o660, None)
    server = EmbeddedServer(control_application(desk, desk, silent, desk.redacted), listener, PeerProtocol)
    await server.start()
    yield desk
    await server.stop()
