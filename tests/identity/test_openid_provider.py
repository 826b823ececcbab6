"""Against a real OpenID provider that is not ours: npm oidc-provider, strict where we might be lax."""

import asyncio

import pytest

from erpsync.core.errors import TokenEndpointError
from tests.identity.conftest import Bench
from tests.servers.openid_provider import OpenIdProvider

pytestmark = pytest.mark.node

ODD_ID = "my.trusted:app/ser vice"
ODD_SECRET = "p+%:&= ä".replace("ä", "~a")


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
