"""erpsync as its users start it, in fresh processes: forked where all is imported, which spares a second of imports.

What depends on how a process was started (its command line, its environment as others see it, LD_PRELOAD) takes
`executed` instead.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Protocol

COMMAND = (sys.executable, "-m", "erpsync.cli.main")
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [__name__, "erpsync.cli.app", "erpsync.daemon.service", "erpsync.daemon.run_alone"]
)
_ONE_AT_A_TIME = threading.Lock()
"""multiprocessing looks at all its children when it starts another; of two who look at once, one is told 255."""
_KILLED = 30.0  # seconds until one that was killed is reaped


class Program(Protocol):
    """What tests do with a process; `subprocess.Popen` is one."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


class _Forked:
    """One process of the program, with nothing on standard input."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        out: int,
        err: int,
        before: Callable[[], None] | None,
    ) -> None:
        ends = [Connection(os.dup(number), readable=False) for number in (out, err)]
        self._process = _FORKS.Process(
            target=_be, args=([*arguments], folder, {**environment}, *ends, before)
        )
        with _ONE_AT_A_TIME:
            self._process.start()
        for end in ends:
            end.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        with _ONE_AT_A_TIME:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal. Raises TimeoutExpired."""
        wait([self._process.sentinel], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("erpsync", timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Start(Protocol):
    """A way of starting the program with these arguments; who asks for it ends it."""

    def __call__(
        self,
        *arguments: str,
        folder: Path,
        environment: Mapping[str, str],
        out: IO[bytes],
        err: IO[bytes] | None = None,
    ) -> Program: ...


def started(
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str],
    out: IO[bytes],
    err: IO[bytes] | None = None,
    before: Callable[[], None] | None = None,
) -> Program:
    """In a process that is forked; there `before` is called first."""
    return _Forked(arguments, folder, environment, out.fileno(), (err or out).fileno(), before)


def executed(
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str],
    out: IO[bytes],
    err: IO[bytes] | None = None,
) -> Program:
    """By an interpreter of its own."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err or out,
    )


def typed(
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str],
    patience: float = 60.0,
    start: Start = started,
) -> subprocess.CompletedProcess[str]:
    """A command, once it has ended. Raises TimeoutExpired."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(*arguments, folder=folder, environment=environment, out=out, err=err)
        try:
            code = process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_KILLED)
            raise
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read().decode(), err.read().decode())


def _be(
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    out: Connection,
    err: Connection,
    before: Callable[[], None] | None,
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.umask(0o022)
    for end, number in ((out, 1), (err, 2)):
        os.dup2(end.fileno(), number)
        end.close()
    # new ones, as at the start of an interpreter: those that are there remember what they were opened on
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    if before is not None:
        before()
    sys.argv = ["erpsync", *arguments]
    from erpsync.cli.main import main

    main()
