"""`night`: was it fine, and if not, what to do."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from erpsync.cli.instant import parse_since
from erpsync.cli.options import IN_THE_ZONE, FormatOption, workspace_of
from erpsync.cli.output import Times, print_json, say, table
from erpsync.core.duration import format_duration

if TYPE_CHECKING:
    from erpsync.daemon.night import Review


def night(
    context: typer.Context,
    since: Annotated[str, typer.Option(help=f'"18:00", "24h" or an instant; {IN_THE_ZONE}.')] = "18:00",
    format: FormatOption = "text",  # noqa: A002 - the option's name
) -> int:
    """Whether all went as expected since then: exit 0, or 1 with what is wrong and what to type next."""
    from erpsync.daemon.check import require_schedules
    from erpsync.daemon.night import Evidence, read_evidence, review

    workspace = workspace_of(context)
    configuration = workspace.configuration
    require_schedules(configuration)
    zone, now = configuration.daemon.timezone, datetime.now(UTC)
    try:
        start = parse_since(since, zone, now)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from error
    evidence = workspace.read(read_evidence, Evidence(), start)
    found = review(configuration.jobs.values(), evidence, start, now)
    if format == "json":
        print_json(found.document())
    else:
        _print(found, Times(zone))
    return 0 if found.is_fine else 1


def _print(found: "Review", times: Times) -> None:
    wrong = len({finding.job for finding in found.findings})
    verdict = "fine" if found.is_fine else f"not fine: {wrong} of {len(found.data)} jobs"
    say(f"{verdict}, from {times(found.since)} to {times(found.until)} ({times.zone})")
    counted = ", ".join(f"{number} {outcome}" for outcome, number in sorted(found.outcomes.items()))
    troubles = "1 trouble was" if found.mended == 1 else f"{found.mended} troubles were"
    mended = f"; {troubles} followed by a success" if found.mended else ""
    say(f"runs     {counted or 'none'}{mended}")
    if found.live:
        states = ", ".join(f"{run.job} ({run.waiting_for or run.state})" for run in found.live)
        say(f"not over {states}")
    if found.paused:
        say(f"paused   {', '.join(found.paused)}")
    if found.findings:
        say()
        rows = (
            (each.job, each.kind, _many(each.count), times(each.at), each.why, each.next)
            for each in found.findings
        )
        table(("job", "what", "times", "at", "why", "next"), rows, fold=("why",))
    say()
    ages = (
        (name, times(found.data[name]), "-" if age is None else format_duration(age))
        for name, age in found.ages.items()
    )
    table(("data of", "as of", "age"), ages)


def _many(count: int) -> object:
    return count if count > 0 else "many"
