"""Instants as people type them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from erpsync.core.duration import parse_duration
from erpsync.core.instant import reckonable


def parse_since(text: str, zone: str, now: datetime) -> datetime:
    """An instant as `parse_instant` reads it that is not later than `now`. ValueError says what is accepted."""
    instant = parse_instant(text, zone, now)
    if instant > now:
        raise ValueError(f'"{text}" lies ahead')
    return instant


def parse_instant(text: str, zone: str, now: datetime, *, ahead: bool = False) -> datetime:
    """An aware UTC instant from "2026-03-29T03:30" (in `zone` where it names none), "18:00" or "24h" (ago).

    A time of day, perhaps with seconds, means the newest one that is over; `ahead` it means the next one, and "24h"
    is from now on. ValueError says what is accepted.
    """
    local = ZoneInfo(zone)
    instant = _as_iso(text)
    if instant is not None:
        try:
            return reckonable(instant if instant.tzinfo else instant.replace(tzinfo=local)).astimezone(UTC)
        except ValueError as error:
            raise ValueError(f'"{text}" {error}') from error
    try:
        form = "%H:%M:%S" if text.count(":") == 2 else "%H:%M"
        clock = datetime.strptime(text, form).time()  # noqa: DTZ007 - a time of day has no zone
        today = datetime.combine(now.astimezone(local).date(), clock, local)
        if ahead:
            return (today if today > now else today + timedelta(days=1)).astimezone(UTC)
        return (today if today <= now else today - timedelta(days=1)).astimezone(UTC)
    except ValueError:
        pass
    try:
        return now + parse_duration(text) if ahead else now - parse_duration(text)
    except (ValueError, OverflowError) as error:
        last = "a time from now" if ahead else "an age"
        raise ValueError(
            f'"{text}" is no instant; write "2026-03-29T03:30", "2026-03-29", "18:00" or {last} like "24h"'
        ) from error


def _as_iso(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
