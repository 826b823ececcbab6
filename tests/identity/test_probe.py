"""Asking the server because somebody wants to know, and what tokens say of themselves."""

import pytest

from erpsync.core.errors import TokenEndpointError
from erpsync.identity.claims import shown_claims
from erpsync.identity.status import TokenState
from tests.identity.conftest import Bench, grant
from tests.servers.scripted import http


async def test_probe_leaves_the_token_in_use_alone(bench: Bench) -> None:
    """While a token is held another one is asked for, shown and thrown away: its use would open a second session."""
    manager = bench.manager()
    used = await manager.token()
    bench.answers(http(grant("opaque-token-2")))
    probed = await manager.probe()
    assert (probed.fingerprint != used.fingerprint, bench.token_requests) == (True, 2)
    assert await manager.token() is used
    assert bench.redactor("opaque-token-2") == "[redacted]"


async def test_probe_ends_a_parking(bench: Bench) -> None:
    """After a person has mended what was refused, a probe is made at once and its token serves all."""
    manager = bench.manager()
    bench.answers(http({"error": "unauthorized_client"}, status=400))
    with pytest.raises(TokenEndpointError):
        await manager.token()
    assert manager.status().state is TokenState.REJECTED
    with pytest.raises(TokenEndpointError) as caught:
        await manager.probe()
    assert "SystemUser" in caught.value.hint
    bench.answers(http(grant()))
    probed = await manager.probe()
    assert (await manager.token(), manager.status().state) == (probed, TokenState.FRESH)
    assert bench.token_requests == 3


def test_claims_tell_people_and_let_nobody_in() -> None:
    """Audience, client, system user and database are shown; ids of token and session are not, nor is the token."""
    # {"alg":"RS256"} . {"aud":["DomainAPI"],"client_db":"ACME","jti":"AB","sid":"S1","exp":2} . signature
    token = (
        "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOlsiRG9tYWluQVBJIl0sImNsaWVudF9kYiI6IkFDTUUiLCJqdGkiOiJBQiIs"
        "InNpZCI6IlMxIiwiZXhwIjoyfQ.c2lnbmF0dXJl"
    )
    assert shown_claims(token) == {"aud": ["DomainAPI"], "exp": 2, "client_db": "ACME"}
    assert [shown_claims(odd) for odd in ("enrt_AB", "a.b.c", "a.W10.c", "")] == [{}, {}, {}, {}]


async def test_every_request_is_told(bench: Bench) -> None:
    """Each request to the token endpoint is one event with its outcome, a probe's too; without one there is none."""
    manager = bench.manager()
    await manager.token()
    await manager.probe()
    bench.answers(http({"error": "invalid_client"}, 400))
    with pytest.raises(TokenEndpointError):
        await manager.probe()
    bench.answers(http({}, 503))
    with pytest.raises(TokenEndpointError):
        await manager.probe()
    outcomes = [fields["outcome"] for fields in bench.named("token.requested")]
    assert outcomes == ["succeeded", "succeeded", "rejected", "failed"]
    assert len(outcomes) == bench.token_requests
