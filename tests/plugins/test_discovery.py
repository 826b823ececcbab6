"""Finding plugins: folders read without importing, entry points, dotted paths."""

import os
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from erpsync.core.errors import PluginLoadError
from erpsync.plugins.discovery import PluginCatalog
from erpsync.plugins.probe import fatal_imports

GOOD = '''
"""Stock."""
from erpsync import JobContext, JobResult, Settings, job

class Options(Settings):
    store: str

@job("stock-sync", repeatable=True)
def stock(ctx: JobContext[Options]) -> JobResult:
    """Bring stock over."""
    return ctx.result()
'''


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o644)
        file.parent.chmod(0o755)
    folder.chmod(0o755)
    return folder


def error_of(catalog: PluginCatalog, name: str) -> PluginLoadError:
    with pytest.raises(PluginLoadError) as caught:
        catalog.find(name)
    return caught.value


def test_a_plugin_in_a_folder_is_found_by_its_name(tmp_path: Path) -> None:
    """The name given to @job counts, not the file's; settings and kind come with it."""
    catalog = PluginCatalog([write(tmp_path, {"whatever.py": GOOD})])
    plugin = catalog.find("stock-sync")
    assert plugin.repeatable
    assert list(plugin.settings_type.model_fields) == ["store"]
    assert catalog.find("stock-sync") is plugin


def test_listing_imports_nothing(tmp_path: Path) -> None:
    """A file that would fail at import is listed with its place, kind and documentation all the same."""
    catalog = PluginCatalog([write(tmp_path, {"a.py": GOOD + "\nraise RuntimeError('at import')\n"})])
    (info,) = [info for info in catalog.all() if info.source == "folder"]
    assert (info.name, info.is_async, info.doc, info.error) == (
        "stock-sync",
        False,
        "Bring stock over.",
        None,
    )
    assert info.origin == f"{tmp_path / 'a.py'}:9"
    (info,) = [info for info in catalog.all(details=True) if info.source == "folder"]
    assert info.error is not None
    assert "RuntimeError: at import" in info.error
    assert f"{tmp_path / 'a.py'}:13" in info.error


def test_details_hold_the_settings_schema(tmp_path: Path) -> None:
    """Asked for details, the catalogue imports and tells the JSON Schema of the settings."""
    catalog = PluginCatalog([write(tmp_path, {"a.py": GOOD})])
    (info,) = [info for info in catalog.all(details=True) if info.source == "folder"]
    assert info.settings is not None
    assert info.settings["required"] == ["store"]


def test_the_installed_plugins_are_listed() -> None:
    """The ready-made plugins come through entry points, as those of any other package do."""
    infos = {info.name: info for info in PluginCatalog([]).all()}
    assert infos["mirror"].source == "package"
    assert "erpsync.jobs.mirror.plugin:mirror" in infos["mirror"].origin


def test_files_of_a_folder_may_import_each_other(tmp_path: Path) -> None:
    """Shared code lies beside the plugins in a file with a leading underscore, packages bring their own."""
    files = {
        "_rates.py": "RATE = 7\n",
        "a.py": GOOD.replace("return", "from ._rates import RATE\n    assert RATE == 7\n    return"),
        "pack/__init__.py": "",
        "pack/inner.py": "VALUE = 5\n",
        "pack/plugin.py": GOOD.replace("stock-sync", "packed")
        + "\nfrom .inner import VALUE\nfrom .._rates import RATE\n",
        "pack/test_plugin.py": GOOD,
    }
    catalog = PluginCatalog([write(tmp_path, files)])
    assert [info.name for info in catalog.all() if info.source == "folder"] == ["packed", "stock-sync"]
    module = sys.modules[catalog.find("packed").function.__module__]
    assert (module.VALUE, module.RATE) == (5, 7)


def test_only_our_decorator_makes_a_plugin(tmp_path: Path) -> None:
    """Another library's @job is left alone; an alias of ours is recognised."""
    files = {
        "other.py": "from rq import job\n@job('not-ours')\ndef f(ctx): ...\n",
        "ours.py": "import erpsync as e\n@e.job('ours')\nasync def f(ctx: e.JobContext): ...\n",
        "alias.py": "from erpsync import job as p, JobContext\n@p(name='aliased')\ndef f(ctx: JobContext): ...\n",
    }
    catalog = PluginCatalog([write(tmp_path, files)])
    assert [info.name for info in catalog.all() if info.source == "folder"] == ["aliased", "ours"]
    assert catalog.find("aliased").name == "aliased"


def test_a_broken_file_stops_nothing_else(tmp_path: Path) -> None:
    """A syntax error is reported with its line, and the plugins beside it work."""
    files = {
        "a.py": GOOD,
        "bad.py": "x = 1\ndef f(:\n",
        "odd.py": "from erpsync import job\nN='x'\n@job(N)\ndef f(c): ...\n",
    }
    catalog = PluginCatalog([write(tmp_path, files)])
    errors = {info.name: info.error for info in catalog.all() if info.source == "folder"}
    assert errors == {
        "stock-sync": None,
        "bad": "line 2: invalid syntax",
        "odd": "line 4: @job needs its name as a literal text",
    }
    assert catalog.find("stock-sync")
    assert "bad.py:2: line 2: invalid syntax" in error_of(catalog, "no-such-thing-at-all").hint


@pytest.mark.parametrize(("source", "message"), [
    ("raise ValueError('x')", "cannot be imported: ValueError: x"),
    ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
])  # fmt: skip
def test_an_import_that_fails_is_an_error_of_its_own(tmp_path: Path, source: str, message: str) -> None:
    """Whatever happens while a plugin is imported becomes one error with the place."""
    catalog = PluginCatalog([write(tmp_path, {"a.py": f"{GOOD}\n{source}\n"})])
    error = error_of(catalog, "stock-sync")
    assert message in error.message
    assert f"{tmp_path / 'a.py'}:13" in error.message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import os; os._exit(3)", "its import ends the whole process, with status 3"),
        ("import ctypes; ctypes.string_at(0)", "its import is fatal: SIGSEGV"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_an_import_that_ends_its_process_does_not_end_ours(tmp_path: Path, line: str, message: str) -> None:
    """It is an error of this plugin; the one after it is found all the same."""
    files = {"bad.py": GOOD.replace("stock-sync", "bad") + line, "good.py": GOOD}
    catalog = PluginCatalog([write(tmp_path, files)])
    catalog.prove(["bad", "stock-sync"])
    assert message in error_of(catalog, "bad").message
    assert catalog.find("stock-sync").repeatable


def test_an_import_without_end_is_given_up(tmp_path: Path) -> None:
    """Its time is limited; those after it are tried all the same."""
    write(
        tmp_path,
        {"endless.py": "import time; time.sleep(3600)", "fine.py": "", "worse.py": "import os; os.abort()"},
    )
    modules = [f"somewhere.{name}" for name in ("endless", "fine", "worse")]
    faults = fatal_imports(modules, {"somewhere": str(tmp_path)}, limit=2.0)
    assert faults == {
        "somewhere.endless": "its import does not end within 2 s",
        "somewhere.worse": "its import is fatal: SIGABRT",
    }


def test_a_mended_import_is_tried_again(tmp_path: Path) -> None:
    """A refresh, as reload does it, takes the file as it is now."""
    catalog = PluginCatalog([write(tmp_path, {"a.py": GOOD + "import os; os._exit(3)"})])
    error_of(catalog, "stock-sync")
    (tmp_path / "a.py").write_text(GOOD)
    assert catalog.refresh() == []
    assert catalog.find("stock-sync").repeatable


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    """Both a failed import and an unmet `needs` say what to install."""
    files = {
        "a.py": GOOD + "\nimport surely_not_there\n",
        "b.py": GOOD.replace('"stock-sync"', '"needy", needs=("surely_not_there_too",)'),
    }
    catalog = PluginCatalog([write(tmp_path, files)])
    assert error_of(catalog, "stock-sync").hint == "pip install surely_not_there"
    error = error_of(catalog, "needy")
    assert 'needs the package "surely_not_there_too", which is not installed' in error.message
    assert error.hint == "pip install surely_not_there_too"


def test_duplicates_are_an_error_that_names_both(tmp_path: Path) -> None:
    """Neither of two plugins with one name is used."""
    files = {"a.py": GOOD, "b.py": GOOD, "c.py": GOOD.replace("stock-sync", "mirror")}
    catalog = PluginCatalog([write(tmp_path, files)])
    message = error_of(catalog, "stock-sync").message
    assert str(tmp_path / "a.py") in message
    assert str(tmp_path / "b.py") in message
    assert "erpsync.jobs.mirror.plugin:mirror" in error_of(catalog, "mirror").message


def test_unknown_names_come_with_a_suggestion(tmp_path: Path) -> None:
    """A typo is answered with the nearest name."""
    error = error_of(PluginCatalog([write(tmp_path, {"a.py": GOOD})]), "stok-sync")
    assert (error.message, error.hint) == ('there is no plugin "stok-sync"', 'did you mean "stock-sync"?')


@pytest.mark.parametrize("mode", [0o775, 0o757])
@pytest.mark.parametrize("place", [".", "a.py", "pack"])
def test_what_others_can_write_is_refused(tmp_path: Path, place: str, mode: int) -> None:
    """A folder or file that group or others can write is not even read."""
    write(tmp_path, {"a.py": GOOD, "pack/__init__.py": GOOD.replace("stock-sync", "packed")})
    (tmp_path / place).chmod(mode)
    catalog = PluginCatalog([tmp_path])
    refused = [info for info in catalog.all() if info.error]
    assert len(refused) == 1
    assert f"chmod go-w {tmp_path / place}" in (refused[0].error or "")
    name = "packed" if place == "pack" else "stock-sync"
    assert f'no plugin "{name}"' in error_of(catalog, name).message


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """What is no regular file is told, and all others are found."""
    write(tmp_path, {"a.py": GOOD})
    os.mkfifo(tmp_path / "b.py", 0o600)
    catalog = PluginCatalog([tmp_path])
    assert catalog.find("stock-sync").name == "stock-sync"
    assert [*catalog.stamps] == [str(tmp_path / "a.py")]
    infos = {info.name: info.error for info in catalog.all()}
    assert infos["b"] == "this is no regular file"
    assert infos["stock-sync"] is None


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    """A missing folder is an entry with an error, not an exception."""
    infos = PluginCatalog([tmp_path / "none"]).all()
    assert ("none", "the folder does not exist") in [(info.name, info.error) for info in infos]


def test_dotted_paths_lead_to_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "package.module:attribute" imports just that; anything but a plugin is refused."""
    write(tmp_path, {"dotted_demo.py": GOOD})
    monkeypatch.syspath_prepend(str(tmp_path))
    catalog = PluginCatalog([])
    assert catalog.find("dotted_demo:stock").name == "stock-sync"
    assert "leads to ModelMetaclass" in error_of(catalog, "dotted_demo:Options").message
    assert "no attribute 'nothing'" in error_of(catalog, "dotted_demo:nothing").message
    assert error_of(catalog, "nowhere_demo:x").hint == "pip install nowhere_demo"


def test_what_was_imported_stays_and_all_else_is_taken_anew(tmp_path: Path) -> None:
    """Of two changed helpers the one that a plugin has imported is told; the other one is as it is now, like a new
    file and a plugin that could not be imported. A file that was only touched is not changed."""
    files = {
        "a.py": "from .used import X\n" + GOOD,
        "used.py": "X = 1\n",
        "unused.py": "X = 1\n",
        "b.py": "1/0",
    }
    catalog = PluginCatalog([write(tmp_path, files)])
    catalog.find("stock-sync")
    (tmp_path / "a.py").touch()
    write(tmp_path, dict.fromkeys(("used.py", "unused.py", "b.py", "new.py"), "X = 'two'\n"))
    before = dict(catalog.stamps)
    assert catalog.refresh() == catalog.refresh() == [str(tmp_path / "used.py")]
    same = {Path(file).name for file, stamp in catalog.stamps.items() if before.get(file) == stamp}
    assert same == {"a.py", "used.py"}
    assert {Path(file).name for file in catalog.imported} == {"a.py", "used.py"}


def test_a_plugin_whose_file_was_renamed_is_found_where_it_is_now(tmp_path: Path) -> None:
    """Another process imports it from there, once somebody has looked again."""
    folder = write(tmp_path, {"a.py": GOOD})
    catalog = PluginCatalog([folder])
    catalog.find("stock-sync")
    (folder / "a.py").rename(folder / "b.py")
    catalog.refresh()
    assert catalog.path("stock-sync").endswith(".b:stock")


def test_a_package_that_names_no_plugin_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed package's entry is read as it is; its import fails, and tells why."""
    entries = [
        EntryPoint("odd", "my-pkg.mod:func", "erpsync.plugins"),
        EntryPoint("bare", "json", "erpsync.plugins"),
    ]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries)
    catalog = PluginCatalog([write(tmp_path, {"good.py": GOOD})])
    assert catalog.find("stock-sync").name == "stock-sync"
    assert "my-pkg" in error_of(catalog, "odd").message
    assert "module" in error_of(catalog, "bare").message
