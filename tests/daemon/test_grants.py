"""Services of every grant side by side at one instance, as the daemon puts them together."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from erpsync.config.load import load_configuration
from erpsync.core.clock import SystemClock
from erpsync.core.errors import IdentityError
from erpsync.core.event import silent
from erpsync.core.redaction import Redactor
from erpsync.daemon.connections import Connections
from erpsync.daemon.place import resolver_of
from erpsync.erpnet.client import ErpClient
from erpsync.identity.status import TokenState
from erpsync.sandbox.identity import CLIENT_ID, CLIENT_SECRET, SIGNED, private_key
from erpsync.sandbox.server import Sandbox

TEXT = f"""
[daemon]
data = "data"
[secrets]
from = ["secrets"]
[instances.box]
url = "URL"
license_slots = 4
[identities.secret]
instance = "box"
client_id = "{CLIENT_ID}"
client_secret = {{ secret = "plain" }}
scope = ["read"]
[identities.key]
instance = "box"
client_id = "{SIGNED}"
auth_method = "private_key_jwt"
private_key = {{ file = "night.pem" }}
scope = ["read"]
[identities.hand]
instance = "box"
grant = "reference_token"
token = {{ file = "sat" }}
token_header = "x-api-key"
token_expires = 2099-12-31
"""
SERVICES = ("secret", "key", "hand")


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox(rows=5, license_slots=4) as sandbox:
        yield sandbox


@pytest.fixture
def connections(box: Sandbox, tmp_path: Path) -> Connections:
    (tmp_path / "erpsync.toml").write_text(TEXT.replace("URL", box.url))
    (tmp_path / "secrets").mkdir()
    values = {
        "secrets/plain": CLIENT_SECRET,
        "night.pem": private_key(),
        "sat": box.reference_token(CLIENT_ID) + "\n",
    }
    for name, value in values.items():
        (tmp_path / name).write_text(value)
        (tmp_path / name).chmod(0o600)
    configuration = load_configuration(tmp_path / "erpsync.toml", {})
    redactor = Redactor()
    return Connections(configuration, resolver_of(configuration, redactor), SystemClock(), silent, redactor)


async def currencies(connections: Connections, identity: str) -> int:
    """A read of the API as this identity."""
    way = connections.between("box", identity)
    assert way.root is not None
    async with httpx2.AsyncClient(transport=way.transport) as client:
        erp = ErpClient(client, way.root, clock=SystemClock(), emit=silent)
        return await erp.count("General_Currencies_Currencies")


async def test_each_by_its_own_token(box: Sandbox, connections: Connections) -> None:
    """A secret, a key and a token made by hand open the API; two tokens were asked for, none is shared."""
    try:
        for _ in range(2):
            assert [await currencies(connections, name) > 0 for name in SERVICES] == [True] * 3
        states = {name: connections.status(name) for name in SERVICES}
        assert {status.state for status in states.values()} == {TokenState.FRESH}
        assert len({status.fingerprint for status in states.values()}) == 3
        assert [states[name].requests for name in SERVICES] == [1, 1, 0]
        assert box.stats()["token_requests"] == {CLIENT_ID: 1, SIGNED: 1}
        assert len(box.sessions()) == 3
        assert box.stats()["violations"] == 0
    finally:
        await connections.close()


async def test_a_revoked_token_made_by_hand(box: Sandbox, connections: Connections, tmp_path: Path) -> None:
    """It is refused once, its identity parked, and a new one on file is used without a restart."""
    try:
        await currencies(connections, "hand")
        box.revoke_tokens()
        with pytest.raises(IdentityError) as caught:
            await currencies(connections, "hand")
        assert "`token`" in caught.value.hint
        assert connections.status("hand").state is TokenState.REJECTED
        assert box.stats()["token_requests"] == {}
        (tmp_path / "sat").write_text(box.reference_token(CLIENT_ID))
        await connections.probe("hand")
        assert await currencies(connections, "hand") > 0
    finally:
        await connections.close()
