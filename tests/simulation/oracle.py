"""The oracle: fire times, windows, blackouts, deadlines, worked out slowly from the wall clock, by code of its own.

A wall-clock time is an instant where a zone shows it: none in a gap, two in a repeated hour.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import product
from zoneinfo import ZoneInfo

from erpsync.core.calendar import spread_delay
from erpsync.core.job import At, Cron, Every, Job
from tests.simulation.literal_cron import DAY, parse

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
QUARTER = 15 * MINUTE
"""Windows, midnights and changes of the clock begin and end with one, everywhere."""


def fires(job: Job, after: datetime, until: datetime) -> list[datetime]:
    """The fire times of a job later than `after` up to `until`, in order."""
    found: set[datetime] = set()
    after = max(after, job.start - MICROSECOND) if job.start else after
    until = min(until, job.end - MICROSECOND) if job.end else until
    if after >= until:
        return []
    for schedule in job.schedules if job.enabled else ():
        match schedule:
            case Cron(expression):
                day, last = after.date() - DAY, until.date() + DAY
                while day <= last:
                    found |= {
                        fire for fire in _on(expression, job.timezone, job.dst, day) if after < fire <= until
                    }
                    day += DAY
            case Every(every, offset):
                fire = EPOCH + offset + (after - EPOCH - offset) // every * every
                while (fire := fire + every) <= until:
                    found.add(fire)
            case At(at):
                found |= {at} if after < at <= until else set()
    return sorted(found)


@lru_cache(maxsize=100_000)
def _on(expression: str, zone_name: str, dst: str, day: date) -> frozenset[datetime]:
    """The fire times that belong to one day of the wall clock."""
    rule, zone = parse(expression), ZoneInfo(zone_name)
    found: set[datetime] = set()
    if not rule.is_day(day):
        return frozenset()
    for hour, minute, second in product(rule.hours, rule.minutes, rule.seconds):
        wall = datetime.combine(day, time(hour, minute, second))
        shown = sorted(_shown(wall, zone))
        if not shown:
            if dst == "vixie" and not rule.real_time:
                found.add(_gap_end(wall, zone))
        elif dst == "literal" or (dst == "vixie" and rule.real_time):
            found |= set(shown)
        else:
            found.add(shown[0])
    return frozenset(found)


def _shown(wall: datetime, zone: ZoneInfo) -> set[datetime]:
    """The instants at which the clock on the wall shows a time."""
    candidates = {wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return {instant for instant in candidates if _wall(instant, zone) == wall}


def _gap_end(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first minute after the gap that swallowed a time: until then the clock showed less."""
    instant = wall.replace(tzinfo=zone, fold=0, second=0).astimezone(UTC)
    while _wall(instant - MINUTE, zone) > wall:
        instant -= MINUTE
    return instant


def _wall(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def is_dark(job: Job, instant: datetime) -> bool:
    """Whether a blackout of the job covers the day that its zone has at an instant."""
    day = _wall(instant, ZoneInfo(job.timezone)).date()
    return any(
        day in calendar.dates
        or (day.month, day.day) in calendar.yearly
        or day.weekday() in calendar.weekdays
        or day.day in calendar.month_days
        or (-1 in calendar.month_days and (day + DAY).month != day.month)
        for calendar in job.blackout
    )


def is_open(job: Job, instant: datetime) -> bool:
    """Whether the job's window is open at an instant."""
    if job.window is None:
        return True
    shown = _wall(instant, ZoneInfo(job.timezone)).time()
    opens, closes = job.window.opens, job.window.closes
    return opens <= shown < closes if opens < closes else not closes <= shown < opens


def may_start(job: Job, instant: datetime) -> bool:
    """Whether neither window nor blackout forbids a start."""
    return is_open(job, instant) and not is_dark(job, instant)


def changes_until_start(job: Job, instant: datetime) -> Iterator[datetime]:
    """When something else than now forbids a start, and when nothing does, a month ahead at most."""
    limit = instant + 31 * DAY
    while not may_start(job, instant) and instant < limit:
        instant = next_change(instant, lambda at: (is_open(job, at), is_dark(job, at)))
        yield instant


def next_change(instant: datetime, holds: Callable[[datetime], object]) -> datetime:
    """The first instant later than this one, a month at most, at which what holds now does not, or the reverse."""
    now, turn = holds(instant), EPOCH + (instant - EPOCH) // QUARTER * QUARTER
    while turn < instant + 31 * DAY:
        turn += QUARTER
        if holds(turn) != now:
            break
    return turn


def latest_start(job: Job, since: datetime, fire: datetime | None, *, scheduled: bool) -> datetime:
    """No run starts for the first time later than this; `since` is when it could have, but for a blackout."""
    delay = spread_delay(job.name, job.spread)
    if fire is not None and is_dark(job, fire):
        since = max(since, next_change(fire, lambda instant: is_dark(job, instant)))
    if job.start_by is not None:
        return since + job.start_by
    following = _next_fire(job, since - delay) if scheduled else None
    latest = since + DAY if following is None else max(following + delay, since + job.grace)
    return min(latest, since + DAY)


def _next_fire(job: Job, after: datetime) -> datetime | None:
    """The first fire time within a day or so."""
    for ahead in (MINUTE, 2 * DAY):
        if found := fires(job, after, after + ahead):
            return found[0]
    return None


RUNS = "runs"


def fates(
    job: Job, due: list[datetime], now: datetime, pause: tuple[datetime, datetime] | None
) -> dict[datetime, str]:
    """What becomes of each fire time that is due at one look: it RUNS, or the reason why it is skipped or missed."""
    horizon = now - spread_delay(job.name, job.spread)
    skips = job.on_blackout == "skip"
    open_ = [fire for fire in due if not (skips and is_dark(job, fire))]
    recent = [fire for fire in open_ if horizon - fire <= job.catch_up_window]
    late = [fire for fire in recent if horizon - fire > job.grace or fire != open_[-1]]
    chosen = {fire for fire in open_[-1:] if horizon - fire <= job.grace}
    match job.catch_up:
        case "last":
            chosen = chosen or set(late[-1:]) & set(open_[-1:])
        case "all":
            chosen |= set(late[-job.catch_up_limit :])
    found: dict[datetime, str] = {}
    for fire in due:
        if fire in chosen:
            found[fire] = RUNS
        elif pause is not None and pause[0] <= fire + (now - horizon) < pause[1]:
            found[fire] = "paused"
        elif fire not in open_:
            found[fire] = "blackout"
        elif job.catch_up == "none":
            found[fire] = "catch_up_none"
        elif fire not in recent:
            found[fire] = "catch_up_window"
        else:
            found[fire] = "late" if job.catch_up == "last" else "catch_up_limit"
    return found
