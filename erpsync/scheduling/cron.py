"""Cron expressions: what they mean on a wall clock (cronsim's work) and which instants that gives (ours).

cronsim walks over wall-clock times without a zone; the rules for clock changes are applied here, so that they
are the same with and without a seconds field and in both directions:

* `vixie`, as Debian's cron: an expression whose minute or hour field begins with `*` follows real time: nothing
  extra for a gap, both passes of a repeated hour. Any other is for a fixed time: inside a gap it fires once, at
  the gap's end; in a repeated hour only in the first pass.
* `skip`: each wall-clock time at most once; one inside a gap does not come.
* `literal`: whenever the wall clock shows it; never in a gap, twice in a repeated hour.
"""

import re
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, product, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from cronsim.cronsim import Field

from erpsync.core.job import Dst
from erpsync.scheduling.zone import SECOND, Stretch, stretch_at

FIRST_PASS, FIRST_PASS_ONLY = "repeated hour: first pass", "repeated hour: first pass only"
GAP, MOVED = "gap:", "gap: moved from"
"""How the notes of fire times begin."""
_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ACCEPTED = {
    Field.SECOND: "0-59",
    Field.MINUTE: "0-59",
    Field.HOUR: "0-23",
    Field.DAY: "1-31, L (last day) or LW (last working day)",
    Field.MONTH: "1-12 or JAN-DEC",
    Field.DOW: "0-7 (0 and 7 are Sunday) or SUN-SAT, FRI#2 (the second), 5L (the last Friday)",
}
_NAMES = {
    Field.SECOND: "second",
    Field.MINUTE: "minute",
    Field.HOUR: "hour",
    Field.DAY: "day of month",
    Field.MONTH: "month",
    Field.DOW: "day of week",
}
_SHAPE = re.compile(r"[0-9A-Z*,/#-]{1,400}")
_ANY = datetime(2000, 1, 1, tzinfo=UTC).replace(tzinfo=None)
_MICROSECOND = timedelta(microseconds=1)
_HOURS = 24
_SHOWN = 3  # moved fire times that a note names one by one


@dataclass(frozen=True, slots=True)
class Pattern:
    """A cron expression as a set of wall-clock times (naive datetimes, whole seconds).

    `real_time`: the minute or hour field begins with `*`. `matcher` is None where no date can ever match, as on
    30 February.
    """

    real_time: bool
    matcher: CronSim | None

    def after(self, wall: datetime) -> Iterator[datetime]:
        """The times later than `wall`, in order."""
        return self._walk(wall, 1)

    def until(self, wall: datetime) -> Iterator[datetime]:
        """The times up to and including `wall`, the newest first."""
        return self._walk(wall + SECOND, -1)

    @property
    def hourly(self) -> bool:
        """Whether every hour of a day has times."""
        return self.matcher is not None and len(self.matcher.hours) == _HOURS

    def times_of_day(self) -> Iterator[timedelta]:
        """The times that a day may have, since its midnight, in no order."""
        if self.matcher is not None:
            fields = product(self.matcher.hours, self.matcher.minutes, self.matcher.seconds)
            for hour, minute, second in fields:
                yield timedelta(hours=hour, minutes=minute, seconds=second)

    def _walk(self, start: datetime, direction: int) -> Iterator[datetime]:
        if self.matcher is None:
            return
        walker = copy(self.matcher)  # parsing is the dear part of a CronSim
        walker.dt, walker.tick_direction = start.replace(microsecond=0), direction
        try:
            yield from walker
        except OverflowError:  # the calendar ends
            return


@lru_cache(maxsize=4096)
def parse_cron(expression: str) -> Pattern:
    """What an expression of 5 fields, of 6 with leading seconds, or an alias like `@daily` means.

    Raises:
        ValueError: says which field is wrong and what it accepts.
    """
    fields = _ALIASES.get(expression.strip().lower(), expression).upper().split()
    if fields and fields[0].startswith("@"):
        raise ValueError(f'"{expression}" is not known; write one of {", ".join(_ALIASES)}')
    if len(fields) not in (5, 6):
        raise ValueError(
            f'"{expression}" has {len(fields)} field{"s" if len(fields) != 1 else ""}; write five '
            "(minute, hour, day of month, month, day of week) or six with leading seconds"
        )
    parts = fields if len(fields) == 6 else ["0", *fields]
    for kind, part in zip(Field, parts, strict=True):
        _require_field(kind, part, expression)
    plain = " ".join(_plain(kind, part) for kind, part in zip(Field, parts, strict=True))
    return Pattern(real_time=parts[1].startswith("*") or parts[2].startswith("*"), matcher=_matcher(plain))


def _plain(kind: Field, part: str) -> str:
    """A field without steps over a range of one: cronsim takes 5-5/10 for 5/10."""
    return ",".join(_without_step(kind, term) for term in part.split(","))


def _without_step(kind: Field, term: str) -> str:
    span, step, _ = term.partition("/")
    low, dash, high = span.partition("-")
    return low if step and dash and kind.int(low) == kind.int(high) else term


def _require_field(kind: Field, part: str, expression: str) -> None:
    try:
        if not _SHAPE.fullmatch(part):
            raise CronSimError(kind.msg())
        kind.parse(part)
    except (CronSimError, AssertionError, ValueError, TypeError) as error:
        help_ = ' write "*" for any;' if "?" in part else ""
        raise ValueError(
            f'the {_NAMES[kind]} "{part}" in "{expression}" is not valid;{help_} it takes {_ACCEPTED[kind]}; '
            "lists a,b, ranges a-b from low to high and steps */n"
        ) from error


def _matcher(expression: str) -> CronSim | None:
    try:
        return CronSim(expression, _ANY)
    except CronSimError:  # every field is fine, but no month has that many days
        return None


@dataclass(frozen=True, slots=True)
class CronTrigger:
    """The fire times of a cron expression in a zone."""

    expression: str
    zone: ZoneInfo
    dst: Dst = "vixie"
    pattern: Pattern = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", parse_cron(self.expression))

    def after(self, instant: datetime) -> Iterator[datetime]:
        """The fire times later than `instant`, in order."""
        try:
            yield from self._after(_naive(instant))
        except OverflowError:
            return

    def until(self, instant: datetime) -> Iterator[datetime]:
        """The fire times up to and including `instant`, the newest first."""
        try:
            yield from self._until(_naive(instant))
        except OverflowError:
            return

    def _after(self, instant: datetime) -> Iterator[datetime]:
        stretch = stretch_at(self.zone, instant)
        walls = self.pattern.after(max(instant + stretch.offset, self._first_wall(stretch) - SECOND))
        wall, last = next(walls, None), None
        while wall is not None:
            if wall < stretch.wall_end:
                fire = max(wall, stretch.wall_begin) - stretch.offset  # what a gap swallowed comes at its end
                if fire != last:
                    yield fire.replace(tzinfo=UTC)
                wall, last = next(walls, None), fire
                continue
            reached, stretch = stretch.wall_end, stretch_at(self.zone, stretch.end)
            first = self._first_wall(stretch)
            if first < reached or wall < first:  # the wall clock shows an hour again, or leaves some out
                walls = self.pattern.after(first - SECOND)
                wall = next(walls, None)

    def _until(self, instant: datetime) -> Iterator[datetime]:
        stretch = stretch_at(self.zone, instant)
        walls = self.pattern.until(max(instant + stretch.offset, self._first_wall(stretch) - SECOND))
        wall, last = next(walls, None), None
        while wall is not None:
            first = self._first_wall(stretch)
            if wall >= first:
                fire = max(wall, stretch.wall_begin) - stretch.offset
                if fire != last:
                    yield fire.replace(tzinfo=UTC)
                wall, last = next(walls, None), fire
                continue
            stretch = stretch_at(self.zone, stretch.begin - _MICROSECOND)
            top = stretch.wall_end - SECOND
            if first <= top or wall > top:
                walls = self.pattern.until(top)
                wall = next(walls, None)

    def _first_wall(self, stretch: Stretch) -> datetime:
        """The first wall-clock time that counts in a stretch: here live the three rules."""
        if self.dst == "skip":
            return max(stretch.wall_begin, stretch.wall_before)
        if self.dst == "vixie" and not self.pattern.real_time:
            return stretch.wall_before
        return stretch.wall_begin

    @property
    def may_repeat(self) -> bool:
        """Whether both passes of a repeated hour count."""
        return self.dst == "literal" or (self.dst == "vixie" and self.pattern.real_time)

    def note(self, instant: datetime) -> str:
        """What a clock change did to this fire time; empty for an ordinary one."""
        naive = _naive(instant)
        stretch = stretch_at(self.zone, naive)
        wall = naive + stretch.offset
        following = stretch_at(self.zone, stretch.end)
        if wall >= following.wall_begin:
            once = self._first_wall(following) > wall
            return FIRST_PASS_ONLY if once else FIRST_PASS
        if wall < stretch.wall_before:
            return "repeated hour: second pass"
        if self._moves:
            moved = self._lost(stretch) if naive == stretch.begin else ""
            return f"{MOVED} {moved}" if moved else ""
        return self._skipped_before(instant, stretch)

    def clock_changes(self, since: datetime, until: datetime) -> Iterator[tuple[datetime, str]]:
        """The clock changes between two instants that its times of day fall into, and what happens to these then.

        One that comes in every hour misses nothing in a gap, and where it follows real time nothing is doubled.
        """
        stretch = stretch_at(self.zone, _naive(since))
        while (stretch := stretch_at(self.zone, stretch.end)).begin < _naive(until):
            if what := self._changed(stretch):
                yield stretch.begin.replace(tzinfo=UTC), what

    @property
    def _moves(self) -> bool:
        """Whether what a gap swallows comes at its end."""
        return self.dst == "vixie" and not self.pattern.real_time

    def _changed(self, stretch: Stretch) -> str:
        """What the clock change at the beginning of a stretch does; empty where it does nothing."""
        if stretch.wall_begin > stretch.wall_before:
            lost = self._lost(stretch)
            end = stretch.wall_begin.time().isoformat("minutes")
            fate = f"it is due at {end}" if self._moves else "it does not run"
            return f"{lost} {'do' if ',' in lost else 'does'} not exist, {fate}" if lost else ""
        if self.pattern.hourly and self.may_repeat:
            return ""
        twice = self._times(stretch.wall_begin, stretch.wall_before)
        fate = "it runs twice" if self.may_repeat else "it runs the first time only"
        return f"{twice} {'come' if ',' in twice else 'comes'} twice, {fate}" if twice else ""

    def _skipped_before(self, instant: datetime, stretch: Stretch) -> str:
        """Names the wall-clock times that gaps swallowed since the fire time before `instant`."""
        if self.pattern.hourly or (previous := next(self.until(instant - _MICROSECOND), None)) is None:
            return ""
        notes: list[str] = []
        while stretch.begin > _naive(previous):
            if lost := self._lost(stretch):
                notes.insert(0, f"{GAP} {lost} on {stretch.wall_before.date()} skipped")
            stretch = stretch_at(self.zone, stretch.begin - _MICROSECOND)
        return "; ".join(notes)

    def _lost(self, stretch: Stretch) -> str:
        """The wall-clock times of the pattern inside the gap before a stretch, as text.

        None where it comes in every hour and follows the wall clock: the time before and the time after are near.
        """
        if self.pattern.hourly and not self._moves:
            return ""
        return self._times(stretch.wall_before, stretch.wall_begin)

    def _times(self, begin: datetime, end: datetime) -> str:
        """The first wall-clock times of the pattern from `begin` on and before `end`, as text."""
        inside = takewhile(lambda wall: wall < end, self.pattern.after(begin - SECOND))
        times = [
            wall.time().isoformat("seconds" if wall.second else "minutes")
            for wall in islice(inside, _SHOWN + 1)
        ]
        return ", ".join(times[:_SHOWN]) + (", …" if len(times) > _SHOWN else "")


def _naive(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(tzinfo=None)
