"""Kill -9 at every commit: a daemon, forked where all is imported, that dies at the commit it is told.

Commits that write something are named by what they write, and numbered among those of one name.
"""

import multiprocessing
import os
import re
import signal
import sqlite3
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import Pool

from erpsync.cli.main import run

NOWHERE = "nowhere"
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__, "erpsync.daemon.service"])


@contextmanager
def living(
    folder: Path, environment: Mapping[str, str], log: Path, point: str | None
) -> Iterator[BaseProcess]:
    """A daemon in a fresh process, killed at the end; with a `point` the commits are listed in the file `points`."""
    log.unlink(missing_ok=True)
    daemon = _FORKS.Process(target=_live, args=(folder, dict(environment), log, point))
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.kill()
        daemon.join()


def _live(folder: Path, environment: dict[str, str], log: Path, point: str | None) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    if point is not None:
        _count_commits(point)
    sys.exit(run(("daemon",)))


def _count_commits(point: str) -> None:
    """Note each commit in the file `points`; at the one of this name the process ends."""
    seen, guard = Counter[str](), threading.Lock()
    # by connection: what its transaction has written so far
    written: dict[int, list[str]] = defaultdict(list)
    commit = DefaultDialect.do_commit

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        def trace(statement: str) -> None:
            if found := re.match(r'(INSERT INTO|UPDATE|DELETE FROM) "?(\w+)', statement):
                written[id(connection)].append(" ".join(found.groups()))
            elif statement.startswith("ROLLBACK"):
                written.pop(id(connection), None)

        connection.set_trace_callback(trace)

    def reach(when: str, what: list[str]) -> None:
        with guard:
            name = f"{when}: {', '.join(sorted(set(what)))}"
            seen[name] += 1
            with Path("points").open("a") as file:
                file.write(f"{seen[name]} {name}\n")
            if point == f"{seen[name]} {name}":
                os.kill(os.getpid(), signal.SIGKILL)

    def numbered(dialect: DefaultDialect, connection: Any) -> None:
        what = written.pop(id(connection.dbapi_connection), None)
        if what:
            reach("before", what)
        commit(dialect, connection)
        if what:
            reach("after", what)

    event.listen(Pool, "connect", connected)
    DefaultDialect.do_commit = numbered  # type: ignore[method-assign]


def written_at(point: str) -> set[str]:
    """What the transaction of a point writes."""
    return {*point.partition(": ")[2].split(", ")}
