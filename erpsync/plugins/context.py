"""What a plugin gets: settings, clients, cursor, counts, files and sinks of one attempt."""

import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Generic, Protocol, TypeVar
from urllib.parse import urljoin, urlsplit

from erpsync.core.clock import Clock, SystemClock
from erpsync.core.errors import RunCancelledError
from erpsync.core.event import Level
from erpsync.core.run import Counts, utc_text
from erpsync.plugins.contract import ConfigProblem, JobResult, Settings
from erpsync.plugins.letters import LetterBox
from erpsync.plugins.target import Column, Target

if TYPE_CHECKING:
    import httpx2

    from erpsync.erpnet.blocking import BlockingErp
    from erpsync.erpnet.client import ErpClient
    from erpsync.plugins.sink import SinkOpening

S = TypeVar("S", bound=Settings)


class Reporter(Protocol):
    """Where an attempt tells what it does; nothing here blocks or raises."""

    def log(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        """A line for the run's log; the receiver removes secrets."""
        ...

    def counted(self, counts: Counts) -> None:
        """All rows so far, not the difference."""
        ...

    def progress(self, done: int, total: int | None) -> None: ...

    def stopping(self) -> bool:
        """Whether the attempt should end at its next checkpoint."""
        ...


class Cursor:
    """Where the next incremental read begins: kept by the daemon, stored when the run succeeds."""

    __slots__ = ("staged", "value")

    def __init__(self, value: str | None = None) -> None:
        self.value = value
        self.staged: str | None = None

    def stage(self, value: str) -> None:
        """Make `value` the cursor once the run has succeeded.

        Raises:
            TypeError, UnicodeEncodeError: it is no text that can be kept.
        """
        if not isinstance(value, str):
            raise TypeError(f"a cursor is text, not {type(value).__name__}")
        value.encode()
        self.staged = value


class JobLog:
    """Writes to the run's log: `ctx.log.info("page.read", rows=1000)`."""

    __slots__ = ("_reporter",)

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def debug(self, event: str, **fields: object) -> None:
        self._reporter.log("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._reporter.log("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._reporter.log("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._reporter.log("error", event, fields)


class JobContext(Generic[S]):
    """One attempt as its plugin sees it.

    In a `def` plugin `erp`, `http` and `sink` are blocking twins with the same names (annotate with BlockingContext
    to have their types). `params` holds what was set by hand for this run. `window` is the time that the run is
    about, (from, to) as aware UTC instants with `to` excluded, None in a normal run.

    `dead` is None in a normal run. Else the run is about these rows and nothing more: each failed before, and what
    fails again goes to `dead_letter` again; the others are forgotten once the run has come to a result. Only plugins
    that say `takes_dead=True` in their `@job` are run so.
    """

    def __init__(
        self,
        *,
        settings: S,
        job: str,
        run_id: str,
        reporter: Reporter,
        data: Path,
        artifacts: Path | str,
        dead_letters: str,
        formerly: Sequence[str] = (),
        attempt: int = 1,
        dry_run: bool = False,
        params: Mapping[str, object] | None = None,
        window: tuple[datetime, datetime] | None = None,
        dead: Sequence[Mapping[str, object]] | None = None,
        erp: "Callable[[], ErpClient | BlockingErp] | None" = None,
        http: "Callable[[], httpx2.AsyncClient | httpx2.Client] | None" = None,
        root: Callable[[], Awaitable[str]] | None = None,
        cursor: Cursor | None = None,
        clock: Clock | None = None,
        redact: Callable[[str], str] = str,
    ) -> None:
        """`data` is where relative targets lie, `artifacts` a folder and `dead_letters` a file of this run.

        `formerly` are names that the job had. `erp` and `http` make the clients, once they are asked for. `root`
        gives the address of the instance's Domain API; None where it has none.
        """
        self.settings = settings
        self.job = job
        self.run_id = run_id
        self.attempt = attempt
        self.dry_run = dry_run
        self.params: Mapping[str, object] = params or {}
        self.window = window
        self.dead = dead
        self._formerly = tuple(formerly)
        self.cursor = cursor or Cursor()
        self.log = JobLog(reporter)
        self.counts = Counts()
        self._reporter = reporter
        self._data = data
        self._artifacts = artifacts
        self._letters = LetterBox(dead_letters, attempt)
        self._make_erp = erp
        self._make_http = http
        self._root = root
        self._clock = clock or SystemClock()
        self._redact = redact

    @cached_property
    def erp(self) -> "ErpClient":
        """The Domain API of the job's instance, with the job's identity."""
        if self._make_erp is None:
            raise ConfigProblem("", "this job has no ERP.net instance; give it an identity of one")
        return self._make_erp()  # type: ignore[return-value]  # BlockingContext has the other type

    @cached_property
    def http(self) -> "httpx2.AsyncClient":
        """An HTTP client whose requests carry the token, to the instance's own origins and nowhere else."""
        if self._make_http is None:
            raise ConfigProblem("", "this job has no HTTP client")
        return self._make_http()  # type: ignore[return-value]

    async def absolute(self, url: str) -> str:
        """`url` itself, or, where it is relative, the address below the instance's Domain API."""
        try:
            if urlsplit(url).scheme:
                return url
        except ValueError as error:
            raise ConfigProblem("url", f"is no address: {error}") from error
        if self._root is None:
            raise ConfigProblem(
                "url", "is relative, and this job has no ERP.net instance; write a whole address"
            )
        return urljoin((await self._root()).rstrip("/") + "/", url)

    def now(self) -> datetime:
        """The clock of this run: an aware UTC instant."""
        return self._clock.now()

    def count(
        self,
        *,
        read: int = 0,
        written: int = 0,
        unchanged: int = 0,
        deleted: int = 0,
        failed: int = 0,
        skipped: int = 0,
    ) -> None:
        """Add to the rows of this run."""
        self.counts = self.counts.plus(
            read=read, written=written, unchanged=unchanged, deleted=deleted, failed=failed, skipped=skipped
        )
        self._reporter.counted(self.counts)

    def progress(self, done: int, total: int | None = None) -> None:
        """How far the work is, for people who watch."""
        self._reporter.progress(done, total)

    def checkpoint(self) -> None:
        """A place where the run may stop without harm.

        Raises:
            RunCancelledError: it should stop now; let it pass.
        """
        if self._reporter.stopping():
            raise RunCancelledError("the run was asked to stop and did so at a checkpoint")

    def result(self, note: str = "") -> JobResult:
        """The result with all that was counted."""
        return JobResult(self.counts, note)

    def sink(
        self, target: Target, columns: Sequence[Column], *, key: Sequence[str] = ("Id",), scope: str = ""
    ) -> "SinkOpening":
        """Open a SQL table whose units commit rows and position together; `async with`, in `def` plugins `with`.

        `scope` says what the rows are (a query, say): where it has changed, watermark and position begin anew.
        Runs with parameters or a window leave watermark and position alone; a dry run writes nothing.
        """
        from erpsync.plugins.sink import SinkOpening, SqlSink  # SQLAlchemy costs 0.3 s: only where it is used

        return SinkOpening(
            SqlSink(
                target,
                columns,
                key=tuple(key),
                scope=scope,
                job=self.job,
                formerly=self._formerly,
                run_id=self.run_id,
                data=self._data,
                clock=self._clock,
                dry_run=self.dry_run,
                moves=not (self.dry_run or self.params or self.window or self.dead is not None),
                passing=self._letters.keep,
            )
        )

    @contextmanager
    def artifact(self, name: str) -> Iterator[BinaryIO]:
        """A file of this run that appears whole, under `name`, when the block ends well; never in a dry run."""
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not name:
            raise ValueError(f'"{name}" is no name for an artifact; it lies inside the folder of the run')
        final = Path(self._artifacts, name)
        final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", dir=final.parent)  # 0600
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if not self.dry_run:
                Path(temporary).replace(final)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def dead_letter(self, row: Mapping[str, object], error: str | Exception) -> None:
        """Count a failed row and keep it with its error, for a look and another try.

        Raises TypeError for what is no row: `ctx.dead` could not give it back.
        """
        if not isinstance(row, Mapping):
            raise TypeError(f"a dead letter is a row, a mapping of names to values, not {type(row).__name__}")
        self.count(failed=1)
        if self.dry_run:
            return
        self._letters.add(utc_text(self.now()), self._redact(str(error)), row)


class BlockingContext(JobContext[S]):
    """The context of a `def` plugin, for its types; what happens is the same with either annotation."""

    @property
    def erp(self) -> "BlockingErp":  # type: ignore[override]  # the blocking twin
        return super().erp  # type: ignore[return-value]

    @property
    def http(self) -> "httpx2.Client":  # type: ignore[override]
        return super().http  # type: ignore[return-value]
