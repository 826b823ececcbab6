"""Which content of the files in plugin folders a process goes by: Python imports a file once."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path

Stamps = Mapping[str, str]
"""By absolute path a hash of the content, empty for what cannot be read."""


def stamp_files(folders: Iterable[Path]) -> dict[str, str]:
    """The stamps of all Python files in these folders as they are now, helpers and packages too."""
    return {file: _stamp(file) for folder in folders for file in _files(folder)}


def imported(stamps: Stamps, since: str | None = None) -> dict[str, str]:
    """Those of files that this process has imported, with `since` only after that module.

    A child asks for those since its birth: looking at each of a thousand modules copies all the pages that it shares
    with its parent.
    """
    # names first, in one step: a module that is looked at may import others, as another thread may
    names = [*takewhile(since.__ne__, reversed(sys.modules))] if since else [*sys.modules]
    files = {getattr(sys.modules.get(name), "__file__", None) for name in names}
    return {file: stamp for file, stamp in stamps.items() if file in files}


def changed(stamps: Stamps) -> list[str]:
    """The files whose content is another by now; one that was only touched is not."""
    return [file for file, stamp in stamps.items() if _stamp(file) != stamp]


def _files(folder: Path) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        files = (os.path.join(place, name) for name in sorted(names) if name.endswith(".py"))
        yield from (file for file in files if os.path.isfile(file))  # a pipe would be waited for


def _stamp(file: str) -> str:
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
