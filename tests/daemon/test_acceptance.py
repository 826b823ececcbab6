"""Which configuration a daemon goes on with when the files are broken: however they are broken."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from erpsync.core.clock import SystemClock
from erpsync.core.errors import ConfigError
from erpsync.core.event import silent
from erpsync.core.redaction import Redactor
from erpsync.daemon.acceptance import accept, accept_or_go_back
from erpsync.daemon.compose import compose
from erpsync.daemon.reload import Reload

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
async def reload(tmp_path: Path) -> AsyncIterator[Reload]:
    """Of a daemon that has accepted the good files."""
    (tmp_path / "erpsync.toml").write_text(GOOD)
    accepted = accept(tmp_path / "erpsync.toml", {})
    house = compose(accepted.configuration, Redactor(), SystemClock(), silent)
    reload = Reload(house, accepted)
    await reload.keep()
    yield reload
    await house.stop()
    await house.close()


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
