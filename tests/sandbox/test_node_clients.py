"""The npm libraries that the ERP.net documentation recommends are clients of the sandbox, unchanged."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from erpsync.sandbox.identity import CLIENT_SECRET
from tests.sandbox.conftest import PRODUCTS, Caller
from tests.servers.npm import installed, node

pytestmark = pytest.mark.node
SOURCE = Path(__file__).parent / "node"


@pytest.fixture
def outcome(reader: Caller, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the script named by the test's parameter tells."""
    root = reader.sandbox.url
    settings = {
        "root": root,
        "page": f"{root}/api/domain/odata/{PRODUCTS}?$top=3&$select=PartNumber",
        "callback": "http://127.0.0.1:53177/callback",
        "secret": CLIENT_SECRET,
    }
    done = subprocess.run(
        [node(), request.param],
        cwd=installed(SOURCE),
        env={**os.environ, "SETTINGS": json.dumps(settings)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("outcome", ["openid_client.js"], indirect=True)
def test_openid_client(outcome: dict[str, Any]) -> None:
    """Four client authentications, code with PKCE, refresh, userinfo, introspection, revocation, sign-out."""
    person = {"sub": "admin", "name": "Administrator", "rows": 3, "dead": "invalid_grant", "out": 200}
    assert outcome == {
        "post": 3,
        "basic": 3,
        "signed": 3,
        "native": person,
        "web": {**person, "active": True},
        "refused": "invalid_client",
    }


@pytest.mark.parametrize("outcome", ["simple_oauth2.js"], indirect=True)
def test_simple_oauth2(outcome: dict[str, Any]) -> None:
    """Client Credentials by header and by body; code, refresh and revocation."""
    person = {"state": "s1", "rotated": True, "rows": 3, "dead": "invalid_grant"}
    assert outcome == {"header": 3, "body": 3, "person": person}
