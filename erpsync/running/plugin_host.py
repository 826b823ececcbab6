"""Enters plugins: in a task of the daemon or in a child process, with everything their context holds."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import httpx2

from erpsync.core.clock import Clock
from erpsync.core.errors import IdentityError
from erpsync.core.event import Emit
from erpsync.core.job import Job
from erpsync.core.redaction import Redactor
from erpsync.core.run import Run
from erpsync.erpnet.client import ErpClient
from erpsync.erpnet.transport import AuthorizedTransport
from erpsync.plugins.context import Cursor, JobContext
from erpsync.plugins.contract import Plugin, Skip
from erpsync.plugins.discovery import PluginCatalog
from erpsync.running.attempt import LiveAttempt
from erpsync.running.channel import VERSION, Done, Order, answer_of
from erpsync.running.connection import Connection
from erpsync.running.fault import Fault, fault_of
from erpsync.running.fork import ForkServer
from erpsync.running.plugin_loop import Entered, enter
from erpsync.running.preparation import Preparation, Prepared
from erpsync.running.process import ProcessAttempt
from erpsync.store.dead_letters import DeadLetter, DeadLetters


class PluginHost:
    """Does the work of attempts; `connections` gives a job's way to its instance, None for a job without one."""

    def __init__(
        self,
        *,
        preparation: Preparation,
        connections: Callable[[Job], Connection | None],
        fork_server: ForkServer,
        catalog: PluginCatalog,
        data: Path,
        clock: Clock,
        emit: Emit,
        redactor: Redactor,
    ) -> None:
        self._preparation = preparation
        self._connections = connections
        self._fork_server = fork_server
        self._catalog = catalog
        self._data = data
        self._letters = DeadLetters(data / "dead")
        self._clock = clock
        self._emit = emit
        self._redactor = redactor

    async def work(self, attempt: LiveAttempt) -> Done | Fault:
        """Prepare, enter the plugin, and give what came of it; raises nothing that a plugin raised."""
        try:
            prepared = await self._preparation.prepare(attempt.job)
            if prepared.cursor != attempt.run.cursor_before:
                attempt.run = replace(attempt.run, cursor_before=prepared.cursor)
            dead = await self._dead(attempt.run) if "dead" in attempt.run.params else None
            connection = self._connections(attempt.job)
            await _require_scope(prepared.plugin, connection)
            if connection is not None and connection.ready is not None:
                await connection.ready(await self._preparation.expected(attempt.job))
            if not prepared.in_child(attempt.job):
                return await self._in_task(attempt, prepared, connection, dead)
            root = await connection.root() if connection and connection.root else None
            order = self._order(attempt, prepared, connection, root, dead)
        except GeneratorExit:
            raise  # nobody waits for this work any longer; there is nothing to say, and no time to say it
        except BaseException as error:  # noqa: BLE001 - the attempt's border: SystemExit must not end the daemon
            return fault_of(error)
        transport = None if connection is None else _transport(connection, order.dry_run)
        attempt.child = ProcessAttempt(self._fork_server, order, transport, attempt.reporter)
        return await attempt.child.run()

    async def _in_task(
        self,
        attempt: LiveAttempt,
        prepared: Prepared,
        connection: Connection | None,
        dead: list[dict[str, object]] | None,
    ) -> Done | Fault:
        run, cursor = attempt.run, Cursor(prepared.cursor)
        dry_run = bool(run.params.get("dry_run"))
        http, erp = self._clients(connection, dry_run)
        context = JobContext(
            settings=prepared.settings,
            job=run.job,
            formerly=attempt.job.formerly,
            run_id=run.id,
            reporter=attempt.reporter,
            data=self._data,
            artifacts=self._artifacts(run.id),
            dead_letters=self._letters.file(run.id),
            attempt=run.attempts,
            dry_run=dry_run,
            params=_set_by_hand(attempt),
            window=run.window,
            dead=dead,
            erp=erp,
            http=http,
            root=connection.root if connection else None,
            cursor=cursor,
            clock=self._clock,
            redact=self._redactor,
        )
        entered = Entered(run.id, run.job)
        result = await enter(entered, lambda: prepared.plugin.function(context))
        return answer_of(result, cursor.staged)

    async def put_letters_away(self, attempt: LiveAttempt, answer: Done | Fault) -> Done | Fault:
        """The answer, once the dead letters of the attempt are durable; where they cannot be, it is a fault."""
        if not self._letters.has(attempt.run.id):
            return answer
        try:
            await asyncio.to_thread(self._letters.close, attempt.run.id, attempt.run.attempts)
        except OSError as error:
            return answer if isinstance(answer, Fault) else _unwritten(error)
        return answer

    def _clients(
        self, connection: Connection | None, dry_run: bool
    ) -> tuple[Callable[[], httpx2.AsyncClient] | None, Callable[[], ErpClient] | None]:
        """Makers of both, for a client costs as much as a small run, and many plugins need none or one."""
        if connection is None:
            return None, None

        @cache
        def http() -> httpx2.AsyncClient:
            return httpx2.AsyncClient(transport=_transport(connection, dry_run), timeout=connection.timeout)

        root = connection.root
        if root is None:
            return http, None
        return http, lambda: ErpClient(http(), root, emit=self._emit, clock=self._clock, dry_run=dry_run)

    def _order(
        self,
        attempt: LiveAttempt,
        prepared: Prepared,
        connection: Connection | None,
        root: str | None,
        dead: list[dict[str, object]] | None,
    ) -> Order:
        run, job = attempt.run, attempt.job
        return Order(
            version=VERSION,
            job=run.job,
            formerly=list(job.formerly),
            run_id=run.id,
            attempt=run.attempts,
            plugin=job.plugin,
            path=self._catalog.path(job.plugin),
            folders=[str(folder) for folder in self._catalog.folders],
            stamps=dict(self._catalog.stamps),
            settings=dict(job.settings),
            secrets=prepared.secrets,
            cursor=prepared.cursor,
            params=_set_by_hand(attempt),
            window=run.window,
            dead=dead,
            dry_run=bool(run.params.get("dry_run")),
            data=str(self._data),
            artifacts=self._artifacts(run.id),
            dead_letters=self._letters.file(run.id),
            root=root,
            timeout=connection.timeout.as_dict() if connection else None,
            memory=job.memory,
        )

    def _artifacts(self, run_id: str) -> str:
        return f"{self._data}/artifacts/{run_id}"

    async def _dead(self, run: Run) -> list[dict[str, object]]:
        """The rows that a run is given because they failed before.

        Raises Skip where another run has settled them meanwhile.
        """
        given = await self._preparation.given_letters(run)
        letters = await asyncio.to_thread(self._read_letters, run.id, given)
        if not letters:
            raise Skip("no dead letters are left")
        return [dict(letter.row) for letter in letters]

    def _read_letters(self, run_id: str, given: Sequence[str]) -> list[DeadLetter]:
        self._letters.remove([run_id])  # an attempt before took the same rows up
        return self._letters.read(given)


async def _require_scope(plugin: Plugin, connection: Connection | None) -> None:
    """Raises IdentityError where the plugin's calls would be refused for want of a scope."""
    if not plugin.scope or connection is None or connection.granted is None:
        return
    granted = await connection.granted()
    missing = [] if granted is None else [word for word in plugin.scope if word not in granted]
    if missing:
        raise IdentityError(
            f"{plugin.name} needs the scope {' '.join(plugin.scope)}, and {connection.identity_name} was granted "
            f"{' '.join(granted or ())}",
            hint=f"add {' '.join(missing)} to the field Scope of the Trusted Application, and to `scope` of the "
            "identity where it has one",
        )


def _unwritten(error: OSError) -> Fault:
    message = f"the dead letters cannot be kept: {error.strerror}"
    return Fault("error", "DeadLettersError", message, "is the disk of [daemon] data full?", retryable=True)


def _transport(connection: Connection, dry_run: bool) -> AuthorizedTransport:
    return connection.transport.for_dry_run() if dry_run else connection.transport


def _set_by_hand(attempt: LiveAttempt) -> dict[str, object]:
    values = attempt.run.params.get("set")
    return dict(values) if isinstance(values, dict) else {}
