"""What a child does while it waits for an attempt: the same once, for nothing.

In a process that was forked a page is copied when it is first written to, be it for a count of references or for what
the interpreter learns of its code. That is half of a child's start, and after a rehearsal it is done.
"""

import socket

from erpsync.running.channel import VERSION, ChildEnd, Done, Failed, Order, encode
from erpsync.running.child import ChildReporter, Orders, attempt

_ORDER = Order(
    version=VERSION,
    job="rehearsal",
    formerly=[],
    run_id="",
    attempt=1,
    plugin="rehearsal",
    path="erpsync.running.rehearsal_plugin:rehearsal",
    folders=[],
    stamps={},
    settings={"name": "rehearsal", "since": "2001-01-01"},
    secrets={},
    cursor=None,
    params={},
    dry_run=False,
    data="",
    artifacts="",
    dead_letters="",
    window=None,
    dead=None,
    root=None,
    timeout=None,
    memory=None,
)


def rehearse() -> Done | Failed:
    """From an order to its answer; leaves no thread and no descriptor behind."""
    daemon, child = socket.socketpair()
    with daemon, child, ChildEnd(child) as end:
        daemon.sendall(encode(_ORDER))
        order = end.receive()
        assert isinstance(order, Order)
        reporter = ChildReporter(end)
        answer = attempt(order, child, reporter, Orders(end, reporter))
        end.send(answer)
    return answer
