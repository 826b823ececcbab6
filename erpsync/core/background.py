"""Work in the background that has nobody to raise to and must outlive its faults."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """A fault inside goes to the event loop's exception handler, which a daemon tells as `daemon.faulted`, and no
    further: the next round of `what` comes all the same. Cancellation passes."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, going on is right and silence is not
        context = {"message": f"{what} failed, and is tried again", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
