"""Where the next incremental read of a job begins: in the ledger, and in the targets that keep their own."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from erpsync.core.errors import InvalidSettingsError, PluginLoadError
from erpsync.core.job import Job
from erpsync.core.run import utc_text
from erpsync.plugins.contract import NoValueError
from erpsync.plugins.discovery import PluginCatalog
from erpsync.plugins.kept import Kept, read_kept, reset_kept, targets_in
from erpsync.plugins.settings import validate_settings
from erpsync.plugins.target import Target
from erpsync.store.cursors import StoredCursor


def targets_of(job: Job, catalog: PluginCatalog) -> list[Target]:
    """The targets in a job's settings; none where its plugin or its settings cannot be used. May import."""
    try:
        return list(targets_in(validate_settings(catalog.find(job.plugin), job.settings, None)))
    except (PluginLoadError, InvalidSettingsError, NoValueError):
        return []


def kept_by_targets(job: Job, catalog: PluginCatalog, data: Path) -> list[Kept]:
    """What the job's targets keep for it. Raises TargetError."""
    names = (job.name, *job.formerly)
    found = (read_kept(target, data) for target in targets_of(job, catalog))
    return [kept for kept in found if kept is not None and kept.job in names]


def reset_targets(job: Job, catalog: PluginCatalog, data: Path) -> None:
    """Let the job's next run read everything into its targets. Raises TargetError."""
    mine = {(kept.url, kept.table) for kept in kept_by_targets(job, catalog, data)}
    for target in targets_of(job, catalog):
        if (target.url, target.table) in mine:
            reset_kept(target, data)


def cursor_document(
    job: Job, stored: Mapping[str, StoredCursor], kept: Sequence[Kept], now: datetime
) -> dict[str, object]:
    """The public JSON form; `age_seconds` is the time since the newest of them was written, None without any."""
    mine = stored.get(job.name)
    written = [datetime.fromisoformat(each.updated_at) for each in kept]
    written += [mine.updated_at] if mine else []
    return {
        "job": job.name,
        "cursor": mine.value if mine else None,
        "run": mine.run_id if mine else None,
        "updated_at": utc_text(mine.updated_at) if mine else None,
        "targets": [
            {
                "url": each.url,
                "table": each.table,
                "watermark": each.watermark,
                "unfinished": each.unfinished,
                "run": each.run_id,
                "updated_at": each.updated_at,
            }
            for each in kept
        ],
        "age_seconds": (now - max(written)).total_seconds() if written else None,
    }
