"""The control API: what the commands ask the daemon, as HTTP on its Unix socket."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from erpsync.control.body_limit import BodyLimit
from erpsync.control.wish import (
    BackfillRequest,
    CancelRequest,
    ClaimRequest,
    Parameters,
    PauseRequest,
    ResumeRequest,
    RetryRequest,
    RunRequest,
)
from erpsync.core.errors import ConfigError, ErpsyncError, UnknownJobError, UnknownNameError, UnknownRunError
from erpsync.core.event import Emit
from erpsync.core.problem import Problem
from erpsync.core.redaction import document_without
from erpsync.core.run import Run
from erpsync.version import __version__

Document = dict[str, object]


class Controls(Protocol):
    """What the daemon lets itself be asked and told."""

    def status(self) -> Document:
        """What is true now; see the `status` command."""
        ...

    async def claim(
        self, jobs: Sequence[str], params: Mapping[str, object], requested_by: str, wish: str | None = None
    ) -> list[Run]:
        """Claim a run of each of these jobs now, or find those of the same wish. UnknownJobError, ParkedJobError:
        none is claimed; StoreError: ask again with the wish."""
        ...

    async def find(self, run_id: str, wait: float) -> tuple[Run, tuple[int, int | None] | None]:
        """A run and its progress (done, total), after its end or `wait` seconds. UnknownRunError."""
        ...

    async def retry(self, run_id: str, force: bool, requested_by: str) -> Run:
        """Claim a run that does a finished one again. UnknownRunError, RunRefusedError; as `claim`."""
        ...

    async def retry_dead(self, job: str, requested_by: str) -> Run:
        """Claim a run that is given the dead letters of a job. RunRefusedError; as `claim`."""
        ...

    async def reset_cursor(self, job: str, requested_by: str) -> None:
        """Let the next run of a job read everything. UnknownJobError, RunRefusedError, StoreError, TargetError."""
        ...

    async def backfill(
        self,
        job: str,
        window: tuple[datetime, datetime],
        size: timedelta,
        name: str | None,
        requested_by: str,
    ) -> list[Run]:
        """Claim runs for the slices of a window, or find those that are there. RunRefusedError; as `claim`."""
        ...

    async def cancel(self, run_id: str, reason: str | None, requested_by: str) -> bool:
        """End a run; False where it has ended already. UnknownRunError, StoreError."""
        ...

    async def pause(
        self, jobs: Sequence[str], until: datetime | None, reason: str | None, requested_by: str
    ) -> list[Document]:
        """Pause jobs; their pauses. UnknownJobError, ParkedJobError: none is paused; StoreError."""
        ...

    async def resume(self, jobs: Sequence[str] | None, requested_by: str) -> Document:
        """End pauses, None: all; {resumed: names, released: whether a held state goes on}. UnknownJobError,
        StoreError."""
        ...

    async def reload(self, requested_by: str) -> Document:
        """Take the changed files over; the plan that was carried out. ConfigError, StoreError: nothing changed."""
        ...


class Desk(Protocol):
    """What may be seen of identities and asked of them; no answer holds a token."""

    def identities(self) -> list[Document]:
        """Every identity, by name."""
        ...

    def identity(self, name: str) -> Document:
        """One, with the claims of its token. UnknownNameError."""
        ...

    async def fetch(self, name: str) -> Document:
        """The same after a real token request. UnknownNameError, IdentityError, SecretUnavailableError."""
        ...

    async def examine(self, instance: str, *, api: bool) -> list[Document]:
        """The findings of `doctor` at one instance; with `api` sessions are opened. UnknownNameError."""
        ...


def control_application(controls: Controls, desk: Desk, emit: Emit, redact: Callable[[str], str]) -> FastAPI:
    """The ASGI application; `request.client.host` is who asks. Errors are {error: {type, message, hint}}.

    The rooms behind it keep secrets out of what they say; whatever leaves passes `redact` all the same.
    """

    class Answer(JSONResponse):
        def render(self, content: Any) -> bytes:
            return super().render(document_without(content, redact))

    app = FastAPI(
        title="erpsync control API",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        default_response_class=Answer,
    )
    app.add_middleware(BodyLimit)
    _add_identities(app, desk)
    _add_runs(app, controls)
    _add_jobs(app, controls)
    _add_daemon(app, controls)
    _answer_errors(app, Answer, emit)
    return app


def _add_identities(app: FastAPI, desk: Desk) -> None:
    @app.get("/identities", summary="The state of every identity")
    async def identities() -> list[Document]:
        return desk.identities()

    @app.get("/identities/{name}", summary="One identity, with the claims of its token")
    async def identity(name: str) -> Document:
        return desk.identity(name)

    @app.post("/identities/{name}/fetch", summary="A real token request")
    async def fetch(name: str) -> Document:
        return await desk.fetch(name)

    @app.post("/instances/{name}/examine", summary="What `doctor` finds; with `api` it opens sessions")
    async def examine(name: str, api: bool = False) -> list[Document]:
        return await desk.examine(name, api=api)


def _add_runs(app: FastAPI, controls: Controls) -> None:
    @app.post("/runs", status_code=201, summary="Claim a run now")
    async def claim(request: Request, wish: RunRequest) -> Document:
        (run,) = await controls.claim([wish.job], _params(wish.params), _peer(request), wish.wish)
        return run.document()

    @app.post("/claims", status_code=201, summary="Claim a run of each of several jobs, or of none")
    async def claim_all(request: Request, wish: ClaimRequest) -> list[Document]:
        runs = await controls.claim(wish.jobs, _params(wish.params), _peer(request), wish.wish)
        return [run.document() for run in runs]

    @app.get("/runs/{run_id}", summary="A run with its progress, after its end or after `wait` seconds")
    async def find(run_id: str, wait: Annotated[float, Query(ge=0, le=30)] = 0) -> Document:
        run, progress = await controls.find(run_id, wait)
        shown = None if progress is None else {"done": progress[0], "total": progress[1]}
        return run.document() | {"progress": shown}

    @app.post("/runs/{run_id}/retry", status_code=201, summary="Do a finished run again")
    async def retry(request: Request, run_id: str, wish: RetryRequest) -> Document:
        return (await controls.retry(run_id, wish.force, _peer(request))).document()

    @app.post("/runs/{run_id}/cancel", summary="End a run")
    async def cancel(request: Request, run_id: str, wish: CancelRequest) -> Document:
        return {"cancelled": await controls.cancel(run_id, wish.reason, _peer(request))}


def _add_jobs(app: FastAPI, controls: Controls) -> None:
    @app.post("/jobs/{job}/dead/retry", status_code=201, summary="Run a job for its dead letters")
    async def retry_dead(request: Request, job: str) -> Document:
        return (await controls.retry_dead(job, _peer(request))).document()

    @app.post("/jobs/{job}/cursor/reset", summary="Let the next run of a job read everything")
    async def reset_cursor(request: Request, job: str) -> Document:
        await controls.reset_cursor(job, _peer(request))
        return {"reset": job}

    @app.post("/jobs/{job}/backfill", status_code=201, summary="Work through a part of the past in slices")
    async def backfill(request: Request, job: str, wish: BackfillRequest) -> list[Document]:
        size = timedelta(seconds=wish.slice_seconds)
        runs = await controls.backfill(job, wish.window, size, wish.name, _peer(request))
        return [run.document() for run in runs]

    @app.post("/pause", summary="Let jobs fire nothing")
    async def pause(request: Request, wish: PauseRequest) -> list[Document]:
        return await controls.pause(wish.jobs, wish.until, wish.reason, _peer(request))

    @app.post("/resume", summary="Let paused jobs go on")
    async def resume(request: Request, wish: ResumeRequest) -> Document:
        return await controls.resume(wish.jobs, _peer(request))


def _add_daemon(app: FastAPI, controls: Controls) -> None:
    @app.get("/status", summary="What is true now")
    async def status() -> Document:
        return controls.status()

    @app.post("/reload", summary="Take the changed files over")
    async def reload(request: Request) -> Document:
        return await controls.reload(_peer(request))


def _answer_errors(app: FastAPI, form: type[JSONResponse], emit: Emit) -> None:
    def answer(
        status: int, kind: str, message: str, hint: str, problems: Sequence[Problem] = ()
    ) -> JSONResponse:
        found = {"problems": [problem.document() for problem in problems]} if problems else {}
        return form({"error": {"type": kind, "message": message, "hint": hint, **found}}, status)

    @app.exception_handler(ConfigError)
    async def unusable(_request: Request, error: ConfigError) -> JSONResponse:
        return answer(409, type(error).__name__, error.message, error.hint, error.problems)

    @app.exception_handler(ErpsyncError)
    async def refused(_request: Request, error: ErpsyncError) -> JSONResponse:
        missing = isinstance(error, UnknownJobError | UnknownNameError | UnknownRunError)
        status = 404 if missing else 503 if error.retryable else 409
        return answer(status, type(error).__name__, error.message, error.hint)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        places = ", ".join(".".join(str(part) for part in each["loc"]) for each in error.errors())
        return answer(422, "InvalidRequestError", f"the request is not understood: {places}", "/openapi.json")

    @app.exception_handler(HTTPException)
    async def unknown(_request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, "InvalidRequestError", error.detail, "/openapi.json")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        emit("control.failed", level="error", path=request.url.path, error_type=type(error).__name__)
        return answer(500, type(error).__name__, "a fault of erpsync itself", "the daemon's log")


def _params(parameters: Parameters) -> dict[str, object]:
    """Those that were given."""
    return {key: value for key, value in parameters.model_dump(mode="json").items() if value}


def _peer(request: Request) -> str:
    return request.client.host if request.client else "unknown"
