"""SIGHUP from the first moment of a start on: it ends nothing, and is remembered until all has started."""

import signal
from threading import Event

_heard = Event()  # like the signal, one in a process


def remember_hang_ups() -> None:
    """To be called in the main thread."""
    signal.signal(signal.SIGHUP, lambda _number, _frame: _heard.set())


def was_hung_up() -> bool:
    """Whether one has come since."""
    return _heard.is_set()
