"""The child process's side of an attempt: takes the order, runs the plugin, says how it ended."""

import asyncio
import errno
import faulthandler
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import httpx2
import msgspec
from anyio.from_thread import BlockingPortal, start_blocking_portal

from erpsync.core.clock import SystemClock
from erpsync.core.errors import PluginChangedError
from erpsync.core.event import Emit, Level
from erpsync.core.redaction import Redactor
from erpsync.core.run import Counts
from erpsync.erpnet.blocking import BlockingErp
from erpsync.erpnet.client import ErpClient
from erpsync.plugins.context import Cursor, JobContext
from erpsync.plugins.contract import Plugin
from erpsync.plugins.discovery import import_plugin, make_packages
from erpsync.plugins.settings import validate_settings
from erpsync.plugins.stamp import changed, imported
from erpsync.running.channel import (
    LOST_CHANNEL,
    VERSION,
    Cancel,
    ChildEnd,
    Counted,
    Done,
    Failed,
    FromChild,
    Log,
    Order,
    Progress,
    answer_of,
    shallow,
)
from erpsync.running.fault import Fault, fault_of, type_name, unusable
from erpsync.running.plugin_loop import Entered, PluginLoop, enter
from erpsync.running.proxy import BlockingTransport, ProxiedTransport

_NO_CHANNEL = (errno.EBADF, errno.ENOTSOCK)  # the plugin has closed it: the daemon hears of that, and says so
_PAUSE = 0.1  # seconds between two messages about rows; a plugin may count each one


def run_child(channel: socket.socket, requests: socket.socket) -> int:
    """One attempt from the order to its last message; the exit status of the process."""
    end = ChildEnd(channel)
    order = end.receive()
    if not isinstance(order, Order):
        return 70
    this_process = os.getpid()
    _prepare()
    reporter = ChildReporter(end)
    orders = Orders(end, reporter)
    reporter.start()  # as what listens, before the plugin's memory is limited
    orders.listen()
    answer = attempt(order, requests, reporter, orders)
    if os.getpid() != this_process:  # the plugin forked, and its copy of itself came here
        return 0
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the plugin may have closed or replaced it
            stream.flush()
    reporter.flush()
    try:
        try:
            end.send(answer)
        except (TypeError, ValueError) as error:
            end.send(Failed(unusable(error)))
    except OSError:
        return LOST_CHANNEL
    return 0


def _prepare() -> None:
    """Crashes leave a trace, lines come out at once, and SIGTERM unwinds the plugin."""
    faulthandler.enable(sys.__stderr__ or 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


class ChildReporter:
    """The Reporter of a child: everything goes to the daemon, rows and progress at most ten times a second."""

    def __init__(self, end: ChildEnd) -> None:
        self._end = end
        self._stopping = False
        self._news = threading.Event()
        self._counts: Counts | None = None
        self._progress: tuple[int, int | None] | None = None

    def start(self) -> None:
        """From now on, in a thread; before that only `flush` tells of rows and progress."""
        threading.Thread(target=self._tell, name="erpsync-report", daemon=True).start()

    def log(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        self._send(
            Log(level, str(_plain(event)), {str(name): _plain(value) for name, value in fields.items()})
        )

    def counted(self, counts: Counts) -> None:
        self._counts = counts
        self._news.set()

    def progress(self, done: int, total: int | None) -> None:
        self._progress = (done, total)
        self._news.set()

    def stopping(self) -> bool:
        return self._stopping

    def stop(self) -> None:
        self._stopping = True

    def flush(self) -> None:
        """Send what is new."""
        counts, self._counts = self._counts, None
        progress, self._progress = self._progress, None
        if counts is not None:
            self._send(Counted(counts.document()))
        if progress is not None:
            self._send(Progress(*progress))

    def _tell(self) -> None:
        while self._news.wait():
            self._news.clear()
            self.flush()
            time.sleep(_PAUSE)

    def _send(self, message: FromChild) -> None:
        with suppress(OSError, TypeError, ValueError):
            self._end.send(message)


class Orders:
    """Hears what the daemon says meanwhile; its silence for good ends the whole process group."""

    def __init__(self, end: ChildEnd, reporter: ChildReporter) -> None:
        self._end = end
        self._reporter = reporter
        self._cancel: Callable[[], object] | None = None

    def listen(self) -> None:
        """From now on, in a thread."""
        threading.Thread(target=self._listen, name="erpsync-orders", daemon=True).start()

    def on_cancel(self, cancel: Callable[[], object]) -> None:
        """What a Cancel does besides ending the attempt at its next checkpoint."""
        self._cancel = cancel
        if self._reporter.stopping():
            cancel()

    def _listen(self) -> None:
        try:
            while (message := self._end.receive()) is not None:
                self._reporter.stop()
                if isinstance(message, Cancel) and self._cancel is not None:
                    self._cancel()
        except OSError as error:
            if error.errno in _NO_CHANNEL:
                return
        except Exception:  # noqa: BLE001, S110 - a broken channel, too, is a daemon that is gone
            pass
        os.killpg(0, signal.SIGKILL)


def attempt(order: Order, requests: socket.socket, reporter: ChildReporter, orders: Orders) -> Done | Failed:
    """Whatever the plugin does, an answer, unless it ends the process."""
    memory = _MemoryLimit(order.memory) if order.memory else None
    try:
        if order.version != VERSION:
            return Failed(
                Fault.died("daemon and child process are of different versions", "restart the daemon")
            )
        make_packages(map(Path, order.folders))
        newest = next(reversed(sys.modules))
        plugin = import_plugin(order.plugin, order.path)
        _require_unchanged(order, newest)
        with ExitStack() as stack:
            context = _context(order, plugin, reporter, _Ways(order, plugin, requests, reporter, stack))
            result = _call(plugin, context, orders)
        answer = answer_of(result, context.cursor.staged)
        return Failed(answer) if isinstance(answer, Fault) else answer
    except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt too: this is the plugin's border
        if memory is not None:
            memory.lift()  # saying what happened takes some
            if isinstance(error, MemoryError):
                return Failed(memory.fault())
        return Failed(fault_of(error))


def _require_unchanged(order: Order, since: str) -> None:
    """The daemon has read the settings by the plugin that it knows: another one is not entered with them.

    `since` is the module that was there last before the plugin was imported.
    """
    if other := changed(imported(order.stamps, since)):
        raise PluginChangedError(
            f"{other[0]} has changed since the daemon read it",
            hint="restart the daemon, or erpsync reload where erpsync plan says that this is enough",
        )


def _context(order: Order, plugin: Plugin, reporter: ChildReporter, ways: "_Ways") -> JobContext[Any]:
    redactor = Redactor()
    redactor.learn(*order.secrets.values())
    return JobContext(
        settings=validate_settings(plugin, order.settings, lambda reference: order.secrets[str(reference)]),
        job=order.job,
        formerly=order.formerly,
        run_id=order.run_id,
        reporter=reporter,
        data=Path(order.data),
        artifacts=order.artifacts,
        dead_letters=order.dead_letters,
        attempt=order.attempt,
        dry_run=order.dry_run,
        params=order.params,
        window=order.window,
        dead=order.dead,
        erp=ways.erp if order.timeout is not None and order.root else None,
        http=ways.http if order.timeout is not None else None,
        root=_always(order.root) if order.root else None,
        cursor=Cursor(order.cursor),
        redact=redactor,
    )


class _Ways:
    """The ways to the daemon, each made at its first use; those of a `def` plugin block, with a loop in a thread."""

    def __init__(
        self,
        order: Order,
        plugin: Plugin,
        requests: socket.socket,
        reporter: ChildReporter,
        stack: ExitStack,
    ) -> None:
        self._order = order
        self._is_async = plugin.is_async
        self._reporter = reporter
        self._stack = stack
        self._transport = ProxiedTransport(requests)
        self._one_at_a_time = threading.Lock()
        self._opened: BlockingPortal | None = None

    def http(self) -> httpx2.AsyncClient | httpx2.Client:
        """With the time-outs of the instance."""
        if self._is_async:
            return self._client
        return httpx2.Client(
            transport=BlockingTransport(self._transport, self._portal), timeout=self._timeout
        )

    def erp(self) -> ErpClient | BlockingErp:
        """To the Domain API of the instance."""
        assert self._order.root is not None
        emit, dry_run = _emit_to(self._reporter), self._order.dry_run
        erp = ErpClient(
            self._client, _always(self._order.root), emit=emit, clock=SystemClock(), dry_run=dry_run
        )
        return erp if self._is_async else BlockingErp(erp, self._portal)

    @cached_property
    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=self._transport, timeout=self._timeout)

    @cached_property
    def _timeout(self) -> httpx2.Timeout:
        assert self._order.timeout is not None
        return httpx2.Timeout(**self._order.timeout)

    @property
    def _portal(self) -> BlockingPortal:
        """One, whatever threads the plugin asks in: clients live in its loop."""
        with self._one_at_a_time:
            if self._opened is None:
                self._opened = self._stack.enter_context(start_blocking_portal())
            return self._opened


def _call(plugin: Plugin, context: JobContext[Any], orders: Orders) -> object:
    if not plugin.is_async:
        return plugin.function(context)

    async def cancellable() -> object:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        orders.on_cancel(lambda: loop.call_soon_threadsafe(task.cancel))
        return await enter(Entered(context.run_id, context.job), lambda: plugin.function(context))

    with asyncio.Runner(loop_factory=PluginLoop) as runner:
        return runner.run(cancellable())


def _always(root: str) -> Callable[[], Awaitable[str]]:
    async def answer() -> str:
        return root

    return answer


def _emit_to(reporter: ChildReporter) -> Emit:
    def emit(event: str, /, *, level: Level = "info", **fields: object) -> None:
        reporter.log(level, event, fields)

    return emit


def _plain(value: object) -> object:
    """A logged value as JSON can say it."""
    try:
        if isinstance(value, str):
            return value.encode(errors="replace").decode()
        return msgspec.to_builtins(shallow(value), enc_hook=str, str_keys=True)
    except BaseException:  # noqa: BLE001 - a plugin's object may do anything here, and logging never raises
        return f"<{type_name(value)}>"


_LAST_WORDS = 64 * 2**20  # bytes on top of the limit, to say that it was reached


class _MemoryLimit:
    """A limit on what the process maps: `allowance` bytes on top of what it maps already. It cannot be raised."""

    def __init__(self, allowance: int) -> None:
        self._allowance = allowance
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        soft, before = mapped + allowance, resource.getrlimit(resource.RLIMIT_AS)[1]
        self._hard = (
            soft + _LAST_WORDS if before == resource.RLIM_INFINITY else min(before, soft + _LAST_WORDS)
        )
        resource.setrlimit(resource.RLIMIT_AS, (min(soft, self._hard), self._hard))

    def lift(self) -> None:
        """As far as it goes."""
        resource.setrlimit(resource.RLIMIT_AS, (self._hard, self._hard))

    def fault(self) -> Fault:
        size = f"{self._allowance / 2**20:.0f} MiB"
        return Fault(
            "error",
            "MemoryError",
            f"the plugin reached the job's memory limit of {size}",
            "read in smaller pages, or raise `memory`",
        )
