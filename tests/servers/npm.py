"""npm packages for tests, installed once (`npm ci`) into a cache folder outside the repository.

Without Node.js the tests that need it are skipped, or fail where TESTS_REQUIRE_NODE=1.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def node() -> str:
    """The program; without it the test ends here."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        _unavailable("node and npm are not installed")
    assert found is not None
    return found


def installed(source: Path) -> Path:
    """A copy of `source`, which holds package.json and its lock, with the packages; one makes it at a time."""
    files = sorted(
        path for path in source.iterdir() if path.suffix in (".js", ".json", "") and path.is_file()
    )
    version = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path(tempfile.gettempdir()) / f"erpsync-{os.getuid()}")
    folder = cache / "erpsync-tests" / f"{source.name}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "node_modules" / ".package-lock.json").exists():
            for path in files:
                shutil.copy(path, folder)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
            )
            if done.returncode != 0:
                _unavailable(f"npm ci failed: {done.stderr[-500:]}")
    return folder


def _unavailable(reason: str) -> None:
    if os.environ.get("TESTS_REQUIRE_NODE") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
