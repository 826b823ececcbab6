"""Where plugins are found: folders (read, not imported), installed packages, dotted paths.

A plugin is imported only when somebody asks for it by name, and not here before its import has ended somewhere else:
see `probe`. Only installed packages are trusted like ourselves. A broken plugin is listed with its error and stops
nothing else.
"""

import ast
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import stat
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from erpsync.core.errors import PluginLoadError
from erpsync.plugins.contract import Plugin
from erpsync.plugins.probe import fatal_imports
from erpsync.plugins.stamp import Stamps, changed, imported, stamp_files

GROUP = "erpsync.plugins"
_FOLDERS = "erpsync_plugins_"  # with what begins the packages that stand for plugin folders


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as listed. `origin` is a file and line, or a distribution and import path.

    `is_async`, `doc` and `settings` (JSON Schema) are None where they are known only after an import.
    """

    name: str
    source: Literal["folder", "package"]
    origin: str
    is_async: bool | None = None
    doc: str | None = None
    settings: Mapping[str, object] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """`path` is "module:attribute", "" where it is broken; the import of what is `trusted` needs no proof."""

    info: PluginInfo
    path: str = ""
    trusted: bool = False

    @property
    def module(self) -> str:
        return self.path.partition(":")[0]


class PluginCatalog:
    """All plugins of these folders and of the installed packages; what it has read or imported it keeps."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))
        self._loaded: dict[str, Plugin] = {}
        self._paths: dict[str, str] = {}  # of those that are loaded
        self._proven: dict[str, str | None] = {}  # by module: what is fatal in its import
        self._stamps: dict[str, str] | None = None  # before the first look

    def find(self, name: str) -> Plugin:
        """The plugin of this name, or at a dotted path "package.module:attribute".

        Raises:
            PluginLoadError: unknown, ambiguous, or broken; the hint says what to do.
        """
        if name not in self._loaded:
            self.prove([name])
            plugin, path = self._at_path(name) if ":" in name else self._named(name)
            self._loaded[name], self._paths[name] = plugin, path
        return self._loaded[name]

    def prove(self, names: Iterable[str]) -> None:
        """Try the imports of all these plugins in a process that may die of them, each once until `refresh`.

        Blocks: half a second for all that behave, longer for each that does not.
        """
        if self._stamps is None:
            self._stamps = stamp_files(self.folders)
        wanted = {name for name in names if name not in self._loaded}
        modules = [name.partition(":")[0] for name in sorted(wanted) if ":" in name]
        modules += [
            found.module
            for found in self._found
            if found.info.name in wanted and found.path and not found.trusted
        ]
        if unknown := [module for module in modules if module not in self._proven]:
            faults = fatal_imports(unknown, make_packages(self.folders))
            self._proven |= {module: faults.get(module) for module in unknown}

    def refresh(self) -> list[str]:
        """Take new files, and changed ones that were not imported yet; the imported ones that have changed since."""
        self.__dict__.pop("_found", None)
        self._proven = {module: None for module in self._proven if module in sys.modules}
        kept = self.imported
        self._stamps = stamp_files(self.folders) | kept
        moved = {found.info.name: found.path for found in self._found if found.path}
        self._paths = {name: moved.get(name, path) for name, path in self._paths.items()}
        return changed(kept)

    @property
    def stamps(self) -> Stamps:
        """What this catalog goes by."""
        return self._stamps or {}

    @property
    def imported(self) -> dict[str, str]:
        """That part of `stamps` which only another process can give up."""
        return imported(self.stamps)

    def loaded(self, name: str) -> Plugin | None:
        """The plugin where it has been found before; safe from any thread, and never slow."""
        return self._loaded.get(name)

    def path(self, name: str) -> str:
        """Where a plugin that has been found before is, for `import_plugin` in another process."""
        return self._paths[name]

    def cursor_of(self, name: str) -> tuple[str, ...]:
        """The settings of a plugin that its cursor depends on; none where it has not been found before."""
        plugin = self.loaded(name)
        return plugin.cursor_of if plugin else ()

    def all(self, *, details: bool = False) -> list[PluginInfo]:
        """Every plugin and every file that cannot be used, by name; `details` imports them for their settings."""
        infos = [self._checked(found.info) for found in self._found]
        if details:
            infos = [info if info.error else self._detailed(info) for info in infos]
        return sorted(infos, key=lambda info: (info.name, info.origin))

    @cached_property
    def _found(self) -> list[_Found]:
        return [*(found for folder in self.folders for found in _in_folder(folder)), *_in_packages()]

    def _named(self, name: str) -> tuple[Plugin, str]:
        matches = [found for found in self._found if found.info.name == name]
        if not matches:
            raise self._unknown(name)
        found = matches[0]
        if error := self._checked(found.info).error:
            raise PluginLoadError(f'plugin "{name}" cannot be used: {error}', hint="erpsync plugins")
        self._require_proof(name, found.module)
        plugin = import_plugin(name, found.path)
        if plugin.name != name:
            message = f'{found.info.origin} is called "{plugin.name}", not "{name}"'
            raise PluginLoadError(message, hint=f'write plugin = "{plugin.name}", or rename it in @job')
        return plugin, found.path

    def _at_path(self, path: str) -> tuple[Plugin, str]:
        self._require_proof(path, path.partition(":")[0])
        return import_plugin(path, path), path

    def _require_proof(self, name: str, module: str) -> None:
        if fault := self._proven.get(module):
            hint = "a plugin's file defines; what takes time or can fail belongs into its function"
            raise PluginLoadError(f'plugin "{name}" cannot be imported: {fault}', hint=hint)

    def _checked(self, info: PluginInfo) -> PluginInfo:
        """The same, with an error where another plugin has the name."""
        others = [found.info.origin for found in self._found if found.info.name == info.name]
        if info.error or len(others) == 1:
            return info
        return replace(info, error=f"the name is taken twice: {' and '.join(others)}")

    def _detailed(self, info: PluginInfo) -> PluginInfo:
        try:
            plugin = self.find(info.name)
        except PluginLoadError as error:
            return replace(info, error=error.message)
        schema = plugin.settings_type.model_json_schema()
        return replace(info, is_async=plugin.is_async, doc=plugin.doc, settings=schema)

    def _unknown(self, name: str) -> PluginLoadError:
        close = difflib.get_close_matches(name, [found.info.name for found in self._found], n=1)
        broken = [f"{found.info.origin}: {found.info.error}" for found in self._found if found.info.error]
        hint = f'did you mean "{close[0]}"?' if close else "; ".join(broken) or "erpsync plugins"
        return PluginLoadError(f'there is no plugin "{name}"', hint=hint)


def _in_folder(folder: Path) -> Iterator[_Found]:
    """The plugins of the Python files and packages of a folder; names that begin with "_" or "test_" are not read."""
    if not folder.is_dir():
        yield _broken(folder.name, str(folder), "the folder does not exist")
        return
    if _others_write(folder):
        yield _broken(folder.name, str(folder), f"others can write this folder (chmod go-w {folder})")
        return
    package = _package(folder)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(("_", ".", "test_")):
            continue
        if entry.suffix == ".py":
            yield from _in_file(entry, f"{package}.{entry.stem}")
        elif entry.is_dir() and (entry / "__init__.py").is_file():
            yield from _in_package_folder(entry, f"{package}.{entry.name}")


def _in_package_folder(folder: Path, module: str) -> Iterator[_Found]:
    if _others_write(folder):
        yield _broken(folder.name, str(folder), f"others can write this folder (chmod go-w {folder})")
        return
    for file in sorted(folder.glob("*.py")):
        if not file.name.startswith("test_"):
            yield from _in_file(file, module if file.stem == "__init__" else f"{module}.{file.stem}")


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except SystemError:  # CPython 3.11 miscounts its depth while another thread parses, too
        return ast.parse(file.read_bytes(), str(file))


def _in_file(file: Path, module: str) -> Iterator[_Found]:
    if _others_write(file):
        yield _broken(file.stem, str(file), f"others can write this file (chmod go-w {file})")
        return
    if not file.is_file():  # a pipe would be waited for
        yield _broken(file.stem, str(file), "this is no regular file")
        return
    try:
        tree = _parse(file)
    except SyntaxError as error:
        yield _broken(file.stem, f"{file}:{error.lineno or 1}", f"line {error.lineno or 1}: {error.msg}")
        return
    except (OSError, ValueError) as error:
        yield _broken(file.stem, str(file), f"the file cannot be read: {error}")
        return
    for function, name in _jobs(tree):
        origin = f"{file}:{function.lineno}"
        if name is None:
            yield _broken(file.stem, origin, f"line {function.lineno}: @job needs its name as a literal text")
            continue
        doc = (ast.get_docstring(function) or "").partition("\n")[0]
        is_async = isinstance(function, ast.AsyncFunctionDef)
        info = PluginInfo(name, "folder", origin, is_async, doc)
        yield _Found(info, f"{module}:{function.name}")


def _jobs(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str | None]]:
    """The functions that `erpsync.job` decorates, with their names; None where the name is no literal."""
    direct = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "erpsync" and not node.level
        for alias in node.names
        if alias.name == "job"
    }
    modules = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "erpsync"
    }
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and _is_job(decorator.func, direct, modules):
                yield function, _literal_name(decorator)


def _is_job(node: ast.expr, direct: set[str], modules: set[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in direct
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "job"
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
    )


def _literal_name(call: ast.Call) -> str | None:
    named = [keyword.value for keyword in call.keywords if keyword.arg == "name"]
    node = next(iter([*call.args[:1], *named]), None)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _in_packages() -> Iterator[_Found]:
    for entry in importlib.metadata.entry_points(group=GROUP):
        distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"
        info = PluginInfo(entry.name, "package", f"{distribution}: {entry.value}")
        yield _Found(info, entry.value.partition("[")[0].strip(), trusted=True)


def import_plugin(name: str, path: str) -> Plugin:
    """The plugin at a path "module:attribute", whose needs are there; modules of folders need `make_packages`.

    Raises:
        PluginLoadError: whatever happened.
    """
    try:
        plugin = _at(path)
    except ModuleNotFoundError as error:
        raise PluginLoadError(f'plugin "{name}": {error}', hint=_install_hint(error.name or "")) from error
    except BaseException as error:  # foreign code runs at import: it may raise anything, even leave
        raise PluginLoadError(
            f'plugin "{name}" cannot be imported: {type(error).__name__}: {error}{_line(error)}',
            hint="erpsync plugins",
        ) from error
    if not isinstance(plugin, Plugin):
        message = f'"{name}" leads to {type(plugin).__name__}, not to a function with @job'
        raise PluginLoadError(message, hint='write it as "package.module:function"')
    missing = [package for package in plugin.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise PluginLoadError(
            f'plugin "{name}" needs the package "{missing[0]}", which is not installed',
            hint=_install_hint(missing[0]),
        )
    return plugin


def _at(path: str) -> object:
    module, _, attribute = path.partition(":")
    found: object = importlib.import_module(module)
    for part in filter(None, attribute.split(".")):
        found = getattr(found, part)
    return found


def _line(error: BaseException) -> str:
    """Where in the plugin's own file an import failed: the last frame that is a file."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<") and file != __file__:
            place = f" ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _install_hint(package: str) -> str:
    """How to get a missing package: by our extra where one holds it."""
    top = package.partition(".")[0]
    if top.startswith(_FOLDERS):  # a module of a plugin folder, which nobody publishes
        return "erpsync plugins"
    for requirement in importlib.metadata.requires("erpsync") or []:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if extra and re.match(rf"{re.escape(top)}\b", requirement.replace("-", "_")):
            return f"pip install 'erpsync[{extra[1]}]'"
    return f"pip install {top}" if top else ""


def make_packages(folders: Iterable[Path]) -> dict[str, str]:
    """A package for each resolved folder, so that its plugins can be imported; the folders by these names."""
    return {_package(folder): str(folder) for folder in folders}


def _package(folder: Path) -> str:
    """A package made for the folder, so that its files may import each other (`from .rates import …`)."""
    name = f"{_FOLDERS}{hashlib.sha256(bytes(folder)).hexdigest()[:12]}"
    if name not in sys.modules:
        make_package(name, str(folder))
    return name


def make_package(name: str, folder: str) -> None:
    """A package of this name whose modules are the files of this folder."""
    module = types.ModuleType(name, f"The plugins in {folder}.")
    module.__path__ = [folder]
    sys.modules[name] = module


def _others_write(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _broken(name: str, origin: str, error: str) -> _Found:
    return _Found(PluginInfo(name, "folder", origin, error=error))
