"""Comparing configurations, and reading them from what was kept of the files."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from erpsync.config.configuration import Configuration
from erpsync.config.difference import Difference, difference
from erpsync.config.load import load_configuration
from erpsync.config.section import DaemonSection
from erpsync.config.shelf import Recording, keep, kept
from erpsync.core.errors import ConfigError

NOW = datetime(2026, 11, 22, tzinfo=UTC)
START = '[daemon]\ndata = "data"\ninclude = ["jobs.d/*.toml"]\n'
JOB = '[jobs.{name}]\nplugin = "mirror"\nschedule = "0 3 * * *"\n'
NOTHING = Difference((), (), {}, {}, {}, (), (), ())


def load(folder: Path, text: str) -> Configuration:
    folder.mkdir(exist_ok=True)
    (folder / "erpsync.toml").write_text(text)
    return load_configuration(folder / "erpsync.toml", {})


def test_jobs_are_added_removed_changed_and_renamed(tmp_path: Path) -> None:
    """Each job is told once, changed ones with the keys of their public form; comments and order do not matter."""
    one, two, three = (JOB.format(name=name) for name in ("one", "two", "three"))
    before = load(tmp_path, START + one + two + three)
    renamed = three.replace("[jobs.three]", '[jobs.drei]\nformerly = ["three"]')
    after = load(
        tmp_path, START + "# a word\n" + two.replace("0 3", "0 4") + renamed + JOB.format(name="four")
    )
    found = difference(before, after)
    assert (found.added, found.removed, found.renamed) == (("four",), ("one",), {"three": "drei"})
    assert [change.key for change in found.changed["two"]] == ["schedule"]
    assert list(found.changed) == ["two"]
    assert difference(before, load(tmp_path, START + three + two + one)) == NOTHING


def test_what_runs_depend_on_and_what_needs_a_restart(tmp_path: Path) -> None:
    """A calendar's days change the jobs that use it; instances and identities are connected anew; some keys wait."""
    box = '[instances.box]\nurl = "https://box.my.erp.net"\n'
    days = '[calendars.off]\ndates = ["2026-12-2{day}"]\n'
    quiet = JOB.format(name="quiet") + 'blackout = "off"\n'
    before = load(tmp_path, START + box + days.format(day=4) + quiet)
    after = load(
        tmp_path,
        START.replace('"data"', '"elsewhere"')
        + box.replace("box.my", "other.my")
        + days.format(day=5)
        + quiet
        + "[metrics]\nlisten = false\n",
    )
    found = difference(before, after)
    assert [change.key for change in found.changed["quiet"]] == ["blackout"]
    assert found.connected == ("box",)
    assert found.restart == ("daemon.data", "daemon.state", "control", "metrics")


DAEMON = {  # each key of [daemon]: what it is written as, and where a change of it is told
    "data": ('data = "other"', {"daemon.data", "daemon.state"}),
    "state": (None, set()),  # there is only one kind yet
    "timezone": ('timezone = "Europe/Sofia"', {"daemon.timezone"}),
    "plugins": ('plugins = ["more"]', {"daemon.plugins"}),
    "include": (None, set()),  # what the files say is what changes
    "max_runs": ("max_runs = 3", {"daemon.max_runs"}),
    "drain": ('drain = "1s"', {"daemon.drain"}),
    "seal_key": ('seal_key = { env = "SEAL" }', {"daemon.seal_key"}),
    "log": ('log = { level = "debug" }', {"daemon.log"}),
    "retention": (
        'retention = { runs = "2d", logs = "1d", log_size = "1KiB" }',
        {"daemon.retention.runs", "daemon.retention.logs", "daemon.retention.log_size"},
    ),
}


@pytest.mark.parametrize("key", DaemonSection.model_fields)
def test_no_change_of_the_daemon_is_silent(tmp_path: Path, key: str) -> None:
    """Each key is either taken over and shown, or named as one that needs a restart."""
    text, told = DAEMON[key]
    start = "[daemon]\ninclude = []\n" + ("" if key == "data" else 'data = "data"\n')
    found = difference(load(tmp_path, start), load(tmp_path, start + (text or "") + "\n"))
    assert {change.key for change in found.settings} | {*found.restart} - {"control"} == told


def test_what_was_kept_is_read_again_whatever_becomes_of_the_files(tmp_path: Path) -> None:
    """Included files, too, are as they were; a configuration elsewhere has nothing kept here."""
    (tmp_path / "jobs.d").mkdir()
    (tmp_path / "jobs.d" / "a.toml").write_text(JOB.format(name="a"))
    path = tmp_path / "erpsync.toml"
    path.write_text(START)
    recording = Recording()
    before = load_configuration(path, {}, shelf=recording)
    keep(recording, path, NOW, before.daemon.data)
    (tmp_path / "jobs.d" / "a.toml").unlink()
    (tmp_path / "jobs.d" / "b.toml").write_text(JOB.format(name="b"))
    path.write_text("broken [")
    with pytest.raises(ConfigError):
        load_configuration(path, {})
    last = kept(path, before.daemon.data)
    assert last is not None
    assert last.accepted_at == NOW
    assert difference(before, load_configuration(path, {}, shelf=last)) == NOTHING
    assert (before.daemon.data / "accepted.json").stat().st_mode & 0o077 == 0
    assert kept(tmp_path / "other.toml", before.daemon.data) is None
    (before.daemon.data / "accepted.json").write_text('{"path": 3')
    assert kept(path, before.daemon.data) is None
    (before.daemon.data / "accepted.json").unlink()
    os.mkfifo(before.daemon.data / "accepted.json")
    assert kept(path, before.daemon.data) is None
