"""The daemon's life: start in order, serve until told to stop, drain, stop in reverse."""

import asyncio
import contextlib
import errno
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from erpsync.control.api import control_application
from erpsync.core.background import guarded
from erpsync.core.clock import SystemClock
from erpsync.core.errors import ConfigError, ErpsyncError
from erpsync.core.event import Emit
from erpsync.core.problem import Problem
from erpsync.core.redaction import Redactor
from erpsync.daemon.acceptance import Accepted
from erpsync.daemon.address import bind_address
from erpsync.daemon.check import machine_doubts
from erpsync.daemon.compose import Composition, compose
from erpsync.daemon.control_socket import ControlSocket
from erpsync.daemon.controls import DaemonControls
from erpsync.daemon.fault_tally import FaultTally
from erpsync.daemon.hang_up import remember_hang_ups, was_hung_up
from erpsync.daemon.housekeeping import keep_house
from erpsync.daemon.place import run_log_of
from erpsync.daemon.process_exit import PERSON_NEEDED, START_AGAIN, URGENT, Signals, leaving
from erpsync.daemon.reload import Reload, tell_refused
from erpsync.daemon.server import EmbeddedServer
from erpsync.daemon.warm_up import WarmUp
from erpsync.identity.keep_alive import keep_signed_in, look_for
from erpsync.identity.reference import watch_ends
from erpsync.observe.health import health_application
from erpsync.observe.logging import adopt_foreign_logs, configure_logging, emitter
from erpsync.observe.metrics import Metrics
from erpsync.observe.output import plugins_print_to
from erpsync.observe.systemd import ServiceNotifier
from erpsync.running.loop_watch import LoopWatch
from erpsync.running.plugin_loop import PluginLoop, keep_process
from erpsync.scheduling.zone import zone_data
from erpsync.store.history import last_successes
from erpsync.store.installation import Hold, renew_generation, take_over
from erpsync.store.owner import OwnerLock
from erpsync.store.state import nothing
from erpsync.version import __version__

_LAST_PATIENCE = 60.0  # seconds beyond `drain` for what must be made to end, and for the last writes
_RESERVE = 64  # open files that nobody may use before the others have run out
_PULSE = 1.0  # seconds between two looks at how late the loop wakes
_PUT_BACK = "put it back, then start the daemon, which had to end"
_SAVED = "start the daemon again; what it has written is saved in the state, and it makes such files itself"
_STAYS = "the configuration of before stays in force; please report it"
_DUE_LOOK = 15.0  # seconds between two looks at what is overdue


def serve(accepted: Accepted, redactor: Redactor) -> int:
    """Be the daemon of this configuration until SIGTERM or SIGINT; the exit code.

    Raises:
        OwnedElsewhereError, StoreError, ConfigError: it could not start.
    """
    os.umask(0o077)
    _allow_files()
    lock = OwnerLock(accepted.configuration.daemon.state)
    lock.acquire("daemon")
    try:
        service = Service(accepted, redactor)
        _spare_the_collector()
        with plugins_print_to(sys.stderr, redactor):
            keep_process()
            runner, code = asyncio.Runner(loop_factory=PluginLoop), 70
            try:
                code = runner.run(service.run())
                return code
            finally:
                with leaving(code):
                    runner.close()
    finally:
        lock.release()


class Service:
    """One daemon in one event loop."""

    def __init__(self, accepted: Accepted, redactor: Redactor) -> None:
        configuration = accepted.configuration
        self._accepted = accepted
        self._configuration = configuration  # as it was at the start
        self._redactor = redactor
        self._metrics = Metrics(self._snapshot)
        daemon = configuration.daemon
        logger = configure_logging(daemon.log_format, daemon.log_level, redactor)
        self._emit: Emit = emitter(logger, [self._metrics.observe, self._observe])
        self._faults = FaultTally()
        self._notifier = ServiceNotifier()
        self._controls: DaemonControls | None = None
        self._reloads: set[asyncio.Task[None]] = set()
        self._trouble = asyncio.Event()  # with the state
        self._trouble_code = 0

    async def run(self) -> int:
        """Start, wait for a signal or for trouble with the state, drain and stop."""
        adopt_foreign_logs(self._emit)
        loop = asyncio.get_running_loop()
        remember_hang_ups()
        loop.set_exception_handler(self._tell_fault)
        with Signals() as signals:
            async with AsyncExitStack() as stack:
                composition = await self._start(stack)
                loop.add_signal_handler(signal.SIGHUP, self._hang_up, composition)
                if was_hung_up():
                    self._hang_up(composition)
                await self._wait(signals)
                code = await self._drain(composition, signals)
                code = self._trouble_code or code
            self._emit("daemon.stopped", code=code)
        return code

    def _hang_up(self, composition: Composition) -> None:
        """Reload; what is wrong is told by events."""
        assert self._controls is not None
        self._notifier.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        task = asyncio.create_task(self._reload(composition, self._controls), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self, composition: Composition, controls: DaemonControls) -> None:
        try:
            await controls.reload("SIGHUP")
        except ConfigError:
            pass  # told where they were found
        except ErpsyncError as error:  # held, stopping, or a state that refuses
            words = {"message": error.message, "place": None, "hint": error.hint}
            self._emit("config.refused", level="error", requested_by="SIGHUP", **words)
        except Exception as error:  # noqa: BLE001 - whoever asked by a signal hears of it nowhere else
            words = {"message": f"a fault of erpsync itself: {error!r}", "place": None, "hint": _STAYS}
            self._emit("config.refused", level="error", requested_by="SIGHUP", **words)
        finally:
            self._notifier.tell(READY=1, STATUS=_stand(composition))

    async def _start(self, stack: AsyncExitStack) -> Composition:
        """Everything, lowest first; the stack undoes it in reverse order."""
        configuration = self._configuration
        control = ControlSocket(configuration.control, self._emit)
        stack.callback(control.close)
        listen = configuration.metrics.listen
        metrics_listener = bind_address(listen) if listen else None
        if metrics_listener is not None:
            stack.callback(metrics_listener.close)
        composition = compose(configuration, self._redactor, SystemClock(), self._emit)
        stack.push_async_callback(composition.close)
        reload = Reload(composition, self._accepted)
        controls = self._controls = DaemonControls(composition, reload)
        await self._restore(composition, controls)
        await look_for(composition.connections.people())  # before anything fires that needs them
        held = await take_over(composition.store, composition.clock.now())
        stack.push_async_callback(_leave, composition)
        watch = LoopWatch(self._emit)
        watch.start()
        stack.callback(watch.stop)
        stack.push_async_callback(composition.stop)
        await self._go_on(composition, controls, held)
        doubts = machine_doubts(configuration)  # before the data folder says that it is ours
        await reload.keep()
        await control.serve(control_application(controls, composition.desk, self._emit, self._redactor))
        stack.push_async_callback(control.stop)
        if metrics_listener is not None:
            server = EmbeddedServer(health_application(self._metrics, controls.unready), metrics_listener)
            await server.start()
            stack.push_async_callback(server.stop)
        self._begin_background(stack, composition, controls, control)
        controls.ready = True
        self._tell_started(composition, doubts)
        return composition

    def _begin_background(
        self,
        stack: AsyncExitStack,
        composition: Composition,
        controls: DaemonControls,
        control: ControlSocket,
    ) -> None:
        """What goes on beside the runs until the daemon stops, by the name of its task."""
        clock, connections = composition.clock, composition.connections
        warm_up = WarmUp(
            composition.engine, lambda: composition.configuration.jobs, connections.prepare, clock
        )
        tidying = keep_house(
            lambda: composition.configuration.daemon.retention,
            composition.store,
            run_log_of(self._configuration),
            self._configuration.daemon.data,
            clock,
            self._emit,
        )
        background = {
            "pulse": self._pulse(controls, composition, control),
            "warm-up": warm_up.run(),
            "services": connections.recall_services(),
            "people": keep_signed_in(connections.people, clock),
            "ends": watch_ends(connections.by_hand, clock),
            "due": self._watch_due(controls),
            "housekeeping": tidying,
        }
        for name, work in background.items():
            stack.callback(asyncio.create_task(work, name=name).cancel)

    async def _wait(self, signals: Signals) -> None:
        """Serve, until a signal comes or the state is found to be damaged or displaced."""
        ends = [asyncio.ensure_future(signals.next()), asyncio.ensure_future(self._trouble.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()

    async def _drain(self, composition: Composition, signals: Signals) -> int:
        """Let what runs end, for `drain` at most; a second signal ends it now."""
        assert self._controls is not None
        self._controls.ready = False
        self._controls.stopping = True
        running = len(composition.runner.running())
        patience = composition.configuration.daemon.drain.total_seconds() + _LAST_PATIENCE
        self._notifier.tell(
            STOPPING=1, STATUS=f"waiting for {running} runs", EXTEND_TIMEOUT_USEC=int(patience * 1e6)
        )
        self._emit("daemon.draining", running=running)
        draining = asyncio.ensure_future(composition.drain())
        again = asyncio.ensure_future(signals.next())
        await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if draining.done():
            draining.result()
            return 0
        draining.cancel()
        await composition.runner.stop(URGENT)
        return 128 + again.result()

    async def _go_on(self, composition: Composition, controls: DaemonControls, held: Hold | None) -> None:
        """Go on with the state where it belongs to this place; else hold it for a person to decide."""
        if held is None:
            await composition.start()
            return
        controls.held = held
        hint = "erpsync resume --all lets it go on here; make sure that nobody else does"
        self._emit("state.held", level="error", since=held.since, reason=held.reason, hint=hint)

    async def _restore(self, composition: Composition, controls: DaemonControls) -> None:
        """What metrics and due times ask, that would else begin at nothing."""
        successes = await composition.store.read(last_successes)
        for job, at in successes.items():
            if known := self._configuration.jobs.get(job):
                self._metrics.restore_success(job, known.instance, at)
                controls.restore_success(job, at)

    async def _pulse(
        self, controls: DaemonControls, composition: Composition, control: ControlSocket
    ) -> None:
        """Measure how late the loop wakes, look at our files, and feed the watchdog from the loop itself."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _PULSE
            await asyncio.sleep(_PULSE)
            controls.lag = loop.time() - due
            self._look_for_state(controls, composition)
            if not self._trouble.is_set():  # else a folder that was moved away with all that is in it
                with guarded("the control socket"):
                    await control.mend()
            if self._notifier.watchdog_seconds is not None:
                self._notifier.tell(WATCHDOG=1, STATUS=f"{len(composition.runner.running())} running")

    def _look_for_state(self, controls: DaemonControls, composition: Composition) -> None:
        """Tell once that the state is damaged, or that one of its files is not there any more, and end."""
        store = composition.store
        displaced = store.displaced()
        if displaced:
            store.submit(nothing, None)  # which saves what was written before they went
        if self._trouble.is_set():
            return
        if store.damage is not None:
            message, hint, code = store.damage.message, store.damage.hint, PERSON_NEEDED
            self._emit("state.damaged", level="error", error_message=message, hint=hint)
        elif displaced:
            lacks_state = displaced[0] == store.path
            hint, code = (_PUT_BACK, PERSON_NEEDED) if lacks_state else (_SAVED, START_AGAIN)
            message = f"{displaced[0]}, a file of the state, was removed or replaced"
            self._emit("state.displaced", level="error", path=str(displaced[0]), hint=hint)
        else:
            return
        controls.faults.append(f"{message}; {hint}")
        self._trouble_code = code
        self._trouble.set()

    async def _watch_due(self, controls: DaemonControls) -> None:
        """Tell of jobs that are overdue, each once a day."""
        while True:
            with guarded("the look at due times"):
                for late in controls.news_overdue():
                    self._emit("job.overdue", level="warning", **late.document())
            await asyncio.sleep(_DUE_LOOK)

    def _tell_started(self, composition: Composition, doubts: Sequence[Problem]) -> None:
        for job, problems in composition.parked.items():
            for problem in problems:
                place = f"{problem.file}:{problem.line}" if problem.file else None
                self._emit(
                    "job.parked",
                    level="error",
                    job=job,
                    message=problem.message,
                    place=place,
                    hint=problem.help,
                )
        for warning in [*self._configuration.problems, *doubts]:
            self._emit("config.doubted", level="warning", message=warning.message, code=warning.code)
        enabled = sum(job.enabled for job in self._configuration.jobs.values())
        self._emit(
            "daemon.started",
            version=__version__,
            tzdata=zone_data(),
            pid=os.getpid(),
            configuration=str(self._configuration.path),
            state=str(self._configuration.daemon.state),
            jobs=enabled,
            parked=len(composition.parked),
        )
        if self._accepted.refused:
            tell_refused(composition, ConfigError(self._accepted.refused), "start")
        self._notifier.tell(READY=1, STATUS=_stand(composition))

    def _observe(self, event: str, fields: Mapping[str, object]) -> None:
        if self._controls is not None:
            self._controls.observe(event, fields)

    def _snapshot(self) -> Any:
        assert self._controls is not None
        return self._controls.snapshot()

    def _tell_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno == errno.EMFILE and _take_reserve():
            self._tell_exhausted()
        fault = {
            "message": str(context.get("message")),
            "error_type": type(error).__name__ if error else None,
            "error_message": str(error) if error else None,
        }
        if count := self._faults.count(tuple(fault.values()), loop.time()):
            self._emit("daemon.faulted", level="error", count=count, **fault)

    def _tell_exhausted(self) -> None:
        hint = 'restart the daemon, and give jobs whose plugin leaks isolation = "process"'
        self._emit("files.exhausted", level="error", hint=hint)
        if self._controls is not None:
            self._controls.faults.append(f"the daemon ran out of open files; {hint}")


async def _leave(composition: Composition) -> None:
    """All has stopped: no copy that was made before is the state of this place."""
    with contextlib.suppress(ErpsyncError):  # the next start makes up for it
        await renew_generation(composition.store)


def _stand(composition: Composition) -> str:
    """The line that systemctl shows."""
    enabled = sum(job.enabled for job in composition.configuration.jobs.values())
    return f"{enabled} jobs, {len(composition.parked)} parked"


def _allow_files() -> None:
    """As many open files as the system lets us: each connection and each child needs some. A few stay in reserve."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - min(_RESERVE, hard // 4), hard))


def _take_reserve() -> bool:
    """Allow the files that were held back, so that people can be told; False where that was done before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft < hard


def _spare_the_collector() -> None:
    """What has been imported stays: a full collection in the middle of a claim would cost milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
