"""Selecting jobs by name, glob, definition, instance and tag."""

import pytest

from erpsync.control.selection import find_job, select_jobs
from erpsync.core.errors import UnknownJobError
from erpsync.core.job import Job

JOBS = {
    job.name: job
    for job in (
        Job("products@acme", "products", "mirror", instance="acme", tags=frozenset({"live"})),
        Job("products@beta", "products", "mirror", instance="beta"),
        Job("ping", "ping", "http_call"),
    )
}


@pytest.mark.parametrize(
    ("patterns", "instances", "tags", "expected"),
    [
        ([], [], [], ["products@acme", "products@beta", "ping"]),
        (["ping"], [], [], ["ping"]),
        (["*@beta", "ping"], [], [], ["products@beta", "ping"]),
        (["products"], [], [], ["products@acme", "products@beta"]),
        ([], ["acme"], [], ["products@acme"]),
        (["@beta"], [], [], ["products@beta"]),
        ([], [], ["live", "other"], ["products@acme"]),
        (["products"], ["beta"], [], ["products@beta"]),
    ],
)
def test_patterns_select(
    patterns: list[str], instances: list[str], tags: list[str], expected: list[str]
) -> None:
    """Names, globs and definitions add up, instances and tags restrict; the order is the configuration's."""
    assert [job.name for job in select_jobs(JOBS, patterns, instances=instances, tags=tags)] == expected


@pytest.mark.parametrize(
    ("patterns", "tags", "hint"),
    [
        (["prodcts"], [], 'did you mean "products"?'),
        (["x*"], [], "erpsync jobs"),
        (["ping"], ["live"], "erpsync jobs"),
    ],
)
def test_nothing_found_is_an_error(patterns: list[str], tags: list[str], hint: str) -> None:
    """A pattern that fits nothing is an error that suggests what was meant."""
    with pytest.raises(UnknownJobError) as caught:
        select_jobs(JOBS, patterns, tags=tags)
    assert hint in caught.value.hint


def test_one_job_by_definition_only_where_it_is_one() -> None:
    """A definition names its job where there is one, and is ambiguous where there are several."""
    assert find_job({"products@acme": JOBS["products@acme"]}, "products").name == "products@acme"
    with pytest.raises(UnknownJobError, match="means 2 jobs"):
        find_job(JOBS, "products")
