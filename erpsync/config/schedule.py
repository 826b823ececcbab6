"""The forms of `schedule`: text, a table with `cron`, `every`, `at` or `after`, or a list of these."""

from collections.abc import Iterator
from dataclasses import replace

from pydantic import ValidationError

from erpsync.config.document import did_you_mean
from erpsync.config.section import AfterTable, AtTable, CronTable, EveryTable, Section
from erpsync.config.words import Complaint, complaints, kind_of
from erpsync.core.job import After, At, Cron, Every, Manual, Schedule

_TABLES: dict[str, type[Section]] = {
    "cron": CronTable,
    "every": EveryTable,
    "at": AtTable,
    "after": AfterTable,
}
_FORMS = (
    '"15 2 * * *", { cron = "…" }, { every = "15m" }, { at = 2026-12-31T23:00:00+02:00 },'
    ' { after = "products" } or "manual"'
)


def read_schedules(value: object) -> tuple[tuple[Schedule, ...], list[Complaint]]:
    """The schedules that `value` says, one for each element, and what is wrong with it.

    Cron expressions are judged by others; the jobs of an After are still named as the file does.
    """
    elements = value if isinstance(value, list) else [value]
    schedules: list[Schedule] = []
    wrong: list[Complaint] = []
    if not elements:
        wrong.append(Complaint("E114", (), "schedule must not be an empty list", 'write "manual"'))
    for index, element in enumerate(elements):
        schedules.append(Manual())  # stands in where the element is wrong
        for read in _read(element):
            if isinstance(read, Complaint):
                keys = (index, *read.keys) if isinstance(value, list) else read.keys
                wrong.append(replace(read, keys=keys))
            else:
                schedules[-1] = read
    return tuple(schedules), wrong


def _read(element: object) -> Iterator[Schedule | Complaint]:
    if isinstance(element, str):
        yield _read_text(element.strip())
    elif isinstance(element, dict):
        yield from _read_table(element)
    else:
        message = f"schedule must be text, a table or a list of them, not {kind_of(element)}"
        yield Complaint("E104", (), message, _FORMS)


def _read_text(text: str) -> Schedule | Complaint:
    if text == "manual":
        return Manual()
    if not text:
        return Complaint("E114", (), "schedule must not be empty", f"write {_FORMS}")
    return Cron(text)


def _read_table(table: dict[str, object]) -> Iterator[Schedule | Complaint]:
    kind = next((key for key in _TABLES if key in table), None)
    if kind is None:
        near = next(filter(None, (did_you_mean(key, _TABLES) for key in table)), f"write {_FORMS}")
        yield Complaint("E114", (), "schedule has no `cron`, `every`, `at` or `after`", near)
        return
    model = _TABLES[kind]
    try:
        section = model.model_validate(table)
    except ValidationError as error:
        yield from complaints(error, model)
        return
    if isinstance(section, CronTable):
        yield Cron(section.cron.strip(), section.timezone, section.dst)
    elif isinstance(section, EveryTable):
        yield Every(section.every, section.offset)
    elif isinstance(section, AtTable):
        yield At(section.at)
    elif isinstance(section, AfterTable):
        yield After(section.after, section.on)
