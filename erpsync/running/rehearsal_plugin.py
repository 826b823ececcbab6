"""The plugin of a rehearsal; a module of its own, because importing a plugin is half of what there is to rehearse."""

from datetime import date

from erpsync import JobContext, JobResult, Settings, job


class Practice(Settings):
    """The common kinds of settings."""

    name: str
    count: int = 0
    since: date | None = None


@job("rehearsal")
def rehearsal(ctx: JobContext[Practice]) -> JobResult:
    """Do nothing."""
    return JobResult(note=ctx.settings.name)
