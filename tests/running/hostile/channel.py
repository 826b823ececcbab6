"""Writes to, or closes, every descriptor it can find."""

import os
import signal

from erpsync import JobContext, JobResult, Settings, job


class How(Settings):
    """What to do to them."""

    close: bool = False


@job("channel")
def channel(ctx: JobContext[How]) -> JobResult:
    """Hurt the channel."""
    for descriptor in range(3, 20):
        try:
            if ctx.settings.close:
                os.close(descriptor)
            else:
                os.write(descriptor, b"\x00\x00\x00\x05hello")
        except OSError:
            continue
    while not ctx.settings.close:
        signal.pause()
    return ctx.result()
