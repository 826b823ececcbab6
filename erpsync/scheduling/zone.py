"""The clock on the wall of a time zone, as stretches of time in which its offset from UTC does not change."""

import zoneinfo
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

SECOND = timedelta(seconds=1)
_FIRST_YEAR, _LAST_YEAR = 2, 9998  # no offset leads out of what a datetime can hold


@dataclass(frozen=True, slots=True)
class Stretch:
    """From `begin` up to, not including, `end` (naive, in UTC) a zone is `offset` ahead of UTC.

    `before` is the offset in force just before `begin`: a smaller one leaves a gap in the wall clock, a greater
    one makes it repeat. Where a year ends a stretch ends too, and the offsets are the same.
    """

    begin: datetime
    end: datetime
    offset: timedelta
    before: timedelta

    @property
    def wall_begin(self) -> datetime:
        """What the wall clock shows when the stretch begins."""
        return self.begin + self.offset

    @property
    def wall_end(self) -> datetime:
        """What the wall clock would show at the end if nothing changed."""
        return self.end + self.offset

    @property
    def wall_before(self) -> datetime:
        """What the wall clock would have shown at the beginning if nothing had changed."""
        return self.begin + self.before


def find_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name.

    Raises:
        ValueError: there is none.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # unknown, not a key at all, a folder of zones
        raise ValueError(f'unknown time zone "{name}"; names look like "Europe/Sofia" or "UTC"') from error


def zone_data() -> str:
    """The release of the zones that are in use, "2026b": the machine's where it has some, else the package's.

    "system" where the machine does not say which it has.
    """
    for folder in map(Path, zoneinfo.TZPATH):  # as zoneinfo looks for a zone itself
        if (folder / "Europe/Sofia").is_file():
            return _release(folder)
    try:
        return str(import_module("tzdata").IANA_VERSION)
    except ImportError:
        return "system"


def _release(folder: Path) -> str:
    for name in ("+VERSION", "tzdata.zi"):
        with suppress(OSError), (folder / name).open(encoding="utf-8", errors="replace") as file:
            if line := file.readline().removeprefix("# version ").strip():
                return line
    return "system"


def stretch_at(zone: ZoneInfo, instant: datetime) -> Stretch:
    """The stretch that holds an instant (naive, in UTC).

    Raises:
        OverflowError: beyond the years of the calendar.
    """
    if not _FIRST_YEAR <= instant.year <= _LAST_YEAR:
        raise OverflowError("beyond the years of the calendar")
    for stretch in _stretches(zone, instant.year):
        if instant < stretch.end:
            return stretch
    raise AssertionError("the stretches of a year fill it")


def clock_changes(zone: ZoneInfo, since: datetime, until: datetime) -> Iterator[datetime]:
    """The instants after `since` and before `until` at which a zone sets its clock, to the second."""
    for year in range(since.year, until.year + 1):
        for stretch in _stretches(zone, year):
            at = stretch.begin.replace(tzinfo=UTC)
            if stretch.before != stretch.offset and since < at < until:
                yield at


@lru_cache(maxsize=4096)
def _stretches(zone: ZoneInfo, year: int) -> tuple[Stretch, ...]:
    first = datetime(year, 1, 1, tzinfo=UTC)
    last = datetime(year + 1, 1, 1, tzinfo=UTC)
    edges = [first, *_transitions(zone, first, last), last]
    return tuple(
        Stretch(
            begin.replace(tzinfo=None),
            end.replace(tzinfo=None),
            _offset(zone, begin),
            _offset(zone, begin - SECOND),
        )
        for begin, end in pairwise(edges)
    )


def _transitions(zone: ZoneInfo, first: datetime, last: datetime) -> list[datetime]:
    """The instants after `first` and before `last` at which the offset changes, to the second."""
    found: list[datetime] = []
    low, offset = first, _offset(zone, first)
    while low < last:
        high = min(low + timedelta(days=1), last)
        if _offset(zone, high) == offset:
            low = high
            continue
        while high - low > SECOND:
            middle = low + (high - low) // 2 // SECOND * SECOND
            if _offset(zone, middle) == offset:
                low = middle
            else:
                high = middle
        if high < last:
            found.append(high)
        low, offset = high, _offset(zone, high)
    return found


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset
