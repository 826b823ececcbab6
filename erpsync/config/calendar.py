"""Calendars and pools out of their tables."""

from collections.abc import Mapping
from datetime import date

from erpsync.config.document import Document
from erpsync.config.holiday import holidays_of
from erpsync.config.reading import beneath, check_name, complain, expanded, read_section
from erpsync.config.section import CalendarSection, PoolSection
from erpsync.config.words import Complaint
from erpsync.core.job import Calendar


def read_calendars(document: Document, today: date) -> dict[str, Calendar]:
    """Every calendar, with the holidays around `today`; a wrong one stands in, so that its jobs are judged too."""
    return {
        name: _read_calendar(document, name, table, today)
        for name, table in document.named("calendars").items()
    }


def _read_calendar(document: Document, name: str, table: Mapping[str, object], today: date) -> Calendar:
    where = beneath("calendars", name)
    check_name(document, where(()))
    section = read_section(document, CalendarSection, expanded(document, table, {}, where), where)
    if section is None:
        return Calendar(name)
    days = holidays_of(section.holidays, today) if section.holidays else frozenset[date]()
    if isinstance(days, Complaint):
        complain(document, days, where)
        return Calendar(name)
    return Calendar(
        name,
        dates=days.union(section.dates),
        yearly=frozenset(section.yearly),
        weekdays=frozenset(section.weekdays),
        month_days=frozenset(section.month_days),
        holidays=section.holidays,
    )


def read_pools(document: Document) -> dict[str, int]:
    """The slots of every pool; a wrong one stands in with one."""
    pools = {}
    for name, table in document.named("pools").items():
        where = beneath("pools", name)
        check_name(document, where(()))
        section = read_section(document, PoolSection, expanded(document, table, {}, where), where)
        pools[name] = section.slots if section else 1
    return pools
