"""The commands' side of the control API."""

import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2

from erpsync.core.errors import (
    ConfigError,
    ControlRefusedError,
    DaemonRefusedError,
    ErpsyncError,
    NoDaemonError,
    UnansweredError,
    UnknownJobError,
)
from erpsync.core.problem import Problem

_PATIENCE = 10.0  # seconds for an answer, beyond the wait that was asked for
_LONG_PATIENCE = 120.0  # where thousands of jobs may be meant
_ASKED = 3  # times for a claim, which is the same one each time


class ControlClient:
    """Asks the daemon that listens on the socket `path`.

    Every call raises NoDaemonError where none listens, ControlRefusedError where we may not ask, UnansweredError
    where no answer came in time, UnknownJobError or DaemonRefusedError where the daemon says no. `patience` is in
    seconds.
    """

    def __init__(self, path: Path, *, patience: float = _PATIENCE) -> None:
        self._socket = path
        self._patience = patience
        transport = httpx2.HTTPTransport(uds=str(path))
        self._http = httpx2.Client(transport=transport, base_url="http://daemon", timeout=patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def status(self) -> dict[str, Any]:
        """What is true now."""
        status: dict[str, Any] = self._ask("GET", "/status")
        return status

    def identities(self) -> list[dict[str, Any]]:
        """How every identity stands."""
        found: list[dict[str, Any]] = self._ask("GET", "/identities", timeout=_LONG_PATIENCE)
        return found

    def identity(self, name: str, *, fetch: bool = False) -> dict[str, Any]:
        """One identity; with `fetch` after a real token request."""
        path = f"/identities/{quote(name, safe='')}"
        found: dict[str, Any] = (
            self._ask("POST", f"{path}/fetch", timeout=_LONG_PATIENCE) if fetch else self._ask("GET", path)
        )
        return found

    def examine(self, instance: str, *, api: bool) -> list[dict[str, Any]]:
        """What `doctor` finds at one instance."""
        path = f"/instances/{quote(instance, safe='')}/examine"
        found: list[dict[str, Any]] = self._ask("POST", path, params={"api": api}, timeout=_LONG_PATIENCE)
        return found

    def claim(self, job: str, params: Mapping[str, object]) -> dict[str, Any]:
        """Claim a run of `job`; the run as a document."""
        return self.claim_all([job], params)[0]

    def claim_all(self, jobs: Sequence[str], params: Mapping[str, object]) -> list[dict[str, Any]]:
        """Claim a run of each of these jobs, or of none; the runs as documents.

        Where no answer comes it asks again for the very same runs, before it gives up with UnansweredError.
        """
        wish = {"jobs": [*jobs], "params": dict(params), "wish": token_hex(16)}
        for _ in range(_ASKED - 1):
            with suppress(UnansweredError):
                return self._claims(wish)
        try:
            return self._claims(wish)
        except UnansweredError as error:
            names = " ".join(jobs)
            raise UnansweredError(
                f"{error.message}: it may run {names} yet", hint=f"erpsync runs {names}"
            ) from error

    def _claims(self, wish: Mapping[str, object]) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self._ask("POST", "/claims", json=wish)
        return runs

    def find(self, run_id: str, wait: float = 0) -> dict[str, Any]:
        """The run and its `progress` {done, total} or None, after its end or `wait` seconds (30 at most)."""
        timeout = self._patience + wait
        run: dict[str, Any] = self._ask("GET", f"/runs/{run_id}", params={"wait": wait}, timeout=timeout)
        return run

    def retry(self, run_id: str, *, force: bool) -> dict[str, Any]:
        """Claim a run that does a finished one again; the new run."""
        run: dict[str, Any] = self._ask("POST", f"/runs/{run_id}/retry", json={"force": force})
        return run

    def retry_dead(self, job: str) -> dict[str, Any]:
        """Claim a run that is given the dead letters of a job; the run."""
        run: dict[str, Any] = self._ask("POST", f"/jobs/{quote(job, safe='')}/dead/retry")
        return run

    def reset_cursor(self, job: str) -> None:
        """Let the next run of `job` read everything."""
        self._ask("POST", f"/jobs/{quote(job, safe='')}/cursor/reset", timeout=_LONG_PATIENCE)

    def backfill(
        self, job: str, window: Sequence[str], slice_seconds: float, name: str | None
    ) -> list[dict[str, Any]]:
        """Claim runs for the slices of a window (from, to); those of a backfill that is known as they are."""
        wish = {"window": [*window], "slice_seconds": slice_seconds, "name": name}
        path = f"/jobs/{quote(job, safe='')}/backfill"
        runs: list[dict[str, Any]] = self._ask("POST", path, json=wish, timeout=_LONG_PATIENCE)
        return runs

    def cancel(self, run_id: str, reason: str | None = None) -> bool:
        """End a run; False where it has ended already."""
        return bool(self._ask("POST", f"/runs/{run_id}/cancel", json={"reason": reason})["cancelled"])

    def pause(self, jobs: Sequence[str], until: datetime | None, reason: str | None) -> list[dict[str, Any]]:
        """Pause jobs; their pauses as documents."""
        wish = {"jobs": [*jobs], "until": until.isoformat() if until else None, "reason": reason}
        pauses: list[dict[str, Any]] = self._ask("POST", "/pause", json=wish, timeout=_LONG_PATIENCE)
        return pauses

    def resume(self, jobs: Sequence[str] | None) -> dict[str, Any]:
        """End the pauses of jobs, None: of all, and of the state: {resumed: names, released: bool}."""
        wish = {"jobs": None if jobs is None else [*jobs]}
        answer: dict[str, Any] = self._ask("POST", "/resume", json=wish, timeout=_LONG_PATIENCE)
        return answer

    def reload(self) -> dict[str, Any]:
        """Have the changed files taken over; the plan that was carried out. Raises ConfigError with all problems."""
        plan: dict[str, Any] = self._ask("POST", "/reload", timeout=_LONG_PATIENCE)
        return plan

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        self._knock()
        try:
            answer = self._http.request(method, path, **request)
        except httpx2.TimeoutException as error:
            message = f"the daemon was asked and has not answered on {self._socket}"
            raise UnansweredError(message, hint="erpsync status, erpsync runs") from error
        except httpx2.ConnectError as error:
            raise self._nobody() from error
        except httpx2.TransportError as error:
            message = (
                f"the daemon has ended before it answered on {self._socket}: what was asked may be done yet"
            )
            hint = "its next start goes on with what it has claimed: erpsync daemon, then erpsync runs"
            raise NoDaemonError(message, hint=hint) from error
        if answer.is_success:
            return answer.json()
        raise _refusal(answer)

    def _knock(self) -> None:
        """Tell "no daemon" from "no right", which the HTTP library's errors do not."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._socket))
            except PermissionError as error:
                hint = "join the group of [control], or use sudo"
                raise ControlRefusedError(f"you have no right to use {self._socket}", hint=hint) from error
            except OSError as error:
                raise self._nobody() from error

    def _nobody(self) -> NoDaemonError:
        return NoDaemonError(f"no daemon answers on {self._socket}", hint="start it: erpsync daemon")


def _refusal(answer: httpx2.Response) -> ErpsyncError:
    try:
        error = answer.json()["error"]
        kind, message, hint = str(error["type"]), str(error["message"]), str(error["hint"])
    except (ValueError, KeyError, TypeError):
        kind, message, hint = (
            "InvalidAnswerError",
            f"the daemon answered {answer.status_code}",
            "same version?",
        )
    if kind == ConfigError.__name__ and "problems" in error:
        return ConfigError([Problem(**problem) for problem in error["problems"]])
    if kind == UnknownJobError.__name__:
        return UnknownJobError(message, hint=hint)
    return DaemonRefusedError(message, kind=kind, retryable=answer.status_code == 503, hint=hint)
