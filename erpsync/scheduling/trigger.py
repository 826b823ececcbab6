"""Triggers: the rules that yield the fire times of a job, forwards and backwards."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, takewhile
from typing import Protocol
from zoneinfo import ZoneInfo

from erpsync.core.job import After, At, Cron, Dst, Every, Job, Manual, Schedule
from erpsync.scheduling.cron import FIRST_PASS, FIRST_PASS_ONLY, GAP, MOVED, CronTrigger
from erpsync.scheduling.zone import clock_changes, find_zone

MOMENT = timedelta(microseconds=1)
"""The smallest step of time: `fire - MOMENT` is just before a fire time."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Trigger(Protocol):
    """Yields fire times: aware UTC instants, each once. A value: no state, safe from several threads.

    `zone` is where people read its fire times.
    """

    @property
    def zone(self) -> ZoneInfo: ...

    def after(self, instant: datetime) -> Iterator[datetime]:
        """The fire times later than `instant`, in order; may have no end."""
        ...

    def until(self, instant: datetime) -> Iterator[datetime]:
        """The fire times up to and including `instant`, the newest first; may have no end."""
        ...

    def note(self, instant: datetime) -> str:
        """Why the fire time `instant` is not where one would look for it; empty for an ordinary one."""
        ...


def next_after(trigger: Trigger, instant: datetime) -> datetime | None:
    """The first fire time later than `instant`."""
    return next(trigger.after(instant), None)


def newest_until(trigger: Trigger, instant: datetime) -> datetime | None:
    """The last fire time up to and including `instant`."""
    return next(trigger.until(instant), None)


@dataclass(frozen=True, slots=True)
class EveryTrigger:
    """Each `every` since 1970 in UTC, moved by `offset`: restarts and machines agree, clock changes do not matter."""

    every: timedelta
    offset: timedelta
    zone: ZoneInfo

    def __post_init__(self) -> None:
        if self.every < timedelta(milliseconds=1):
            raise ValueError('every must be at least "1ms"')

    def after(self, instant: datetime) -> Iterator[datetime]:
        return self._walk((instant - _EPOCH - self.offset) // self.every + 1, 1)

    def until(self, instant: datetime) -> Iterator[datetime]:
        return self._walk((instant - _EPOCH - self.offset) // self.every, -1)

    def note(self, instant: datetime) -> str:
        return ""

    def _walk(self, number: int, step: int) -> Iterator[datetime]:
        try:
            while True:
                yield _EPOCH + self.offset + number * self.every
                number += step
        except OverflowError:  # the calendar ends
            return


@dataclass(frozen=True, slots=True)
class AtTrigger:
    """One instant."""

    at: datetime
    zone: ZoneInfo

    def after(self, instant: datetime) -> Iterator[datetime]:
        if instant < self.at:
            yield self.at

    def until(self, instant: datetime) -> Iterator[datetime]:
        if self.at <= instant:
            yield self.at

    def note(self, instant: datetime) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class UnionTrigger:
    """The fire times of several triggers, the same instant once; of none: no fire time at all."""

    parts: tuple[Trigger, ...]
    zone: ZoneInfo

    def after(self, instant: datetime) -> Iterator[datetime]:
        merged = heapq.merge(*(part.after(instant) for part in self.parts))
        return (fire for fire, _ in groupby(merged))

    def until(self, instant: datetime) -> Iterator[datetime]:
        merged = heapq.merge(*(part.until(instant) for part in self.parts), reverse=True)
        return (fire for fire, _ in groupby(merged))

    def note(self, instant: datetime) -> str:
        owners = (part for part in self.parts if newest_until(part, instant) == instant)
        return "; ".join(filter(None, dict.fromkeys(self._note_of(part, instant) for part in owners)))

    def _note_of(self, part: Trigger, instant: datetime) -> str:
        """What a part says, as far as it is true of all of them."""
        note = part.note(instant)
        if note == FIRST_PASS_ONLY:
            second = instant.astimezone(part.zone).replace(fold=1).astimezone(UTC)
            return FIRST_PASS if newest_until(self, second) == second else note
        if note.startswith(GAP) and not note.startswith(MOVED):
            before = newest_until(part, instant - MOMENT) or instant
            changes = clock_changes(part.zone, before, instant)
            if any(newest_until(self, at) == at and MOVED in self.note(at) for at in changes):
                return ""  # another part's fire time came at the end of the gap
        return note


@dataclass(frozen=True, slots=True)
class BoundedTrigger:
    """Only the fire times from `start` on and before `end`."""

    inner: Trigger
    start: datetime | None
    end: datetime | None

    @property
    def zone(self) -> ZoneInfo:
        return self.inner.zone

    def after(self, instant: datetime) -> Iterator[datetime]:
        if self.start is not None:
            instant = max(instant, self.start - MOMENT)
        return takewhile(lambda fire: self.end is None or fire < self.end, self.inner.after(instant))

    def until(self, instant: datetime) -> Iterator[datetime]:
        if self.end is not None:
            instant = min(instant, self.end - MOMENT)
        return takewhile(lambda fire: self.start is None or fire >= self.start, self.inner.until(instant))

    def note(self, instant: datetime) -> str:
        return self.inner.note(instant)


def build_schedule(schedule: Schedule, timezone: str = "UTC", dst: Dst = "vixie") -> Trigger:
    """The trigger of one schedule; `timezone` and `dst` hold where it names none.

    Raises:
        ValueError: a cron expression, an interval or a zone that is not one; the message says what is accepted.
    """
    zone = find_zone(timezone)
    match schedule:
        case Cron(expression, own_zone, own_dst):
            return CronTrigger(expression, find_zone(own_zone) if own_zone else zone, own_dst or dst)
        case Every(every, offset):
            return EveryTrigger(every, offset, zone)
        case At(at):
            return AtTrigger(at.astimezone(UTC), zone)
        case After() | Manual():
            return UnionTrigger((), zone)


def build_trigger(job: Job) -> Trigger:
    """The trigger of a job: all its schedules, within its `start` and `end`; without its spread.

    Raises:
        ValueError: as `build_schedule`.
    """
    return combine(job.schedules, job.timezone, job.dst, job.start, job.end)


def combine(
    schedules: Sequence[Schedule],
    timezone: str = "UTC",
    dst: Dst = "vixie",
    start: datetime | None = None,
    end: datetime | None = None,
) -> Trigger:
    """One trigger for several schedules, from `start` on and before `end`."""
    parts = [build_schedule(schedule, timezone, dst) for schedule in schedules]
    union = parts[0] if len(parts) == 1 else UnionTrigger(tuple(parts), find_zone(timezone))
    return union if start is None and end is None else BoundedTrigger(union, start, end)
