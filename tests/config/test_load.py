"""Files and includes, environment, paths, and finding the file."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from erpsync.config.find import find_configuration
from erpsync.config.load import data_folder, load_configuration
from erpsync.config.shelf import LARGEST
from erpsync.core.errors import ConfigError
from erpsync.core.problem import Problem
from tests.config.conftest import ACME, NIGHT, Load

SAMPLE = Path(__file__).parents[2] / "config" / "erpsync.toml"


def test_the_sample_loads_without_a_warning() -> None:
    """What we give people to start from is right, and has a job of each ready-made plugin."""
    configuration = load_configuration(SAMPLE, {"HOME": "/nowhere"})
    assert configuration.problems == ()
    assert {job.plugin for job in configuration.jobs.values()} == {"mirror", "http_call"}


def test_included_files_count_as_one_configuration(load: Load) -> None:
    """A file that two patterns match is read once; byte order marks and Windows line ends are fine."""
    configuration = load(
        '[daemon]\ninclude = ["customers.d/*.toml", "**/acme.toml", "jobs.toml"]\n',
        {
            "customers.d/acme.toml": "\ufeff" + ACME.replace("\n", "\r\n"),
            "customers.d/ignored.txt": "no TOML",
            "jobs.toml": '[jobs.orders]\nplugin = "mirror"\ninstances = ["acme"]',
        },
    )
    assert list(configuration.jobs) == ["orders@acme"]


def test_files_to_read_are_relative_to_the_file_that_names_them(load: Load, tmp_path: Path) -> None:
    """Secret files, certificate files and plugin folders; files to write are under `data`."""
    configuration = load(
        '[daemon]\ndata = "var"\nplugins = ["own", "/opt/more"]\ninclude = ["d/*.toml"]\n'
        '[secrets]\nfrom = ["s", "env:X_"]',
        {
            "d/acme.toml": ACME
            + 'ca_file = "ca.pem"\n'
            + NIGHT.replace('secret = "${instance}', 'file = "${instance}')
            + '[jobs.orders]\nplugin = "mirror"\nidentity = "night"\ninstances = ["acme"]\n'
            + 'with = { password = { file = "db" }, keys = [{ file = "/etc/key" }] }',
            "d/ca.pem": "",
        },
    )
    assert configuration.daemon.data == tmp_path / "var"
    assert configuration.daemon.state == tmp_path / "var" / "erpsync.db"
    assert configuration.daemon.plugins == (tmp_path / "own", Path("/opt/more"))
    assert configuration.secrets.from_ == (str(tmp_path / "s"), "env:X_")
    assert configuration.instances["acme"].ca_file == tmp_path / "d" / "ca.pem"
    assert configuration.identities["night@acme"].client_secret[0].value == (
        str(tmp_path / "d" / "acme.night"),
    )
    assert configuration.jobs["orders@acme"].settings == {
        "password": {"file": str(tmp_path / "d" / "db")},
        "keys": [{"file": "/etc/key"}],
    }


def test_a_folder_named_plugins_beside_the_file_is_used_unasked(load: Load, tmp_path: Path) -> None:
    """Without `plugins` the folder counts where there is one."""
    assert load("").daemon.plugins == ()
    (tmp_path / "plugins").mkdir()
    assert load("").daemon.plugins == (tmp_path / "plugins",)


def test_sections_have_defaults(load: Load) -> None:
    """An empty file is a configuration."""
    configuration = load("")
    daemon = configuration.daemon
    assert (daemon.timezone, daemon.max_runs, daemon.drain) == ("UTC", 16, timedelta(seconds=60))
    assert (daemon.log_format, daemon.log_level) == ("auto", "info")
    assert (configuration.control.mode, configuration.control.group) == (0o660, None)
    assert configuration.metrics.listen == ("127.0.0.1", 9465)


def test_the_environment_goes_over_the_files(load: Load) -> None:
    """ERPSYNC_SECTION__KEY, tables one level deeper, lists as JSON."""
    configuration = load(
        '[daemon]\nmax_runs = 1\nlog = { level = "info", format = "json" }\n',
        environ={
            "ERPSYNC_DAEMON__DATA": "/srv/erpsync",
            "ERPSYNC_DAEMON__MAX_RUNS": "3",
            "ERPSYNC_DAEMON__LOG__LEVEL": "debug",
            "ERPSYNC_DAEMON__PLUGINS": '["/a", "/b"]',
            "ERPSYNC_CONTROL__MODE": "0600",
            "ERPSYNC_METRICS__LISTEN": "false",
            "ERPSYNC_SECRETS__FROM": '["env:ERPSYNC_MY_"]',
            "ERPSYNC_MY_KEY": "v",
            "ERPSYNC_SECRET_ACME_NIGHT": "v",
            "ERPSYNC_CONFIG": "x",
        },
    )
    daemon = configuration.daemon
    assert (daemon.data, daemon.max_runs) == (Path("/srv/erpsync"), 3)
    assert (daemon.log_level, daemon.log_format) == ("debug", "json")
    assert daemon.plugins == (Path("/a"), Path("/b"))
    assert (configuration.control.mode, configuration.metrics.listen) == (0o600, None)
    assert configuration.secrets.from_ == ("env:ERPSYNC_MY_",)
    assert configuration.problems == ()


def test_the_environment_decides_what_is_included(load: Load) -> None:
    """`include` can be given as a variable, too."""
    environ = {"ERPSYNC_DAEMON__INCLUDE": '["acme.toml"]'}
    assert list(load("", {"acme.toml": ACME}, environ).instances) == ["acme"]


def test_an_unknown_variable_is_a_warning(load: Load) -> None:
    """With the name that was meant."""
    (warning,) = load("", environ={"ERPSYNC_DAEMON__DAT": "/x"}).problems
    assert (warning.code, warning.key, warning.help) == (
        "W102",
        "ERPSYNC_DAEMON__DAT",
        'did you mean "ERPSYNC_DAEMON__DATA"?',
    )


@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [
        ("ERPSYNC_DAEMON__MAX_RUNS", "many", "E104"),
        ("ERPSYNC_DAEMON__INCLUDE", "[a", "E104"),
        ("ERPSYNC_DAEMON__DRAIN", "soon", "E105"),
        ("ERPSYNC_DAEMON__LOG__LEVEL", "loud", "E105"),
    ],
)
def test_a_wrong_variable_is_named(
    problems: Callable[..., list[Problem]], variable: str, value: str, code: str
) -> None:
    """The variable is the key, and there is no file to blame."""
    (problem,) = problems('[daemon]\nmax_runs = 1\ndrain = "1s"', None, {variable: value})
    assert (problem.code, problem.key, problem.file) == (code, variable, None)


def test_a_table_of_two_files_names_both(problems: Callable[..., list[Problem]], tmp_path: Path) -> None:
    """The second is told where the first stands."""
    (problem,) = problems(ACME + '[daemon]\ninclude = ["more.toml"]', {"more.toml": "\n" + ACME})
    assert (problem.code, problem.file, problem.line) == ("E107", str(tmp_path / "more.toml"), 2)
    assert f"{tmp_path / 'erpsync.toml'}:1" in problem.message


def test_an_unreadable_file_does_not_hide_the_others(
    problems: Callable[..., list[Problem]], tmp_path: Path
) -> None:
    """Reading goes on with the next file."""
    found = problems(
        '[daemon]\ninclude = ["*.toml"]', {"a.toml": "[x", "b.toml": "[daemons]", "c.toml": "\\"}
    )
    assert [(problem.code, Path(problem.file or "").name) for problem in found] == [
        ("E102", "a.toml"),
        ("E103", "b.toml"),
        ("E102", "c.toml"),
    ]


def test_automatic_folders(tmp_path: Path) -> None:
    """systemd's folder first, a container's volume next, else the user's state folder."""
    nothing, mark, volume = tmp_path / "no", tmp_path / "mark", tmp_path / "data"
    mark.touch()
    home = {"HOME": "/home/me"}
    assert data_folder({**home, "STATE_DIRECTORY": "/var/lib/e:/x"}, marks=(mark,)) == Path("/var/lib/e")
    assert data_folder(home, marks=(mark,), volume=nothing) == Path("/home/me/.local/state/erpsync")
    volume.mkdir()
    assert data_folder(home, marks=(mark,), volume=volume) == volume
    assert data_folder({**home, "container": "podman"}, marks=(), volume=volume) == volume
    assert data_folder({"XDG_STATE_HOME": "/state"}, marks=(nothing,), volume=volume) == Path(
        "/state/erpsync"
    )


def test_the_socket_is_in_the_runtime_folder_or_under_data(load: Load, tmp_path: Path) -> None:
    """socket = "auto" follows systemd; a path is taken as it is."""
    state = {"STATE_DIRECTORY": "/var/lib/e"}
    assert load("", environ=state).control.socket == Path("/var/lib/e/control.sock")
    runtime = {**state, "RUNTIME_DIRECTORY": "/run/e"}
    assert load("", environ=runtime).control.socket == Path("/run/e/control.sock")
    assert load('[control]\nsocket = "my.sock"', environ=runtime).control.socket == tmp_path / "my.sock"


def test_finding_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, then $ERPSYNC_CONFIG, then the usual places; none is an error that lists them."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        find_configuration(None, {})
    assert "./config/erpsync.toml" in caught.value.problems[0].help
    Path("config").mkdir()
    Path("config/erpsync.toml").touch()
    assert find_configuration(None, {}) == Path("config/erpsync.toml")
    Path("erpsync.toml").touch()
    assert find_configuration(None, {}) == Path("erpsync.toml")
    assert find_configuration(None, {"ERPSYNC_CONFIG": "config/erpsync.toml"}) == Path("config/erpsync.toml")
    assert find_configuration(Path("erpsync.toml"), {"ERPSYNC_CONFIG": "gone.toml"}) == Path("erpsync.toml")
    for explicit, environ in ((Path("gone.toml"), {}), (None, {"ERPSYNC_CONFIG": "gone.toml"})):
        with pytest.raises(ConfigError) as caught:
            find_configuration(explicit, environ)
        assert "gone.toml" in caught.value.problems[0].message


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    """No file, no traceback."""
    with pytest.raises(ConfigError) as caught:
        load_configuration(tmp_path / "no.toml", {})
    assert [problem.code for problem in caught.value.problems] == ["E101"]


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, LARGEST + 1)


@pytest.mark.parametrize("included", [False, True])
@pytest.mark.parametrize(
    ("make", "words", "remedy"),
    [
        (_fifo, "no regular file", "into a file"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file", "into a file"),
        (Path.mkdir, "directory", "a file in it"),
        (lambda path: path.symlink_to(path.name), "symbolic links", "to a file"),
        (_huge, "more than 32 MiB", "include"),
    ],
)
def test_what_is_no_file_to_read_is_told_at_once(
    tmp_path: Path, included: bool, make: Callable[[Path], None], words: str, remedy: str
) -> None:
    """A pipe that nobody writes into, a device without end, a folder, too much: by its name, with the remedy."""
    path = main = tmp_path / "erpsync.toml"
    if included:
        main.write_text('[daemon]\ninclude = ["more.toml"]\n')
        path = tmp_path / "more.toml"
    make(path)
    with pytest.raises(ConfigError) as caught:
        load_configuration(main, {})
    (problem,) = caught.value.problems
    assert (problem.code, problem.file) == ("E101", str(path))
    assert words in problem.message
    assert remedy in problem.help


def test_a_device_that_is_named_is_found(tmp_path: Path) -> None:
    """That there is no such file would be wrong: what it is, is told when it is read."""
    _fifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe"):
        assert find_configuration(path, {}) == path


def test_files_are_not_asked_for_places_without_need(tmp_path: Path) -> None:
    """A configuration without a problem is never parsed for places; that keeps the start quick."""
    configuration = load_configuration(SAMPLE, {"HOME": os.fspath(tmp_path)})
    assert not any("_places" in vars(source) for source in configuration.files.owners.values())


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[daemon]\ndata = "~no-such-user-here/x"', "daemon.data"),
        ('[daemon]\nplugins = ["a", "b\\u0000"]', "daemon.plugins[1]"),
        ('[secrets]\nfrom = ["~no-such-user-here"]', "secrets.from[0]"),
        ('[control]\nsocket = "~no-such-user-here/s"', "control.socket"),
    ],
)
def test_a_path_that_cannot_be(problems: Callable[..., list[Problem]], text: str, key: str) -> None:
    """A home that is nobody's, or a NUL, is told at its place."""
    (problem,) = problems(text)
    assert (problem.code, problem.line, problem.key) == ("E105", 2, key)
