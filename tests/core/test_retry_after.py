"""Retry-After in both forms."""

from datetime import UTC, datetime, timedelta

import pytest

from erpsync.core.retry_after import http_date, retry_after

SENT = "Sun, 22 Nov 2026 03:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 90 "}, 90),
        ({"retry-after": "99999999999"}, 900),
        ({"retry-after": "Sun, 22 Nov 2026 03:01:00 GMT", "date": SENT}, 60),
        ({"retry-after": "Sun, 22 Nov 2026 02:00:00 GMT", "date": SENT}, 0),
        ({"retry-after": "Sun, 22 Nov 2099 02:00:00 GMT"}, 900),
    ],
)
def test_both_forms_are_read_and_bounded(headers: dict[str, str], seconds: int) -> None:
    """Seconds and dates, the dates against the server's own clock, nothing beyond a quarter of an hour."""
    assert retry_after(headers) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "-5", "1.5", "٣", "Sun, 99 Nov 2026 03:00:00 GMT"])
def test_what_is_no_wait_is_none(text: str) -> None:
    """Nonsense asks for nothing."""
    assert retry_after({"retry-after": text}) is None


def test_http_dates_are_aware() -> None:
    """A date without a zone is UTC."""
    assert http_date(SENT) == datetime(2026, 11, 22, 3, tzinfo=UTC)
