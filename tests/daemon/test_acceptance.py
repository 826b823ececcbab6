"""Which configuration a daemon goes on with when the files are broken: however they are broken."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from erpsync.config.load import load_configuration
from erpsync.core.clock import SystemClock
from erpsync.core.errors import ConfigError
from erpsync.core.event import silent
from erpsync.core.redaction import Redactor
from erpsync.daemon.acceptance import Accepted, accept, accept_or_go_back
from erpsync.daemon.check import machine_doubts
from erpsync.daemon.compose import Composition, compose
from erpsync.daemon.controls import DaemonControls
from erpsync.daemon.reload import Reload
from erpsync.observe.health import health_application
from erpsync.observe.metrics import Metrics

GOOD = """
[daemon]
data = "data"
[metrics]
listen = "127.0.0.1:0"
[control]
socket = "control.sock"
[jobs.get]
plugin = "http_call"
schedule = "15 2 * * *"
with = { url = "https://example.org/" }
"""
BROKEN = {
    "syntax": ('"15 2 * * *"', '"15 2 * *', "E1"),
    "unknown key": ("plugin =", "plugn =", "E1"),
    "time zone": ("[metrics]", 'timezone = "Mars/Olympus"\n[metrics]', "E1"),
    "cron": ('"15 2 * * *"', '"61 2 * * *"', "E301"),
    "socket too long": ('"control.sock"', f'"{"x" * 120}"', "E401"),
    "no socket": ('"control.sock"', '"erpsync.toml"', "E401"),
    "group": ("[jobs.get]", 'group = "no-such-group"\n[jobs.get]', "E401"),
    "a group that can be none": ("[jobs.get]", 'group = "\\u0000"\n[jobs.get]', "E"),
    "no name of a machine": ("127.0.0.1:0", f"{'x' * 70}:9465", "E402"),
    "address": ("127.0.0.1:0", "192.0.2.1:9465", "E402"),
}


@pytest.fixture
def accepted(tmp_path: Path) -> Accepted:
    (tmp_path / "erpsync.toml").write_text(GOOD)
    return accept(tmp_path / "erpsync.toml", {})


@pytest.fixture
async def house(accepted: Accepted) -> AsyncIterator[Composition]:
    made = compose(accepted.configuration, Redactor(), SystemClock(), silent)
    yield made
    await made.stop()
    await made.close()


@pytest.fixture
async def reload(house: Composition, accepted: Accepted) -> Reload:
    """Of a daemon that has accepted the good files."""
    reload = Reload(house, accepted)
    await reload.keep()
    return reload


@pytest.mark.parametrize("edit", BROKEN.values(), ids=BROKEN)
async def test_what_could_not_start_is_refused_and_what_was_accepted_goes_on(
    reload: Reload, edit: tuple[str, str, str]
) -> None:
    """By a reload, which keeps nothing of it, and by a start, which runs what was accepted last."""
    path, before = reload.accepted.configuration.path, reload.accepted
    good, bad, code = edit
    assert good in GOOD
    path.write_text(GOOD.replace(good, bad))
    with pytest.raises(ConfigError) as refusal:
        await reload("ann")
    errors = [problem.code for problem in refusal.value.problems if problem.severity == "error"]
    assert errors[0].startswith(code)
    assert reload.accepted is before

    started = accept_or_go_back(path, {})
    assert started.since is not None
    assert [problem.code for problem in started.refused if problem.severity == "error"] == errors
    assert started.configuration.jobs == before.configuration.jobs
    with pytest.raises(ConfigError):
        accept(path, {})


async def test_what_cannot_be_kept_is_told_with_its_remedy(house: Composition, accepted: Accepted) -> None:
    """A folder where the file should be."""
    heard: list[dict[str, object]] = []
    house.emit = lambda event, **fields: heard.append({"event": event, **fields})
    place = accepted.configuration.daemon.data / "accepted.json"
    place.mkdir()
    await Reload(house, accepted).keep()
    (told,) = heard
    assert told["event"] == "config.unkept"
    assert str(place) in str(told["hint"])


async def test_a_data_folder_of_two_configurations_is_doubted(reload: Reload, tmp_path: Path) -> None:
    """Who uses the folder that another configuration was accepted in is told of it, unless that one is gone."""
    path, second = reload.accepted.configuration.path, tmp_path / "second.toml"
    second.write_text(GOOD)
    (doubt,) = machine_doubts(load_configuration(second, {}))
    assert (doubt.code, str(path) in doubt.message, doubt.line) == ("W402", True, 3)
    assert machine_doubts(reload.accepted.configuration) == []
    path.unlink()
    assert machine_doubts(load_configuration(second, {})) == []


async def told(house: Composition, reload: Reload) -> tuple[float, float]:
    """What /metrics says: whether the last reload was successful, and whether what runs is stale."""
    controls = DaemonControls(house, reload)
    application = health_application(Metrics(controls.snapshot), controls.unready)
    transport = httpx2.ASGITransport(app=application)
    async with httpx2.AsyncClient(transport=transport, base_url="http://daemon") as http:
        lines = dict(line.rsplit(" ", 1) for line in (await http.get("/metrics")).text.splitlines())
    names = ("erpsync_config_last_reload_successful", "erpsync_config_stale")
    return tuple(float(lines[name]) for name in names)  # type: ignore[return-value]


async def test_metrics_tell_what_became_of_the_files(house: Composition, reload: Reload) -> None:
    """Refused: neither successful nor what runs; with a key that waits for a restart: successful, and stale."""
    path = reload.accepted.configuration.path
    assert await told(house, reload) == (1, 0)
    path.write_text(GOOD + "broken [")
    with pytest.raises(ConfigError):
        await reload("ann")
    assert await told(house, reload) == (0, 1)
    assert await told(house, Reload(house, accept_or_go_back(path, {}))) == (0, 1), "also from the start on"
    path.write_text(GOOD.replace("[metrics]", 'log = { level = "debug" }\n[metrics]'))
    await reload("ann")
    assert await told(house, reload) == (1, 1)
    path.write_text(GOOD)
    await reload("ann")
    assert await told(house, reload) == (1, 0)
