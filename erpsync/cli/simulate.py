"""`simulate`: the schedule in virtual time, as a timeline."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from erpsync.cli.instant import parse_instant
from erpsync.cli.options import IN_THE_ZONE, FormatOption, workspace_of
from erpsync.cli.output import Times, counted, note, print_json, say, table
from erpsync.core.duration import format_duration
from erpsync.core.run import utc_text

if TYPE_CHECKING:
    from erpsync.daemon.simulated_run import SimulatedRun
    from erpsync.daemon.situation import Expected

_BAR = 32  # signs
_RUNS = "run"  # what is neither skipped nor missed
_ROWS = 100  # of one job; where there are more they are told as one


def simulate(
    context: typer.Context,
    start: Annotated[str, typer.Option("--from", help=f'"18:00", or an instant; {IN_THE_ZONE}.')],
    end: Annotated[str, typer.Option("--to", help='"06:00", "12h", or an instant, read as --from is.')],
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> None:
    """What would run, wait, be skipped and be missed, and when the night would be over."""
    from erpsync.daemon.check import require_schedules
    from erpsync.daemon.simulation import expected_end
    from erpsync.daemon.simulation import simulate as play
    from erpsync.daemon.situation import Situation, configured_duration, expected_durations, read_situation

    workspace = workspace_of(context)
    configuration = workspace.configuration
    require_schedules(configuration)
    zone, now = configuration.daemon.timezone, datetime.now(UTC)
    begin = _instant(start, zone, now, "--from")
    until = _instant(end, zone, begin, "--to")
    if until == begin or (end == start and ":" in end):
        raise typer.BadParameter('it is --from; for a whole day write "24h"', param_hint="--to")
    if until < begin:
        raise typer.BadParameter("it lies before --from", param_hint="--to")
    jobs = [job for job in configuration.jobs.values() if job.enabled]
    unknown = {job.name: configured_duration(job) for job in jobs}
    expected: Mapping[str, Expected] = workspace.read(expected_durations, unknown, jobs)
    situation = workspace.read(read_situation, Situation(now), now)
    runs = play(configuration, expected, begin, until, situation)
    over = expected_end(runs, until)
    if format == "json":
        print_json(
            {
                "from": utc_text(begin),
                "to": utc_text(until),
                "expected_end": utc_text(over),
                "durations": {
                    name: {"seconds": each.duration.total_seconds(), "source": each.source}
                    for name, each in expected.items()
                },
                "runs": [run.document() for run in runs],
            }
        )
        return
    if not runs:
        note("nothing is due in that time")
        return
    first = min((run.fire_at for run in runs if run.fire_at >= begin), default=begin)
    _print_timeline(runs, first, max(over or until, first + timedelta(seconds=1)), Times(zone))
    _print_sum(runs, over, Times(zone), expected)
    if any(instance.kind == "erpnet" for instance in configuration.instances.values()):
        say(
            "licence slots, simply: an identity keeps its own until 20m after its last run, within a session of 60m"
        )


def _print_timeline(runs: Sequence["SimulatedRun"], begin: datetime, end: datetime, times: Times) -> None:
    say(f"{times.heading()}; the bar is {times(begin)} … {times(end)}")
    number = Counter(run.job for run in runs)
    many = {name: [run for run in runs if run.job == name] for name in number if number[name] > _ROWS}
    rows: list[tuple[str, ...]] = [
        (
            run.job,
            times(run.fire_at),
            times(run.started_at),
            times(run.finished_at),
            _bar(run, begin, end),
            _note(run, times),
        )
        for run in runs
        if run.job not in many
    ]
    rows += [_many_row(mine, begin, end, times) for mine in many.values()]
    table(("job", "due", "starts", "ends", "", "note"), rows, fold=("note",))


def _many_row(
    runs: Sequence["SimulatedRun"], begin: datetime, end: datetime, times: Times
) -> tuple[str, ...]:
    """All runs of a job that has so many that nobody would read them one by one."""
    started, over = (
        [run for run in runs if run.started_at],
        [run.finished_at for run in runs if run.finished_at],
    )
    first, last = started[0] if started else runs[0], max(over, default=None)
    bar = _bar(replace(first, finished_at=last), begin, end)
    return runs[0].job, times(runs[0].fire_at), times(first.started_at), times(last), bar, _outcomes(runs)


def _bar(run: "SimulatedRun", begin: datetime, end: datetime) -> str:
    """Where a run lies between `begin` and `end`: waiting, then running; "x" for one that never starts."""

    def place(instant: datetime) -> int:
        return max(0, min(int((instant - begin) / (end - begin) * _BAR), _BAR - 1))

    due = place(run.fire_at)
    if run.started_at is None or run.finished_at is None:
        return " " * due + "x"
    first, last = place(run.started_at), place(run.finished_at)
    return " " * due + "·" * (first - due) + "█" * (last - first + 1)


def _note(run: "SimulatedRun", times: Times) -> str:
    waits = [f"waits {format_duration(waited)} for {reason}" for reason, waited in run.waits.items()]
    if run.outcome == "succeeded":
        return "; ".join(waits)
    number = run.fire_count if run.fire_count > 0 else "many"
    many = f", {number} until {times(run.fire_until)}" if number != 1 else ""
    return "; ".join([f"{run.outcome}: {run.reason}{many}", *waits])


def _print_sum(
    runs: Sequence["SimulatedRun"], over: datetime | None, times: Times, expected: Mapping[str, "Expected"]
) -> None:
    waiting = [run for run in runs if run.waits]
    say(f"\n{_outcomes(runs)}")
    if waiting:
        longest = max(waiting, key=lambda run: sum(wait.total_seconds() for wait in run.waits.values()))
        say(
            f"{counted(len(waiting), 'run')} with a wait; the longest: {longest.job}, {_note(longest, times)}"
        )
    sources = Counter(each.source for each in expected.values())
    say(f"durations: {', '.join(f'{number} {source}' for source, number in sources.most_common())}")
    say(f"expected end: {times(over)}")


def _outcomes(runs: Sequence["SimulatedRun"]) -> str:
    outcomes: Counter[str] = Counter()
    for run in runs:
        outcomes[f"{run.outcome} ({run.reason})" if run.reason else _RUNS] += max(run.fire_count, 1)
    return ", ".join(
        counted(number, "run") if what == _RUNS else f"{number} {what}"
        for what, number in outcomes.most_common()
    )


def _instant(text: str, zone: str, now: datetime, option: str) -> datetime:
    try:
        return parse_instant(text, zone, now, ahead=True)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
