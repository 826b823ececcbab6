"""What jobs say about one another: after and formerly."""

from collections.abc import Callable

import pytest

from erpsync.core.job import After, Cron
from erpsync.core.problem import Problem
from erpsync.core.run import Outcome
from tests.config.conftest import ACME, BETA, NIGHT, Load


def job(name: str, schedule: str = '"@daily"', more: str = "") -> str:
    return f'[jobs.{name}]\nplugin = "mirror"\nschedule = {schedule}\n{more}\n'


EVERYWHERE = 'instances = ["*"]'


def test_a_job_runs_after_the_one_at_its_own_instance(load: Load) -> None:
    """Where both are fanned out; a parent without fan-out is the same for all, a full name goes anywhere."""
    configuration = load(
        ACME
        + BETA
        + job("child", '{ after = ["products", "rates", "summary@beta"] }', EVERYWHERE)
        + job("products", more=EVERYWHERE)
        + job("rates")
        + job("summary", more='instances = ["beta"]')
    )
    for instance in ("acme", "beta"):
        assert configuration.jobs[f"child@{instance}"].schedules == (
            After((f"products@{instance}", "rates", "summary@beta")),
        )


def test_after_may_stand_among_other_schedules(load: Load) -> None:
    """With the outcomes that count, one or several; naming a job twice is naming it once."""
    configuration = load(
        ACME
        + job("child", '["@daily", { after = ["a", "a@acme"], on = "failed" }]', EVERYWHERE)
        + job("other", '{ after = "child@acme", on = ["succeeded", "skipped"] }')
        + job("a", more=EVERYWHERE)
    )
    assert configuration.jobs["child@acme"].schedules == (
        Cron("@daily"),
        After(("a@acme",), frozenset({Outcome.FAILED})),
    )
    assert configuration.jobs["other"].schedules == (
        After(("child@acme",), frozenset({Outcome.SUCCEEDED, Outcome.SKIPPED})),
    )


def test_an_instance_changes_what_a_job_runs_after(load: Load) -> None:
    """The names in its change mean the same as those of the definition; placeholders work."""
    configuration = load(
        ACME + 'vars.first = "b"\njobs.child.schedule = { after = "${vars.first}" }\n' + BETA
        + job("child", '{ after = "a" }', EVERYWHERE) + job("a", more=EVERYWHERE) + job("b", more=EVERYWHERE)
    )  # fmt: skip
    assert configuration.jobs["child@acme"].schedules == (After(("b@acme",)),)
    assert configuration.jobs["child@beta"].schedules == (After(("a@beta",)),)


def test_a_job_at_its_identitys_instance_has_a_plain_name_for_others(load: Load) -> None:
    """It is no fan-out, so all children run after the one."""
    configuration = load(
        ACME + NIGHT + 'instance = "acme"\n' + job("a", more='identity = "night"')
        + job("child", '{ after = "a" }', EVERYWHERE) + job("plain", '{ after = "a" }', 'identity = "night"')
    )  # fmt: skip
    assert configuration.jobs["child@acme"].schedules == (After(("a",)),)
    assert configuration.jobs["plain"].schedules == (After(("a",)),)


def test_a_parent_left_out_at_an_instance_is_missed_there(problems: Callable[..., list[Problem]]) -> None:
    """The message names the instance; the place is the name in the list."""
    (problem,) = problems(
        ACME + BETA + "jobs.a.enabled = false\n"
        + job("child", '[{ after = ["b", "a"] }]', EVERYWHERE)
        + job("a", more=EVERYWHERE) + job("b", more=EVERYWHERE)
    )  # fmt: skip
    assert (problem.code, problem.message) == ("E108", 'the job "a" does not run at "beta"')
    assert problem.key == "jobs.child.schedule[0].after[1]"


def test_a_circle_is_told_once_for_all_instances(problems: Callable[..., list[Problem]]) -> None:
    """Circles that have nothing in common are each told; one across instances is named in full."""
    found = problems(
        ACME + BETA
        + job("a", '{ after = "b" }', EVERYWHERE) + job("b", '["@daily", { after = "a" }]', EVERYWHERE)
        + job("c", '{ after = "c@acme" }', EVERYWHERE)
        + job("x", '{ after = "y" }') + job("y", '{ after = "z@acme" }')
        + job("z", '{ after = "x" }', 'instances = ["acme"]')
    )  # fmt: skip
    messages = sorted(problem.message for problem in found)
    assert {problem.code for problem in found} == {"E121"}
    assert len([message for message in messages if "circle" in message]) == 2
    assert 'the job "c" runs after itself' in messages
    (circle,) = [message for message in messages if "z@acme" in message]
    assert set(circle.partition(": ")[2].split(" → ")) == {"x", "y", "z@acme"}


def test_a_long_chain_is_no_circle(load: Load) -> None:
    """However many jobs run one after another, and a diamond is fine too."""
    chain = "".join(job(f"j{n}", f'{{ after = "j{n - 1}" }}') for n in range(1, 1500))
    diamond = job("end", '{ after = ["j1", "j2", "j3"] }')
    assert len(load(job("j0") + chain + diamond).jobs) == 1501


def test_nothing_runs_after_a_disabled_job(load: Load) -> None:
    """That is a warning; a child that is disabled too has none."""
    configuration = load(
        job("a", more="enabled = false")
        + job("child", '{ after = "a" }')
        + job("idle", '{ after = "a" }', "enabled = false")
    )
    assert [(warning.code, warning.key) for warning in configuration.problems] == [
        ("W106", "jobs.child.schedule.after")
    ]


@pytest.mark.parametrize(
    ("more", "name", "former"),
    [
        ('formerly = "old"', "products", ("old",)),
        ('formerly = ["old", "older", "old"]', "products", ("old", "older")),
        ('formerly = "products@acme"', "products", ("products@acme",)),
        ('formerly = "old"\ninstances = "acme"', "products@acme", ("old@acme",)),
        ('formerly = "products@acne"\ninstances = "acme"', "products@acme", ("products@acne",)),
        ('formerly = "products@${vars.was}"\ninstances = "acme"', "products@acme", ("products@acne",)),
    ],
)
def test_former_names_are_full_names(load: Load, more: str, name: str, former: tuple[str, ...]) -> None:
    """A plain name of a job that is fanned out was at the same instance; a full one is taken as it is."""
    configuration = load(ACME + 'vars.was = "acne"\n' + job("products", more=more))
    assert configuration.jobs[name].formerly == former


def test_a_fault_with_former_names_is_told_once_for_all_instances(
    problems: Callable[..., list[Problem]],
) -> None:
    """Current jobs with faults of their own are current too."""
    found = problems(
        ACME + BETA
        + job("a", more=EVERYWHERE + '\nformerly = ["b", "old"]')
        + job("b", more=EVERYWHERE + "\ntimeout = 1")
        + job("c", more=EVERYWHERE + '\nformerly = "old"')
    )  # fmt: skip
    assert [(problem.code, problem.key) for problem in found] == [
        ("E122", "jobs.a.formerly[0]"),
        ("E104", "jobs.b.timeout"),
        ("E122", "jobs.c.formerly"),
    ]
    assert found[2].message == 'the jobs "a" and "c" were both formerly "old"'
