"""Rules about the configuration as a whole, beyond single sections."""

import re
from collections.abc import Iterable, Iterator

from erpsync.config.document import Document
from erpsync.config.layer import Spot
from erpsync.config.source import Keys
from erpsync.core.job import Job

_PASSWORD = re.compile(r"://[^/\s:@]*:[^/\s@]+@|[?&]\w*(?:password|passwd|pwd)=", re.IGNORECASE)


def check_urls(document: Document) -> None:
    """No URL holds a password, wherever it stands."""
    suspicious = (source for source in set(document.owners.values()) if _PASSWORD.search(source.text))
    if not any(suspicious) and not document.environment:
        return
    for keys, text in _texts(document.root, ()):
        if _PASSWORD.search(text):
            form = '{ url = "postgresql://user@host/name", password = { secret = "name" } }'
            hint = f"write {form}" if "with" in keys else "leave the password out"
            document.add("E112", "a URL holds a password", keys, hint=hint, hide=True)


def _texts(value: object, keys: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*keys, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*keys, index))


def check_targets(document: Document, jobs: Iterable[Job]) -> None:
    """No two enabled jobs write one table."""
    writers: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        target = job.settings.get("target")
        if job.enabled and isinstance(target, dict) and "url" in target and "table" in target:
            url, table = target["url"], target["table"]
            if isinstance(url, str) and isinstance(table, str):
                writers.setdefault((url, str(target.get("schema")), table), []).append(job)
    for first, second, *more in (group for group in writers.values() if len(group) > 1):
        others = f" and {len(more)} more" if more else ""
        table = _target_text(second)
        message = f'the jobs "{first.name}" and "{second.name}"{others} write one table, {table}'
        where = Spot(document, second.definition, second.instance).where(("with", "target", "table"))
        hint = "put ${instance} into its url or table" if first.definition == second.definition else ""
        document.add("E117", message, where, hint=hint)


def _target_text(job: Job) -> str:
    """The table without what a URL's query may hold."""
    target = job.settings["target"]
    assert isinstance(target, dict)
    return f'"{target["table"]}" in {str(target["url"]).split("?", 1)[0].rsplit("@", 1)[-1]}'
