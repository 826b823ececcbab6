"""What copies of this process must not have: a plugin may fork the daemon, and its copy must not be one."""

import os
from contextlib import suppress

_ours: set[int] = set()


def keep_from_copies(descriptor: int) -> None:
    """From now on a forked copy of this process has nothing behind this descriptor: a lock, a listener."""
    _ours.add(descriptor)


def forget(descriptor: int) -> None:
    """To be called before the descriptor is closed here; its number will be another's."""
    _ours.discard(descriptor)


def _let_go() -> None:
    """In the copy. The numbers stay taken, for objects of the copy still close them one day."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in _ours:
        with suppress(OSError):
            os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)
    _ours.clear()


os.register_at_fork(after_in_child=_let_go)
