"""How long a server asks us to wait, and when it says it spoke."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

LONGEST = timedelta(minutes=15)
"""What is asked for beyond this is not believed: a night has other work to do."""


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """The wait asked for, in either form of RFC 9110 section 10.2.3, at most LONGEST; None where none is.

    `headers` finds names in small letters. A date is compared with the server's own clock where it tells it.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), LONGEST)
    until, sent = http_date(text), http_date(headers.get("date", ""))
    if until is None:
        return None
    return min(max(until - (sent or datetime.now(UTC)), timedelta(0)), LONGEST)


def http_date(text: str) -> datetime | None:
    """An HTTP date as an aware instant (RFC 9110 section 5.6.7); None where `text` is none."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError, IndexError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
