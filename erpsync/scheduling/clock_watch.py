"""What the wall clock did that time did not: steps, and a machine that slept."""

from dataclasses import dataclass
from datetime import timedelta

from erpsync.core.clock import Clock

JUMP = timedelta(seconds=1)
"""Two clocks differ by more than this since the last look: one of them jumped."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Since the last look: how long the machine slept, and how far the wall clock was set (negative: back)."""

    slept: timedelta
    step: timedelta


class ClockWatch:
    """Holds the clocks against each other; what is within a second of them is nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wall, self._boot, self._awake = clock.now(), clock.boot(), clock.awake()

    def look(self) -> Passed:
        """What there was since the last look."""
        now, boot, awake = self._clock.now(), self._clock.boot(), self._clock.awake()
        passed = timedelta(seconds=boot - self._boot)
        slept = passed - timedelta(seconds=awake - self._awake)
        step = (now - self._wall) - passed
        self._wall, self._boot, self._awake = now, boot, awake
        none = timedelta(0)
        return Passed(slept if slept > JUMP else none, step if abs(step) > JUMP else none)
