"""What a state holds, in a few numbers: read by hand, so that a state of any age can be asked."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from erpsync.core.run import utc_text
from erpsync.store.copy import opened
from erpsync.store.schema import from_microseconds


@dataclass(frozen=True, slots=True)
class Summary:
    """`size` in bytes; `held_since` (aware UTC) where nothing is fired, with the reason."""

    schema: str
    size: int
    runs: int
    unfinished: int
    jobs: int
    oldest: datetime | None
    held_since: datetime | None = None
    held_reason: str | None = None

    def document(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "schema": self.schema,
            "size_bytes": self.size,
            "runs": self.runs,
            "unfinished": self.unfinished,
            "jobs": self.jobs,
            "oldest_run_at": utc_text(self.oldest),
            "held_since": utc_text(self.held_since),
            "held_reason": self.held_reason,
        }

    def text(self) -> str:
        """For people."""
        held = f"; held since {utc_text(self.held_since)}: {self.held_reason}" if self.held_since else ""
        oldest = f", the oldest of {self.oldest:%Y-%m-%d}" if self.oldest else ""
        return (
            f"schema {self.schema}, {self.size / 2**20:.1f} MiB, {self.runs} runs of {self.jobs} jobs{oldest}, "
            f"{self.unfinished} unfinished{held}"
        )


def summarize(state: Path) -> Summary:
    """Raises StoreCorruptError, StoreUnavailableError."""
    with opened(state) as connection:
        runs, jobs, oldest, unfinished = connection.execute(
            "SELECT count(*), count(DISTINCT job), min(created_at), count(*) FILTER (WHERE state <> 'finished')"
            " FROM run"
        ).fetchone()
        schema = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        has_hold = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'installation'").fetchone()
        held = has_hold and connection.execute("SELECT held_since, held_reason FROM installation").fetchone()
    since, reason = held or (None, None)
    return Summary(
        str(schema),
        state.stat().st_size,
        runs,
        unfinished,
        jobs,
        from_microseconds(oldest),
        from_microseconds(since),
        reason,
    )
