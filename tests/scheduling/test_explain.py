"""What `next` says about fire times."""

from dataclasses import replace
from datetime import date, datetime, time, timedelta

import pytest

from erpsync.core.job import Calendar, Cron, Every, Job, Window
from erpsync.scheduling.explain import fire_times, next_start
from erpsync.scheduling.timetable import timetable
from erpsync.scheduling.trigger import build_schedule, build_trigger

SPRING, AUTUMN = "2026-03-28T12:00:00+02:00", "2026-10-25T01:30:00+03:00"


@pytest.mark.parametrize(
    ("expression", "dst", "after", "lines"),
    [
        (
            "30 3 * * *",
            "vixie",
            SPRING,
            ["2026-03-29T04:00:00+03:00 gap: moved from 03:30", "2026-03-30T03:30:00+03:00 "],
        ),
        (
            "0,15,30,45 3 * * *",
            "vixie",
            SPRING,
            [
                "2026-03-29T04:00:00+03:00 gap: moved from 03:00, 03:15, 03:30, …",
                "2026-03-30T03:00:00+03:00 ",
            ],
        ),
        (
            "30 3 * * *",
            "skip",
            SPRING,
            ["2026-03-30T03:30:00+03:00 gap: 03:30 on 2026-03-29 skipped", "2026-03-31T03:30:00+03:00 "],
        ),
        (
            "5 30 3 * * *",
            "literal",
            SPRING,
            ["2026-03-30T03:30:05+03:00 gap: 03:30:05 on 2026-03-29 skipped", "2026-03-31T03:30:05+03:00 "],
        ),
        ("0 * * * *", "vixie", "2026-03-29T02:30:00+02:00", ["2026-03-29T04:00:00+03:00 "]),
        ("*/20 * * * *", "skip", "2026-03-29T02:40:00+02:00", ["2026-03-29T04:00:00+03:00 "]),
        *(
            (
                "*/30 3 * * *",
                dst,
                SPRING,
                [
                    "2026-03-30T03:00:00+03:00 gap: 03:00, 03:30 on 2026-03-29 skipped",
                    "2026-03-30T03:30:00+03:00 ",
                ],
            )
            for dst in ("vixie", "skip", "literal")
        ),
        (
            "*/30 3 29 3 *",
            "vixie",
            SPRING,
            [
                "2027-03-29T03:00:00+03:00 gap: 03:00, 03:30 on 2026-03-29 skipped",
                "2027-03-29T03:30:00+03:00 ",
            ],
        ),
        (
            "*/30 3 * * *",
            "vixie",
            AUTUMN,
            [
                "2026-10-25T03:00:00+03:00 repeated hour: first pass",
                "2026-10-25T03:30:00+03:00 repeated hour: first pass",
                "2026-10-25T03:00:00+02:00 repeated hour: second pass",
                "2026-10-25T03:30:00+02:00 repeated hour: second pass",
                "2026-10-26T03:00:00+02:00 ",
            ],
        ),
        (
            "30 3 * * *",
            "vixie",
            AUTUMN,
            ["2026-10-25T03:30:00+03:00 repeated hour: first pass only", "2026-10-26T03:30:00+02:00 "],
        ),
        (
            "30 3 * * *",
            "literal",
            AUTUMN,
            [
                "2026-10-25T03:30:00+03:00 repeated hour: first pass",
                "2026-10-25T03:30:00+02:00 repeated hour: second pass",
                "2026-10-26T03:30:00+02:00 ",
            ],
        ),
        (
            "0 * * * *",
            "vixie",
            AUTUMN,
            [
                "2026-10-25T02:00:00+03:00 ",
                "2026-10-25T03:00:00+03:00 repeated hour: first pass",
                "2026-10-25T03:00:00+02:00 repeated hour: second pass",
                "2026-10-25T04:00:00+02:00 ",
            ],
        ),
    ],
)
def test_a_note_says_what_a_clock_change_did(expression: str, dst: str, after: str, lines: list[str]) -> None:
    """Every shifted, doubled or lost fire time of a bare expression has its reason, an ordinary one has none."""
    trigger = build_schedule(Cron(expression), "Europe/Sofia", dst)

    found = fire_times(trigger, datetime.fromisoformat(after), len(lines))

    assert [f"{fire.at.isoformat()} {fire.note}" for fire in found] == lines


def test_the_json_form_has_local_time_and_utc() -> None:
    """`at` is local with its offset, `utc` ends in Z, and both are the same instant."""
    trigger = build_schedule(Cron("0 12 * * *"), "Europe/Sofia")

    (fire,) = fire_times(trigger, datetime.fromisoformat(SPRING), 1)

    assert fire.document("orders@acme") == {
        "job": "orders@acme",
        "at": "2026-03-29T12:00:00+03:00",
        "utc": "2026-03-29T09:00:00Z",
        "note": "",
    }


def test_a_spread_is_named_and_moves_no_fire_time() -> None:
    """The nominal fire time is shown, the note says how much later the job starts."""
    table = timetable(
        Job("orders", "orders", "p", schedules=(Cron("0 12 * * *"),), spread=timedelta(minutes=1))
    )

    (fire,) = fire_times(table.trigger, datetime.fromisoformat(SPRING), 1, delay=table.delay)

    assert fire.utc.isoformat() == "2026-03-28T12:00:00+00:00"
    assert fire.note.startswith("spread +")
    assert fire.note.endswith("s")


def test_a_list_of_schedules_shows_the_note_of_the_one_that_fires() -> None:
    """In a union each fire time has the notes of the members that gave it, in the zone of the job."""
    every, nightly = Every(timedelta(hours=1), timedelta(minutes=7)), Cron("30 3 * * *")
    job = Job("orders", "orders", "p", schedules=(every, nightly), timezone="Europe/Sofia")

    found = fire_times(build_trigger(job), datetime.fromisoformat("2026-03-29T02:30:00+02:00"), 2)

    assert [(fire.at.isoformat(), fire.note) for fire in found] == [
        ("2026-03-29T04:00:00+03:00", "gap: moved from 03:30"),
        ("2026-03-29T04:07:00+03:00", ""),
    ]


@pytest.mark.parametrize(
    ("schedules", "after", "lines"),
    [
        (
            (Cron("30 3 * * *"), Cron("*/30 3 * * *")),
            "2026-10-25T03:10:00+03:00",
            [
                "2026-10-25T03:30:00+03:00 repeated hour: first pass",
                "2026-10-25T03:00:00+02:00 repeated hour: second pass",
            ],
        ),
        (
            (Cron("30 3 * * *"), Every(timedelta(hours=1), timedelta(minutes=30))),
            "2026-10-25T03:10:00+03:00",
            ["2026-10-25T03:30:00+03:00 repeated hour: first pass", "2026-10-25T03:30:00+02:00 "],
        ),
        (
            (Cron("30 3 * * *"), Cron("0 12 * * *")),
            "2026-10-25T03:10:00+03:00",
            ["2026-10-25T03:30:00+03:00 repeated hour: first pass only", "2026-10-25T12:00:00+02:00 "],
        ),
        (
            (Cron("30 3 * * *"), Cron("*/30 3 * * *")),
            SPRING,
            ["2026-03-29T04:00:00+03:00 gap: moved from 03:30", "2026-03-30T03:00:00+03:00 "],
        ),
        (
            (Cron("0 4 * * *"), Cron("*/30 3 * * *")),
            SPRING,
            [
                "2026-03-29T04:00:00+03:00 ",
                "2026-03-30T03:00:00+03:00 gap: 03:00, 03:30 on 2026-03-29 skipped",
            ],
        ),
    ],
)
def test_a_note_of_a_list_is_true_of_the_list(
    schedules: tuple[Cron | Every, ...], after: str, lines: list[str]
) -> None:
    """What one member does only once, or not at all, another may do."""
    job = Job("orders", "orders", "p", schedules=schedules, timezone="Europe/Sofia")
    found = fire_times(build_trigger(job), datetime.fromisoformat(after), 2)
    assert [f"{fire.at.isoformat()} {fire.note}" for fire in found] == lines


def test_a_schedule_that_ends_gives_fewer() -> None:
    """Asked for more fire times than there are, one gets those that there are."""
    job = Job(
        "o", "o", "p", schedules=(Cron("0 * * * *"),), end=datetime.fromisoformat("2026-03-28T12:00:00Z")
    )

    assert len(fire_times(build_trigger(job), datetime.fromisoformat(SPRING), 9)) == 1


def test_blackout_window_and_spread_are_explained() -> None:
    """A skipped day, a postponed one, and when the window lets the run start."""
    free = Calendar("free", dates=frozenset({date(2026, 3, 30)}))
    job = Job(
        "orders",
        "orders",
        "mirror",
        schedules=(Cron("0 20 * * *"),),
        timezone="Europe/Sofia",
        blackout=(free,),
        window=Window(time(22), time(6)),
    )
    after = datetime.fromisoformat("2026-03-29T12:00:00+03:00")

    def notes(job: Job) -> list[str]:
        table = timetable(job)
        return [found.note for found in fire_times(table.trigger, after, 2, delay=table.delay, job=job)]

    assert notes(job) == ["window: starts 2026-03-29T22:00+03:00", "blackout free: skipped"]
    assert notes(replace(job, on_blackout="postpone"))[1] == "blackout free: starts 2026-03-31T00:00+03:00"
    assert notes(replace(job, window=None, spread=timedelta(hours=1)))[0].startswith("spread +")


def test_a_start_that_never_comes_is_not_promised() -> None:
    """A run that is missed before its window opens is said to be, by the deadline that the daemon keeps."""
    weekend = Calendar("weekend", weekdays=frozenset({5, 6}))
    night = Job(
        "n", "n", "p", schedules=(Cron("30 23 * * *"),), blackout=(weekend,), window=Window(time(), time(6))
    )
    noon = replace(
        night,
        schedules=(Cron("0 12 * * *"),),
        blackout=(),
        window=Window(time(22), time(6)),
        start_by=timedelta(hours=1),
    )
    thursday = datetime.fromisoformat("2026-11-26T12:00:00Z")

    def notes(job: Job) -> list[str]:
        return [fire.note for fire in fire_times(build_trigger(job), thursday, 4, job=job)]

    assert notes(night) == [
        "window: starts 2026-11-27T00:00+00:00",
        "window: opens 2026-11-30T00:00+00:00, missed 2026-11-28T23:30+00:00",
        "blackout weekend: skipped",
        "blackout weekend: skipped",
    ]
    assert notes(noon)[0] == "window: opens 2026-11-27T22:00+00:00, missed 2026-11-27T13:00+00:00"
    friday = datetime.fromisoformat("2026-11-27T23:30:00Z")
    assert next_start(timetable(night), friday) == datetime.fromisoformat("2026-12-01T00:00:00Z")
    assert next_start(timetable(noon), friday.replace(hour=12, minute=0)) is None
    often = replace(noon, schedules=(Cron("*/5 * * * *"),), start_by=timedelta(minutes=10))
    assert next_start(timetable(often), friday.replace(hour=7)) == friday.replace(hour=22, minute=0)


def test_a_start_that_overlap_skips_is_not_promised() -> None:
    """While the first fire time waits for the window, those that follow are skipped, whenever one asks; one that is
    missed meanwhile lets the next one wait."""
    hourly = Job(
        "h",
        "h",
        "p",
        schedules=(Every(timedelta(hours=1)),),
        window=Window(time(22), time(6)),
        start_by=timedelta(hours=24),
    )

    def notes(job: Job, after: str, count: int) -> list[str]:
        found = fire_times(build_trigger(job), datetime.fromisoformat(after), count, job=job)
        return [fire.note for fire in found]

    starts = "window: starts 2026-11-26T22:00+00:00"
    skipped = "overlap: skipped, that of 2026-11-26T06:00+00:00 waits until 2026-11-26T22:00+00:00"
    assert notes(hourly, "2026-11-26T04:30:00Z", 19) == ["", starts, *[skipped] * 16, ""]
    assert notes(hourly, "2026-11-26T20:30:00Z", 3) == [skipped, skipped, ""]
    assert notes(replace(hourly, overlap="queue"), "2026-11-26T20:30:00Z", 1) == [starts]

    short = replace(hourly, start_by=timedelta(hours=2, minutes=30))
    missed = "window: opens 2026-11-26T22:00+00:00, missed 2026-11-26T08:30+00:00"
    assert notes(short, "2026-11-26T05:30:00Z", 2) == [missed, skipped.replace("T22:00", "T08:30")]
    assert notes(short, "2026-11-26T19:30:00Z", 3) == [
        skipped.replace("T06", "T18").replace("T22:00", "T20:30"),
        starts,
        skipped.replace("T06", "T21"),
    ]


def test_a_spread_into_a_blackout_is_told_by_its_name() -> None:
    """The fire time is on the day before, the start would be on the one that is blacked out."""
    free = Calendar("free", dates=frozenset({date(2026, 3, 30)}))
    patient = timedelta(days=2)
    job = Job("o", "o", "p", schedules=(Cron("30 23 * * *"),), blackout=(free,), start_by=patient)
    after = datetime.fromisoformat("2026-03-29T12:00:00Z")
    (fire,) = fire_times(build_trigger(job), after, 1, delay=timedelta(hours=1), job=job)
    assert fire.note == "blackout free: starts 2026-03-31T00:00+00:00; spread +1h"


def test_rare_fire_times_are_looked_for_beyond_the_horizon() -> None:
    """29 February 2028 is a Tuesday and blacked out; that of 2032 is not, and starts."""
    tuesdays = Calendar("tuesdays", weekdays=frozenset({1}))
    leap = timetable(Job("l", "l", "p", schedules=(Cron("0 12 29 2 *"),), blackout=(tuesdays,)))
    fire = datetime.fromisoformat("2028-02-29T12:00:00Z")
    assert next_start(leap, fire) == fire.replace(year=2032)
