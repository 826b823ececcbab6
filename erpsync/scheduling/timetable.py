"""A job as the planner sees it: its trigger, its schedule as text to remember, its delay."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from erpsync.core.calendar import spread_delay
from erpsync.core.job import After, At, Cron, Every, Job, Manual, Schedule
from erpsync.scheduling.trigger import MOMENT, Trigger, build_trigger, combine


@dataclass(frozen=True, slots=True)
class Timetable:
    """When a job fires. `schedule` is its `schedule_text`; `delay` passes between fire time and start."""

    job: Job
    trigger: Trigger
    schedule: str
    delay: timedelta


def timetable(job: Job) -> Timetable:
    """The timetable of a job; one that is switched off or waits to be asked has no fire times.

    Raises:
        ValueError: the schedule is not valid.
    """
    trigger = build_trigger(job) if job.enabled else combine((), job.timezone)
    return Timetable(job, trigger, schedule_text(job), spread_delay(job.name, job.spread))


def schedule_text(job: Job) -> str:
    """All that decides the fire times of a job, as JSON that `read_schedule` understands; empty where it has none.

    Two jobs have the same text only if they have the same fire times; a different order or spacing is no change.
    """
    parts = sorted(_written(job.schedules, job)) if job.enabled else []
    if not parts:
        return ""
    bounds = {"start": _instant_text(job.start), "end": _instant_text(job.end)}
    return json.dumps({"any": parts, **{key: value for key, value in bounds.items() if value}})


def read_schedule(text: str) -> Trigger:
    """The trigger of a schedule that `schedule_text` wrote.

    Raises:
        ValueError: another version wrote it.
    """
    if not text:
        return combine(())
    try:
        document = json.loads(text)
        schedules = [_read(*part) for part in document["any"]]
        return combine(schedules, start=_instant(document.get("start")), end=_instant(document.get("end")))
    except (KeyError, TypeError) as error:
        raise ValueError("a schedule written by another version") from error


def _written(schedules: Iterable[Schedule], job: Job) -> Iterable[list[str]]:
    for schedule in schedules:
        match schedule:
            case Cron(expression, timezone, dst):
                yield ["cron", " ".join(expression.split()), timezone or job.timezone, dst or job.dst]
            case Every(every, offset):
                yield ["every", str(every // MOMENT), str(offset // MOMENT)]
            case At(at):
                yield ["at", at.astimezone(UTC).isoformat()]
            case After() | Manual():
                continue


def _read(kind: str, value: str, *more: str) -> Schedule:
    match kind, more:
        case "cron", (timezone, "vixie" | "skip" | "literal" as dst):
            return Cron(value, timezone, dst)
        case "every", (offset,):
            return Every(int(value) * MOMENT, int(offset) * MOMENT)
        case "at", ():
            return At(datetime.fromisoformat(value))
    raise ValueError(f'unknown kind of schedule "{kind}"')


def _instant_text(instant: datetime | None) -> str | None:
    return instant.astimezone(UTC).isoformat() if instant else None


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
