"""The wheel, installed where nothing else of this repository is, gives a working erpsync."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
READY_MADE = {"mirror", "http_call"}


def build(target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv that holds the wheel alone and finds our dependencies, not our checkout, in the venv of this test."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    base_python = getattr(sys, "_base_executable", sys.executable)
    install = [
        base_python,
        "-m",
        "pip",
        "--python",
        folder / "bin" / "python",
        "install",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    subprocess.run(install, check=True, capture_output=True)
    # Such a line extends sys.path only: the .pth file of our editable install, in that folder, is not read.
    (site_packages(folder) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def site_packages(environment: Path) -> Path:
    return next(environment.glob("lib/python3.*/site-packages"))


def erpsync(environment: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the installed command away from the repository, with nothing of our surroundings but the variables."""
    command = [environment / "bin" / "erpsync", *arguments]
    surroundings = {"PATH": os.defpath, "HOME": str(environment), **variables}
    return subprocess.run(
        command, cwd=environment, env=surroundings, capture_output=True, text=True, check=False
    )


def wheel_names(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        yield from archive.namelist()


def test_the_wheel_puts_one_package_into_site_packages(wheel: Path) -> None:
    """Beside erpsync and its metadata there is no `jobs`, `config`, `tests` or anything else at the top."""
    top_levels = {name.split("/")[0] for name in wheel_names(wheel)}
    assert {re.sub(r"-[\d.]+\.dist-info", "", name) for name in top_levels} == {"erpsync"}


def test_the_wheel_carries_each_ready_made_plugin_without_its_tests(wheel: Path) -> None:
    """A plugin's folder comes whole: code, README and example; tests stay at home."""
    names = set(wheel_names(wheel))
    for plugin in READY_MADE:
        files = {"plugin.py", "README.md", "example.toml"}
        assert {f"erpsync/jobs/{plugin}/{file}" for file in files} <= names
    assert not [name for name in names if Path(name).name.startswith("test_")]


def test_the_wheel_carries_every_module_and_migration(wheel: Path) -> None:
    """What stands under erpsync/ in the repository stands in the wheel."""
    modules = {
        str(file.relative_to(REPOSITORY))
        for file in (REPOSITORY / "erpsync").rglob("*")
        if file.suffix in {".py", ".mako", ".ini", ".typed"} and not file.name.startswith("test_")
    }
    assert modules
    assert modules <= set(wheel_names(wheel))


def test_the_wheel_of_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    """Who builds from the source archive gets what we ship."""
    archive = build("sdist", tmp_path / "sdist")
    with tarfile.open(archive) as source:
        source.extractall(tmp_path / "source", filter="data")
    folder = next((tmp_path / "source").iterdir())
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        tmp_path / "again",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    assert set(wheel_names(next((tmp_path / "again").iterdir()))) == set(wheel_names(wheel))


def test_the_installed_command_tells_its_version(environment: Path, wheel: Path) -> None:
    """`erpsync --version` prints the version that the wheel's name carries."""
    done = erpsync(environment, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[-1] == wheel.name.split("-")[1]


def test_the_version_is_told_without_loading_an_engine(environment: Path) -> None:
    """`--version` stays quick because it imports neither the command line's libraries nor any other."""
    done = erpsync(environment, "--version", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    engines = {
        "typer",
        "rich",
        "pydantic",
        "sqlalchemy",
        "alembic",
        "httpx2",
        "fastapi",
        "apscheduler",
        "authlib",
    }
    assert done.returncode == 0
    assert "erpsync" in imported
    assert not imported & (engines | {"asyncio", "structlog", "msgspec", "importlib_metadata"})


def test_the_installed_command_lists_the_ready_made_plugins(environment: Path) -> None:
    """`erpsync plugins` finds them by entry point, each loads, and none comes from the checkout."""
    done = erpsync(environment, "plugins", "--format", "json")
    assert done.returncode == 0, done.stderr
    plugins = {plugin["name"]: plugin for plugin in json.loads(done.stdout)}
    assert set(plugins) >= READY_MADE
    assert not [name for name in READY_MADE if plugins[name].get("error")]
    assert str(REPOSITORY / "jobs") not in done.stdout
