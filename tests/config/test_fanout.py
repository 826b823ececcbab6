"""Layers of settings, fan-out over instances, identities from templates, placeholders."""

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta

import pytest

from erpsync.core.job import At, Cron, Every, Manual, RetryPolicy, Window
from erpsync.core.problem import Problem
from erpsync.core.secret import SecretReference
from tests.config.conftest import ACME, BETA, NIGHT, Load


def job(name: str = "orders", more: str = "") -> str:
    return f'[jobs.{name}]\nplugin = "mirror"\n{more}\n'


@pytest.mark.parametrize(
    ("selectors", "chosen"),
    [
        ('["acme"]', ["acme"]),
        ('"acme"', ["acme"]),
        ('["*"]', ["acme", "beta", "demo-1"]),
        ('["tag:live"]', ["acme", "beta"]),
        ('["tag:live", "!tag:big"]', ["acme"]),
        ('["!demo-*"]', ["acme", "beta"]),
        ('["acme", "demo-?", "!acme"]', ["demo-1"]),
    ],
)
def test_selectors_choose_instances(load: Load, selectors: str, chosen: list[str]) -> None:
    """Names, globs and tags are united, "!" leaves out, and only "!" starts from all."""
    demo = '[instances.demo-1]\nurl = "https://demo.my.erp.net"\n'
    configuration = load(ACME + BETA + demo + job(more=f"instances = {selectors}"))
    assert list(configuration.jobs) == [f"orders@{name}" for name in chosen]


def test_a_template_becomes_one_identity_for_each_instance_that_uses_it(load: Load) -> None:
    """The identity's texts are expanded for its instance, and unused instances get none."""
    configuration = load(
        ACME + BETA + NIGHT + job(more='identity = "night"\ninstances = ["acme"]')
        + job("late", 'identity = "night"\ninstances = ["acme"]')
    )  # fmt: skip
    assert list(configuration.identities) == ["night@acme"]
    identity = configuration.identities["night@acme"]
    assert identity.instance == "acme"
    assert identity.client_secret == (SecretReference("secret", ("acme.night",)),)
    assert {each.identity for each in configuration.jobs.values()} == {"night@acme"}


def test_a_job_without_instances_runs_at_its_identitys(load: Load) -> None:
    """It keeps its plain name, takes the instance's zone and what the instance changes in it."""
    text = (
        ACME + 'timezone = "Europe/Sofia"\njobs.orders = { timeout = "5m" }\n'
        + NIGHT + 'instance = "acme"\n' + job(more='identity = "night"')
    )  # fmt: skip
    orders = load(text).jobs["orders"]
    assert (orders.instance, orders.identity) == ("acme", "night")
    assert (orders.timezone, orders.timeout) == ("Europe/Sofia", timedelta(minutes=5))


def test_a_job_needs_neither_identity_nor_instance(load: Load) -> None:
    """A plugin that calls something public stands alone, and is started by hand without a schedule."""
    orders = load(job()).jobs["orders"]
    assert (orders.identity, orders.instance, orders.schedules) == (None, None, (Manual(),))


def test_the_nearer_layer_wins_key_by_key(load: Load) -> None:
    """Tables merge, everything else replaces: [defaults], then the job, then the instance's changes."""
    configuration = load(
        '[defaults]\ntimeout = "1m"\ngrace = "1m"\nspread = "1m"\ntags = ["a", "b"]\n'
        'retry = { attempts = 5, backoff = "5s" }\n'
        'with = { page_size = 1, select = ["Id"], target = { table = "t" } }\n'
        + job(more='instances = ["*"]\ngrace = "2m"\nspread = "2m"\nretry = { backoff = "6s" }\n')
        + '[jobs.orders.with]\npage_size = 2\ntarget = { url = "sqlite:///${instance}.db" }\n'
        + ACME
        + 'jobs.orders = { spread = "3m", tags = ["c"], with = { page_size = 3, select = [] } }\n'
        + BETA
    )
    acme, beta = configuration.jobs["orders@acme"], configuration.jobs["orders@beta"]
    assert [acme.timeout, acme.grace, acme.spread] == [timedelta(minutes=n) for n in (1, 2, 3)]
    assert acme.tags == {"c"}
    assert beta.tags == {"a", "b"}
    assert acme.retry == RetryPolicy(attempts=5, backoff=timedelta(seconds=6))
    assert acme.settings == {
        "page_size": 3,
        "select": [],
        "target": {"table": "t", "url": "sqlite:///acme.db"},
    }
    assert beta.settings["page_size"] == 2


def test_an_instance_leaves_a_job_out(load: Load) -> None:
    """enabled = false of an instance removes the job there; of the definition it stays, switched off."""
    configuration = load(
        job(more='instances = ["*"]\nenabled = false') + ACME + "jobs.orders.enabled = false\n" + BETA
    )
    assert {name: each.enabled for name, each in configuration.jobs.items()} == {"orders@beta": False}


@pytest.mark.parametrize(
    ("zones", "expected"),
    [
        ({}, "UTC"),
        ({"daemon": "Asia/Tokyo"}, "Asia/Tokyo"),
        ({"daemon": "Asia/Tokyo", "defaults": "Asia/Dubai"}, "Asia/Dubai"),
        ({"defaults": "Asia/Dubai", "instance": "Europe/Sofia"}, "Europe/Sofia"),
        ({"instance": "Europe/Sofia", "job": "Europe/Rome"}, "Europe/Rome"),
        ({"job": "Europe/Rome", "override": "Europe/Oslo"}, "Europe/Oslo"),
    ],
)
def test_the_nearest_time_zone_holds(load: Load, zones: dict[str, str], expected: str) -> None:
    """Change of an instance, job, instance, [defaults], daemon, UTC."""

    def zone(where: str) -> str:
        return f'timezone = "{zones[where]}"\n' if where in zones else ""

    override = f"jobs.orders = {{ {zone('override').strip()} }}\n"
    text = "[daemon]\n" + zone("daemon") + "[defaults]\n" + zone("defaults")
    text += job(more='instances = ["acme"]') + zone("job") + ACME + zone("instance") + override
    configuration = load(text)
    assert configuration.jobs["orders@acme"].timezone == expected


def test_placeholders_are_expanded_in_texts_only(load: Load) -> None:
    """Values change, keys do not; two dollars keep one."""
    configuration = load(
        ACME
        + 'vars = { company = "main-${instance}", page = "1" }\n'
        + NIGHT
        + job(more='identity = "night"\ninstances = ["acme"]\ntimeout = "${vars.page}h"\n')
        + '[jobs.orders.with]\n"${job}" = ["${job} ${identity}", 1, { x = "${vars.company}" }]\nkept = "$${x} $5"\n'
    )
    orders = configuration.jobs["orders@acme"]
    assert orders.timeout == timedelta(hours=1)
    assert orders.settings == {"${job}": ["orders night", 1, {"x": "main-acme"}], "kept": "${x} $5"}


def test_schedules_have_many_forms(load: Load) -> None:
    """A list is the union of its elements; instants become UTC."""
    orders = load(
        job(
            more='schedule = ["@daily", " 0 15 2 * * * ", { cron = "1 1 * * *", timezone = "Europe/Sofia",'
            ' dst = "skip" },'
            ' { every = "15m", offset = "2m" }, { at = 2026-12-31T23:00:00+02:00 }, "manual"]'
        )
    ).jobs["orders"]
    assert orders.schedules == (
        Cron("@daily"),
        Cron("0 15 2 * * *"),
        Cron("1 1 * * *", "Europe/Sofia", "skip"),
        Every(timedelta(minutes=15), timedelta(minutes=2)),
        At(datetime(2026, 12, 31, 21, tzinfo=UTC)),
        Manual(),
    )


def test_every_key_of_a_job_reaches_it(load: Load) -> None:
    """What the file says is what the job has."""
    orders = load(
        job(
            more='description = "d"\ndst = "literal"\nstart = 2026-01-01T00:00:00Z\nend = 2027-01-01T00:00:00Z\n'
            'catch_up = "all"\ncatch_up_window = "2d"\ncatch_up_limit = 3\noverlap = "allow"\npriority = -1\n'
            'isolation = "process"\nmemory = "512MiB"\nrepeatable = true\nmax_failed = 7\n'
            'on_blackout = "postpone"\nstart_by = "2h"\ndue_by = "06:30"\nexpected_duration = "20m"\n'
            'window = { from = "22:00", to = "06:00" }\nretry = { timed_out = true }'
        )
    ).jobs["orders"]
    assert (orders.description, orders.dst, orders.overlap, orders.priority) == ("d", "literal", "allow", -1)
    assert (orders.start, orders.end) == (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    assert (orders.catch_up, orders.catch_up_window, orders.catch_up_limit) == ("all", timedelta(days=2), 3)
    assert (orders.isolation, orders.memory, orders.repeatable) == ("process", 512 << 20, True)
    assert (orders.max_failed, orders.retry.timed_out) == (7, True)
    assert (orders.on_blackout, orders.start_by, orders.due_by) == (
        "postpone", timedelta(hours=2), time(6, 30)
    )  # fmt: skip
    assert orders.expected_duration == timedelta(minutes=20)
    assert orders.window == Window(time(22), time(6), "finish")


def test_a_window_merges_like_every_table(load: Load) -> None:
    """An instance may close earlier and leave the rest to the job."""
    window = 'window = { from = "22:00", to = "06:00", at_end = "checkpoint" }'
    configuration = load(
        job(more=f'instances = ["*"]\n{window}') + ACME + 'jobs.orders.window.to = "04:30"\n'
    )
    assert configuration.jobs["orders@acme"].window == Window(time(22), time(4, 30), "checkpoint")


@pytest.mark.parametrize("overlap", ["skip", "queue", "replace", "allow"])
def test_overlap_has_four_words(load: Load, overlap: str) -> None:
    """Each reaches the job."""
    assert load(job(more=f'overlap = "{overlap}"')).jobs["orders"].overlap == overlap


def test_every_key_of_an_instance_and_an_identity_reaches_it(load: Load) -> None:
    """What the file says is what they have; a server that is not ERP.net has an issuer and its API's origins."""
    configuration = load(
        '[instances.other]\nkind = "oidc"\nissuer = "https://id.example"\napi = "https://api.example/"\n'
        'license_slots = 2\nmax_runs = 4\naccess = "read"\nca_file = "ca.pem"\nproxy = "http://proxy:3128"\n'
        'connect_timeout = "1s"\nread_timeout = "2s"\nrate = "300/m"\n'
        '[identities.night]\ninstance = "other"\nclient_id = "x"\n'
        'client_secret = [{ env = "A" }, { command = ["b", "c"] }]\n'
        'grant = "client_credentials"\nscope = "read update"\nauth_method = "client_secret_basic"\n'
        'basic_encoding = "raw"\naudience = "a"\nresource = "r"\nextra = { x = "y" }\n',
        {"ca.pem": ""},
    )
    other, night = configuration.instances["other"], configuration.identities["night"]
    assert (other.kind, other.issuer, other.api) == ("oidc", "https://id.example", ("https://api.example/",))
    assert (other.license_slots, other.max_runs, other.access, other.rate) == (2, 4, "read", 5.0)
    assert other.ca_file == configuration.path.parent / "ca.pem"
    assert (other.proxy, other.connect_timeout, other.read_timeout) == (
        "http://proxy:3128",
        timedelta(seconds=1),
        timedelta(seconds=2),
    )
    assert night.client_secret == (SecretReference("env", ("A",)), SecretReference("command", ("b", "c")))
    assert (night.scope, night.auth_method, night.basic_encoding) == (
        ("read", "update"),
        "client_secret_basic",
        "raw",
    )
    assert (night.audience, night.resource, night.extra) == ("a", ("r",), {"x": "y"})


def test_a_fault_of_one_definition_is_told_once(load: Load, problems: Callable[..., list[Problem]]) -> None:
    """However many instances it is fanned out over."""
    found = problems(ACME + BETA + job(more='instances = ["*"]\ntimeout = "soon"'))
    assert [(problem.code, problem.key) for problem in found] == [("E105", "jobs.orders.timeout")]


def test_a_fault_is_told_where_its_layer_stands(load: Load, problems: Callable[..., list[Problem]]) -> None:
    """A value of [defaults] or of an instance is not blamed on the job."""
    found = problems(
        "[defaults]\ngrace = 1\n" + job(more='instances = ["*"]') + ACME + "jobs.orders.spread = 2\n" + BETA
    )
    assert [problem.key for problem in found] == ["defaults.grace", "instances.acme.jobs.orders.spread"]


def test_a_wrong_instance_does_not_hide_the_faults_of_its_jobs(
    load: Load, problems: Callable[..., list[Problem]]
) -> None:
    """All problems are told at once, and none that only follows from another."""
    found = problems(
        ACME + "license_slots = 0\n" + NIGHT + 'scop = "x"\n'
        + job(more='identity = "night"\ninstances = ["tag:live"]\ntimeout = 1')
    )  # fmt: skip
    assert [problem.key for problem in found] == [
        "instances.acme.license_slots",
        "identities.night.scop",
        "jobs.orders.timeout",
    ]


def test_no_selector_selects_nothing(load: Load) -> None:
    """An empty list is not "all"; the job runs nowhere, which is a warning."""
    configuration = load(ACME + job(more="instances = []"))
    assert configuration.jobs == {}
    assert [(warning.code, warning.key) for warning in configuration.problems] == [
        ("W105", "jobs.orders.instances")
    ]


def test_an_exclusion_may_match_nothing(load: Load) -> None:
    """It stands there for instances to come."""
    assert load(ACME + job(more='instances = ["tag:live", "!demo-*", "!tag:old"]')).problems == ()
