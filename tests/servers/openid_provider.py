"""A real OpenID provider, npm oidc-provider, as a fixture: one process for the whole test session."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.npm import installed, node

_SOURCE = Path(__file__).parent / "idp"


class OpenIdProvider:
    """The running provider; `issuer` is its issuer URL."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer

    def put_client(
        self,
        client_id: str,
        client_secret: str = "",
        *,
        jwks: dict[str, Any] | None = None,
        auth_method: str = "client_secret_basic",
        ttl: int = 3600,
        people: bool = False,
    ) -> None:
        """Adds a client or changes it at once; `jwks` are its public keys, in place of a secret.

        One for `people` signs them in and sends them back to "http://127.0.0.1/" at any port.
        """
        client = {
            "client_id": client_id,
            "client_secret": client_secret,
            "jwks": jwks,
            "auth_method": auth_method,
            "ttl": ttl,
            "people": people,
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
    with subprocess.Popen(
        [node(), "server.js"],
        cwd=installed(_SOURCE),
        env={**os.environ, "PORT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield OpenIdProvider(_issuer(process))
        finally:
            process.kill()


def _issuer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("READY "):
            return line.removeprefix("READY ").strip()
    return pytest.fail("the OpenID provider did not start")
