"""Importing plugins in a process that may die of it, before anybody imports them in one that may not.

Run as `python -P -m erpsync.plugins.probe FD` it takes [sys.path, modules] as JSON on its standard input and writes
one byte to FD for each module whose import has come to an end, with an exception or without.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

LIMIT = 30.0
"""Seconds that one import may take."""
_LAST_WORDS = 1.0  # seconds for a process that has let go of its pipe to be gone


def fatal_imports(
    modules: Sequence[str], packages: Mapping[str, str], limit: float = LIMIT
) -> dict[str, str]:
    """What is fatal in the import of these modules, by module; those are missing that only raise, or are fine.

    `packages` are names of packages that have no file, with their folders. Blocks for as long as the imports take.
    """
    faults: dict[str, str] = {}
    left = list(dict.fromkeys(modules))
    while left:
        ended, fault = _import_apart(left, packages, limit)
        if fault is None:
            break
        faults[left[ended]] = fault
        left = left[ended + 1 :]
    return faults


def _import_apart(
    modules: Sequence[str], packages: Mapping[str, str], limit: float
) -> tuple[int, str | None]:
    """How many imports of a new process have ended, and what was fatal in the next one."""
    ours, theirs = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "erpsync.plugins.probe", str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs],
            start_new_session=True,
        )
        os.close(theirs)
        with process:
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps([sys.path, dict(packages), list(modules)]).encode())
                process.stdin.close()
                ended, in_time = _follow(ours, len(modules), limit)
                if ended == len(modules):
                    return ended, None
                if not in_time:
                    return ended, f"its import does not end within {limit:.0f} s"
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LAST_WORDS)
                return ended, _obituary(process.returncode)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # and whatever an import has started
    finally:
        os.close(ours)


def _follow(pipe: int, count: int, limit: float) -> tuple[int, bool]:
    """How many imports have ended, and whether the next one had its time."""
    ended, until = 0, time.monotonic() + limit
    while ended < count:
        if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            return ended, False
        news = os.read(pipe, 4096)
        if not news:
            break
        ended, until = ended + len(news), time.monotonic() + limit
    return ended, True


def _obituary(status: int | None) -> str:
    if status is None:
        return "its import closes what is not its own"
    if status >= 0:
        return f"its import ends the whole process, with status {status}"
    with suppress(ValueError):
        return f"its import is fatal: {signal.Signals(-status).name}"
    return f"its import is fatal: signal {-status}"


def main() -> None:
    """Import one module after the other; nothing of this process lives on."""
    from erpsync.plugins.discovery import make_package

    path, packages, modules = json.load(sys.stdin)
    sys.path[:] = path
    for name, folder in packages.items():
        make_package(name, folder)
    for module in modules:
        with suppress(BaseException):  # the daemon sees that for itself, and survives it
            __import__(module)
        os.write(int(sys.argv[1]), b".")
    os._exit(0)


if __name__ == "__main__":
    main()
