"""What `jobs show` needs, and placing problems that other rooms find."""

import json

from erpsync.config.configuration import Origin
from tests.config.conftest import ACME, NIGHT, Load

TEXT = (
    "[defaults]\n"
    'timeout = "90m"\n'
    'retry.backoff = "1m"\n'
    "[jobs.orders]\n"
    'plugin = "mirror"\n'
    'identity = "night"\n'
    'instances = ["acme"]\n'
    'schedule = ["15 2 * * *", { every = "90m" }]\n'
    "[jobs.orders.with]\n"
    'target = { url = "sqlite:///${instance}.db", table = "orders" }\n'
    'columns = [{ name = "Id" }, { name = "Name" }]\n' + NIGHT + ACME + 'timezone = "Europe/Sofia"\n'
    'jobs.orders = { with = { page_size = 500, target.table = "o" } }\n'
)


def test_every_key_has_its_origin(load: Load) -> None:
    """File, line and column where it was given, and the layer; a default has no place."""
    configuration = load(TEXT)
    file = str(configuration.path)
    origins = configuration.origins("orders@acme")
    assert origins["timeout"] == Origin("defaults", file, 2, 1)
    assert origins["retry.backoff"] == Origin("defaults", file, 3, 7)
    assert origins["retry.attempts"] == Origin("default")
    assert origins["plugin"] == Origin("job", file, 5, 1)
    assert origins["with.target.url"] == Origin("job", file, 10, 12)
    assert origins["with.target.table"] == Origin("instance", file, 19, 50)
    assert origins["with.page_size"] == Origin("instance", file, 19, 26)
    assert origins["timezone"] == Origin("instance", file, 18, 1)


def test_the_document_is_the_whole_effective_job(load: Load) -> None:
    """Keys of the file, durations as exact text, defaults included; each key has an origin."""
    configuration = load(TEXT)
    document = configuration.document(configuration.jobs["orders@acme"])
    assert document["schedule"] == [{"cron": "15 2 * * *"}, {"every": "1h30m"}]
    assert (document["timeout"], document["catch_up_window"], document["spread"]) == ("1h30m", "1d", "0s")
    assert (document["identity"], document["timezone"]) == ("night@acme", "Europe/Sofia")
    retry = document["retry"]
    assert isinstance(retry, dict)
    assert retry["backoff"] == "1m"
    settings = document["with"]
    assert isinstance(settings, dict)
    assert settings["target"] == {"url": "sqlite:///acme.db", "table": "o"}
    keys = {key.split(".")[0] for key in configuration.origins("orders@acme")}
    assert keys == document.keys() - {"name", "definition", "instance"}


def test_the_document_tells_times_as_the_file_does(load: Load) -> None:
    """Calendars by name, a window and a time of day as text, other jobs by their full names; each with its place."""
    configuration = load(
        '[calendars.bulgaria]\nholidays = "BG"\n[pools.dock]\nslots = 2\n'
        '[jobs.first]\nplugin = "mirror"\ninstances = ["acme"]\n'
        '[jobs.orders]\nplugin = "mirror"\ninstances = ["acme"]\nformerly = ["old"]\nblackout = "bulgaria"\n'
        'window = { from = "22:00", to = "06:00" }\nstart_by = "90m"\ndue_by = "06:30"\npool = "dock"\n'
        'schedule = { after = "first", on = ["skipped", "failed"] }\n' + ACME
    )
    document, origins = (
        configuration.document(configuration.jobs["orders@acme"]),
        configuration.origins("orders@acme"),
    )
    assert document["schedule"] == [{"after": ["first@acme"], "on": ["failed", "skipped"]}]
    assert (document["blackout"], document["formerly"], document["pool"]) == (
        ["bulgaria"],
        ["old@acme"],
        "dock",
    )
    assert document["window"] == {"from": "22:00", "to": "06:00", "at_end": "finish"}
    assert (document["start_by"], document["due_by"], document["expected_duration"]) == (
        "1h30m",
        "06:30",
        None,
    )
    assert json.loads(json.dumps(document)) == document
    file = str(configuration.path)
    assert origins["window.from"] == Origin("job", file, 13, 12)
    assert origins["window.at_end"] == Origin("default")
    assert origins["blackout"] == Origin("job", file, 12, 1)
    assert origins["formerly"] == Origin("job", file, 11, 1)


def test_the_daemons_zone_is_an_origin_too(load: Load) -> None:
    """From the file, or from the variable that replaced it."""
    text = '[daemon]\ntimezone = "Europe/Sofia"\n[jobs.orders]\nplugin = "mirror"'
    configuration = load(text)
    assert configuration.origins("orders")["timezone"] == Origin("defaults", str(configuration.path), 2, 1)
    configuration = load(text, environ={"ERPSYNC_DAEMON__TIMEZONE": "Europe/Rome"})
    assert configuration.origins("orders")["timezone"] == Origin("environment", "ERPSYNC_DAEMON__TIMEZONE")


def test_problems_of_other_rooms_find_their_place(load: Load) -> None:
    """At the key in the layer that gave it, an element of a list, or the nearest table around it."""
    configuration = load(TEXT)

    def place(key: str) -> tuple[int | None, int | None, str]:
        problem = configuration.place("orders@acme", key, code="E301", message="m", help="h")
        assert (problem.code, problem.severity, problem.file) == ("E301", "error", str(configuration.path))
        return problem.line, problem.column, problem.key

    assert place("schedule") == (8, 1, "jobs.orders.schedule")
    assert place("schedule.1.every") == (8, 29, "jobs.orders.schedule[1].every")
    assert place("with.columns[1].name") == (11, 31, "jobs.orders.with.columns[1].name")
    assert place("with.page_size") == (19, 26, "instances.acme.jobs.orders.with.page_size")
    assert place("with.missing") == (19, 17, "instances.acme.jobs.orders.with")
    assert place("grace") == (4, 7, "jobs.orders")
    assert place("") == (4, 7, "jobs.orders")
    warning = configuration.place("orders", "plugin", code="E301", message="m", severity="warning")
    assert (warning.severity, warning.line) == ("warning", 5)
