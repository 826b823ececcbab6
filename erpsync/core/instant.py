"""The instants that erpsync reckons with: far from both ends of the calendar, so that zones and delays have room."""

from datetime import UTC, datetime

_EARLIEST, _LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)


def reckonable(instant: datetime) -> datetime:
    """The same aware instant. Raises ValueError where it lies outside the years 1900 to 2999."""
    if not _EARLIEST <= instant < _LATEST:
        raise ValueError("lies outside the years 1900 to 2999; leave out what is to hold for ever")
    return instant
