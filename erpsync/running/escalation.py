"""Ending attempts early: ask, cancel, SIGTERM, SIGKILL, and a grace between each two."""

import signal
from collections.abc import Callable
from datetime import datetime, timedelta

from erpsync.core.calendar import window_end
from erpsync.core.clock import Clock
from erpsync.core.duration import format_duration
from erpsync.running.alarm import Alarm
from erpsync.running.attempt import LiveAttempt
from erpsync.running.events import RunEvents
from erpsync.running.verdict import Cause
from erpsync.running.waiting import LOOK


class Escalation:
    """`grace`, in seconds, lies between cancelling and SIGTERM; half of it between SIGTERM and SIGKILL."""

    def __init__(self, alarm: Alarm, clock: Clock, events: RunEvents, grace: float) -> None:
        self._alarm = alarm
        self._clock = clock
        self._events = events
        self._grace = grace
        self._abandoned: list[LiveAttempt] = []  # a task that nobody holds may vanish in the middle

    def limit(self, attempt: LiveAttempt) -> None:
        """End the attempt when its time-out is over; ask it to, where the job says so, when its window is."""
        limit = attempt.job.timeout
        self._alarm.set(
            ("time-out", attempt.run.id), limit.total_seconds(), lambda: self._time_out(attempt, limit)
        )
        window, now = attempt.job.window, self._clock.now()
        if window is not None and window.at_end == "checkpoint":
            self._ask_at(attempt, window_end(attempt.job, now) or now)

    def over(self, attempt: LiveAttempt) -> None:
        """The attempt has ended: nothing more is done to it."""
        self._alarm.clear(("time-out", attempt.run.id))
        self._alarm.clear(("window", attempt.run.id))
        self._alarm.clear(("escalation", attempt.run.id))

    def end(self, attempt: LiveAttempt, cause: Cause, text: str) -> None:
        """Cancel now, then whatever it takes; a task that ignores it is abandoned."""
        if not attempt.is_told_to_end:
            attempt.ask(cause, text)
            attempt.force()
            self._later(attempt, self._grace, self._terminate)

    def kill(self, attempt: LiveAttempt, number: signal.Signals = signal.SIGKILL) -> bool:
        """Send the signal to the child's process group; False where there is no child."""
        if killed := attempt.kill(number):
            self._events.killed(attempt.run, number.name, attempt.cause)
        return killed

    def abandon(self, attempt: LiveAttempt) -> None:
        """Wait no longer for a task that cannot be ended."""
        if attempt.abandon():
            self._abandoned.append(attempt)
            self._events.abandoned(attempt.run, in_child=attempt.child is not None)

    def _time_out(self, attempt: LiveAttempt, limit: timedelta) -> None:
        text = f"the attempt took longer than its time-out of {format_duration(limit)}"
        self.end(attempt, "timed_out", text)

    def _ask_at(self, attempt: LiveAttempt, end: datetime) -> None:
        left = (end - self._clock.now()).total_seconds()
        if left <= 0:
            attempt.ask("window", "interrupted at the end of the job's window")
        else:
            self._alarm.set(("window", attempt.run.id), min(left, LOOK), lambda: self._ask_at(attempt, end))

    def _terminate(self, attempt: LiveAttempt) -> None:
        attempt.ignores("its cancellation")
        if self.kill(attempt, signal.SIGTERM):
            self._later(attempt, self._grace / 2, self._kill_for_good)
        else:
            self.abandon(attempt)

    def _kill_for_good(self, attempt: LiveAttempt) -> None:
        """SIGKILL; a child that survives even that, in a system call that does not return, is left behind."""
        attempt.ignores("SIGTERM")
        self.kill(attempt)
        self._later(attempt, self._grace / 2, self.abandon)

    def _later(self, attempt: LiveAttempt, seconds: float, act: Callable[[LiveAttempt], object]) -> None:
        self._alarm.set(("escalation", attempt.run.id), seconds, lambda: act(attempt))
