"""Kill -9 at every commit: a daemon, forked where all is imported, that dies at the commit it is told.

Commits that write something are named by what they write, and numbered among those of one name.
"""

import os
import re
import signal
import sqlite3
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import Pool

from tests.servers.program import Program, started

NOWHERE = "nowhere"


@contextmanager
def living(folder: Path, environment: Mapping[str, str], log: Path, point: str | None) -> Iterator[Program]:
    """A daemon in a fresh process, killed at the end; with a `point` the commits are listed in the file `points`."""
    before = None if point is None else partial(_count_commits, point)
    with log.open("wb") as out:
        daemon = started("daemon", folder=folder, environment=environment, out=out, before=before)
    try:
        yield daemon
    finally:
        daemon.kill()
        daemon.wait()


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
