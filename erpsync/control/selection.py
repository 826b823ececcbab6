"""What is meant by a name: jobs, also by glob, instance and tag; identities and instances; with a suggestion where
nothing fits."""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from erpsync.core.errors import UnknownJobError, UnknownNameError
from erpsync.core.job import Job

T = TypeVar("T")


def is_pattern(text: str) -> bool:
    """Whether `text` is a glob and may mean several jobs."""
    return any(sign in text for sign in "*?[")


def select_jobs(
    jobs: Mapping[str, Job],
    patterns: Iterable[str] = (),
    *,
    instances: Collection[str] = (),
    tags: Collection[str] = (),
) -> tuple[Job, ...]:
    """The jobs that fit a pattern (all where none is given) and lie in the instances and carry a tag asked for.

    A pattern is a job's name, a glob, a definition ("products" means products@acme, products@beta, ...), or an
    instance ("@acme" means all that run there).

    Raises:
        UnknownJobError: a pattern, or all together, fits nothing.
    """
    patterns = tuple(patterns)
    names = set(jobs) if not patterns else {name for each in patterns for name in _fitting(jobs, each)}
    chosen = tuple(
        job
        for name, job in jobs.items()
        if name in names
        and (not instances or job.instance in instances)
        and (not tags or job.tags & set(tags))
    )
    if not chosen and (patterns or instances or tags):
        raise UnknownJobError("no job fits", hint="erpsync jobs")
    return chosen


def find_job(jobs: Mapping[str, Job], name: str) -> Job:
    """The one job of this name, or of this definition where it has only one.

    Raises:
        UnknownJobError: none, or several, with a suggestion.
    """
    found = _fitting(jobs, name)
    if len(found) != 1:
        raise UnknownJobError(f'"{name}" means {len(found)} jobs', hint=f"one of {', '.join(found[:5])}")
    return jobs[found[0]]


def find_named(things: Mapping[str, T], name: str, noun: str) -> T:
    """The identity or instance (`noun`) of this name; a template's name alone means its only identity.

    Raises:
        UnknownNameError: none, with a suggestion.
    """
    if name in things:
        return things[name]
    of_template = [full for full in things if full.startswith(f"{name}@")]
    if len(of_template) == 1:
        return things[of_template[0]]
    if of_template:
        hint = f"one of {', '.join(sorted(of_template)[:5])}"
        raise UnknownNameError(f'"{name}" means {len(of_template)} of them', hint=hint)
    close = get_close_matches(name, things, n=1, cutoff=0.6)
    hint = f'did you mean "{close[0]}"?' if close else f"there are: {', '.join(sorted(things)[:5]) or 'none'}"
    raise UnknownNameError(f'there is no {noun} "{name}"', hint=hint)


def _fitting(jobs: Mapping[str, Job], pattern: str) -> list[str]:
    if pattern in jobs:
        return [pattern]
    if pattern.startswith("@"):
        found = [name for name, job in jobs.items() if job.instance == pattern[1:]]
    elif is_pattern(pattern):
        found = [name for name in jobs if fnmatchcase(name, pattern)]
    else:
        found = [name for name, job in jobs.items() if job.definition == pattern]
    if not found:
        words = sorted({*jobs, *(job.definition for job in jobs.values())})
        close = get_close_matches(pattern, words, n=1, cutoff=0.6)
        hint = f'did you mean "{close[0]}"?' if close else "erpsync jobs lists them"
        raise UnknownJobError(f'there is no job "{pattern}"', hint=hint)
    return found
