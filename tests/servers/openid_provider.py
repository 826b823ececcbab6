"""A real OpenID provider, npm oidc-provider, as a fixture: one process for the whole test session.

Its packages are installed into a cache folder once (`npm ci`). Without Node.js the tests that need it are skipped,
or fail where TESTS_REQUIRE_NODE=1.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_SOURCE = Path(__file__).parent / "idp"
_FILES = ("package.json", "package-lock.json", ".npmrc", "server.js")


class OpenIdProvider:
    """The running provider; `issuer` is its issuer URL."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer

    def put_client(
        self,
        client_id: str,
        client_secret: str,
        *,
        auth_method: str = "client_secret_basic",
        ttl: int = 3600,
    ) -> None:
        """Adds a client or changes it at once."""
        client = {
            "client_id": client_id,
            "client_secret": client_secret,
            "auth_method": auth_method,
            "ttl": ttl,
        }
        self._side_door("PUT", "clients", client)

    def reset_stats(self) -> None:
        self._side_door("DELETE", "stats")

    def stats(self) -> dict[str, Any]:
        """Of the token endpoint: requests, byClient, inFlight, mostInFlight."""
        return self._side_door("GET", "stats")

    def _side_door(self, method: str, name: str, body: object = None) -> dict[str, Any]:
        url = f"{self.issuer.removesuffix('/id')}/_test/{name}"
        request = urllib.request.Request(url, json.dumps(body).encode() if body else None, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            document: dict[str, Any] = json.load(answer)
        return document


@pytest.fixture(scope="session")
def openid_provider() -> Iterator[OpenIdProvider]:
    """The provider, started with the first test that needs it."""
    node = _require_node()
    folder = _installed()
    with subprocess.Popen(
        [node, "server.js"],
        cwd=folder,
        env={**os.environ, "PORT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield OpenIdProvider(_issuer(process))
        finally:
            process.kill()


def _require_node() -> str:
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        _unavailable("node and npm are not installed")
    assert node is not None
    return node


def _unavailable(reason: str) -> None:
    if os.environ.get("TESTS_REQUIRE_NODE") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _installed() -> Path:
    """A folder outside the repository with the server and its packages; one installation at a time."""
    version = hashlib.sha256(b"".join((_SOURCE / name).read_bytes() for name in _FILES)).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path(tempfile.gettempdir()) / f"erpsync-{os.getuid()}")
    folder = cache / "erpsync-tests" / f"openid-provider-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "node_modules" / ".package-lock.json").exists():
            for name in _FILES:
                shutil.copy(_SOURCE / name, folder)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
            )
            if done.returncode != 0:
                _unavailable(f"npm ci failed: {done.stderr[-500:]}")
    return folder


def _issuer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("READY "):
            return line.removeprefix("READY ").strip()
    return pytest.fail("the OpenID provider did not start")
