"""Against a real OpenID provider that is not ours: npm oidc-provider, strict where we might be lax."""

import asyncio
from dataclasses import replace
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.jwk import ECKey, OKPKey, RSAKey

from erpsync.core.clock import SystemClock
from erpsync.core.errors import TokenEndpointError
from erpsync.identity.client_credentials import ClientCredentialsSource
from erpsync.identity.endpoint import post_as_client
from tests.identity.conftest import NIGHT, SECRET, Bench
from tests.servers.openid_provider import OpenIdProvider

pytestmark = pytest.mark.node

ODD_ID = "my.trusted:app/ser vice"
ODD_SECRET = "p+%:&= ä".replace("ä", "~a")


def public(pem: str, kind: type[RSAKey | ECKey | OKPKey], name: str) -> dict[str, object]:
    """The public half of a key, as a client registers it."""
    return {**kind.import_key(pem).as_dict(private=False), "kid": name, "use": "sig"}


def other_keys() -> dict[str, tuple[str, type[ECKey | OKPKey]]]:
    keys = {"p256": ec.generate_private_key(ec.SECP256R1()), "ed25519": Ed25519PrivateKey.generate()}
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pems = {name: key.private_bytes(*form).decode() for name, key in keys.items()}
    return {"p256": (pems["p256"], ECKey), "ed25519": (pems["ed25519"], OKPKey)}


@pytest.mark.parametrize("kind", ["rsa", "p256", "ed25519"])
async def test_signed_assertions(
    bench: Bench, openid_provider: OpenIdProvider, signing_key: str, kind: str
) -> None:
    """private_key_jwt works with each kind of key, and again: no assertion is used twice."""
    pem, family = {"rsa": (signing_key, RSAKey), **other_keys()}[kind]
    client_id = f"signs-{kind}"
    keys = {"keys": [public(pem, family, "k1")]}
    openid_provider.put_client(client_id, jwks=keys, auth_method="private_key_jwt")
    bench.secrets[:] = [pem]
    changes = {"client_id": client_id, "auth_method": "private_key_jwt", "key_id": "k1"}
    manager = bench.manager(issuer=openid_provider.issuer, clock=SystemClock(), **changes)
    first = await manager.token()
    manager.invalidate(first.version, "401")
    assert (await manager.token()).value != first.value
    assert (await inspected(bench, openid_provider, first.value))["client_id"] == client_id


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_what_we_get_can_be_introspected_and_revoked(
    bench: Bench, openid_provider: OpenIdProvider, method: str
) -> None:
    """The provider knows our tokens as what we asked for, and one that it revoked is renewed once."""
    client_id = f"watched-{method}"
    openid_provider.put_client(client_id, SECRET, auth_method=method)
    client = bench.client_of(
        replace(NIGHT, client_id=client_id, auth_method=method), issuer=openid_provider.issuer
    )
    manager = bench.managed(client.identity, ClientCredentialsSource(client))
    token = await manager.token()
    facts = await inspected(bench, openid_provider, token.value)
    assert (facts["active"], facts["client_id"], facts["scope"]) == (True, client_id, "read update")
    server = await client.metadata()
    assert server.revocation_endpoint is not None
    body = urlencode({"token": token.value})
    answer = await post_as_client(
        bench.client,
        server.revocation_endpoint,
        server,
        client.identity,
        SECRET,
        body,
        clock=bench.clock,
        skew=client.skew(server),
    )
    assert answer.status == 200
    assert await inspected(bench, openid_provider, token.value) == {"active": False}
    manager.invalidate(token.version, "401")
    facts = await inspected(bench, openid_provider, (await manager.token()).value)
    assert facts["active"] is True


async def inspected(bench: Bench, provider: OpenIdProvider, token: str) -> dict[str, object]:
    """What the provider says of a token (RFC 7662)."""
    provider.put_client("inspector", SECRET)
    url = f"{provider.issuer}/connect/introspect"
    answer = await bench.client.post(url, data={"token": token}, auth=("inspector", SECRET))
    facts: dict[str, object] = answer.json()
    return facts


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_odd_characters_survive(bench: Bench, openid_provider: OpenIdProvider, method: str) -> None:
    """Ids and secrets with any printable character are accepted by both methods."""
    openid_provider.put_client(ODD_ID, ODD_SECRET, auth_method=method)
    bench.secrets[:] = [ODD_SECRET]
    manager = bench.manager(issuer=openid_provider.issuer, client_id=ODD_ID, auth_method=method)
    token = await manager.token()
    assert token.value
    assert set(token.scope) == {"read", "update"}


async def test_thousand_callers_one_request(bench: Bench, openid_provider: OpenIdProvider) -> None:
    """The provider itself counts one request for a thousand callers."""
    openid_provider.put_client("thousand", "s3cret-thousand")
    openid_provider.reset_stats()
    bench.secrets[:] = ["s3cret-thousand"]
    manager = bench.manager(
        issuer=openid_provider.issuer, client_id="thousand", auth_method="client_secret_basic"
    )
    await asyncio.gather(*(manager.token() for _ in range(1000)))
    assert openid_provider.stats()["byClient"] == {"thousand": 1}


async def test_secret_roll_over(bench: Bench, openid_provider: OpenIdProvider) -> None:
    """When the provider has the new secret only, the second one of the list takes over."""
    openid_provider.put_client("rolling", "old-secret", ttl=60)
    bench.secrets[:] = ["old-secret", "new-secret"]
    manager = bench.manager(
        issuer=openid_provider.issuer, client_id="rolling", auth_method="client_secret_basic"
    )
    first = await manager.token()
    openid_provider.put_client("rolling", "new-secret", ttl=60)
    manager.invalidate(first.version, "401")
    assert (await manager.token()).version == 2
    assert manager.status().secret_in_use == 1


async def test_wrong_secret_is_about_credentials(bench: Bench, openid_provider: OpenIdProvider) -> None:
    """A wrong secret parks the identity, whatever method it was sent by."""
    openid_provider.put_client("wrong", "the-right-secret")
    bench.secrets[:] = ["the-wrong-secret"]
    manager = bench.manager(
        issuer=openid_provider.issuer, client_id="wrong", auth_method="client_secret_basic"
    )
    with pytest.raises(TokenEndpointError) as caught:
        await manager.token()
    assert caught.value.credentials
    assert caught.value.error == "invalid_client"
