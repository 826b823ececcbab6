"""SIGHUP from the first moment of a start on: it ends nothing, and is remembered until all has started."""

import signal

_heard: list[int] = []  # like the signal, one in a process; a handler may come into another one, so no lock


def remember_hang_ups() -> None:
    """To be called in the main thread."""
    signal.signal(signal.SIGHUP, lambda number, _frame: _heard.append(number))


def was_hung_up() -> bool:
    """Whether one has come since."""
    return bool(_heard)
