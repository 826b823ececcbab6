"""Asking the server because somebody wants to know, and what tokens say of themselves."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from erpsync.core.errors import IdentityError, TokenEndpointError
from erpsync.identity.claims import shown_claims
from erpsync.identity.reference import ReferenceTokenSource
from erpsync.identity.sealed import Drawer, SealedStore
from erpsync.identity.status import TokenState
from tests.identity.conftest import NIGHT, REFUSED, Bench, grant, until
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


async def test_probe_of_a_new_process_keeps_what_was_left(bench: Bench, tmp_path: Path) -> None:
    """Asked first thing after a restart, the token of the process before stays in use, and stored: its session is
    open."""

    def drawer() -> Drawer:
        return SealedStore(tmp_path, ["k" * 32], bench.emit, host="here").drawer(NIGHT, bench.issuer)

    before = await bench.manager(drawer=drawer()).token()
    bench.answers(http(grant("opaque-token-2")))
    manager = bench.manager(drawer=drawer())
    assert (await manager.probe()).value == "opaque-token-2"
    assert (await manager.token()).value == before.value
    stored = drawer().load()
    assert stored is not None
    assert stored.access_token == before.value
    assert bench.token_requests == 2


async def test_probe_beside_a_cold_start(bench: Bench) -> None:
    """Whoever asks while a run gets the first token shares its request: there is one token, and one session."""
    bench.answers(http(grant("one")), http(grant("two")))
    manager = bench.manager()
    given, *probed = await asyncio.gather(manager.token(), *(manager.probe() for _ in range(10)))
    assert {token.value for token in probed} == {given.value} == {"one"}
    assert manager.held is given
    assert bench.token_requests == 1


async def test_cold_start_beside_a_probe(bench: Bench, tmp_path: Path) -> None:
    """A run that starts while somebody asks takes the token that comes of it."""
    bench.answers(http(grant("one")), http(grant("two")))
    drawer = SealedStore(tmp_path, ["k" * 32], bench.emit, host="here").drawer(NIGHT, bench.issuer)
    manager = bench.manager(drawer=drawer)
    probed, given, _ = await asyncio.gather(manager.probe(), manager.token(), manager.recall())
    assert probed is given
    assert bench.token_requests == 1


async def test_many_probes_share_a_request(bench: Bench) -> None:
    """Ten who want to know at once cost one request, and the token in use stays."""
    manager = bench.manager()
    used = await manager.token()
    bench.answers(http(grant("two")))
    probed = await asyncio.gather(*(manager.probe() for _ in range(10)))
    assert {token.value for token in probed} == {"two"}
    assert (bench.token_requests, manager.held) == (2, used)


async def test_a_probe_that_fails_tells_everybody(bench: Bench) -> None:
    """The error is each caller's own; who has gone away harms nobody."""
    bench.answers(REFUSED)
    manager = bench.manager()
    leaving = asyncio.create_task(manager.probe())
    staying = asyncio.gather(*(manager.probe() for _ in range(2)), return_exceptions=True)
    await until(lambda: bench.token_requests)
    leaving.cancel()
    first, second = await staying
    assert isinstance(first, TokenEndpointError)
    assert isinstance(second, TokenEndpointError)
    assert first is not second
    assert bench.token_requests == 1


async def test_probe_does_not_excuse_a_refused_token(bench: Bench) -> None:
    """A token made by hand that the API has refused is refused still, whoever reads it; another one is taken."""
    tokens = ["enrt_" + "A" * 64]
    hand = replace(NIGHT, name="hand", grant="reference_token", client_id="", scope=())
    source = ReferenceTokenSource(
        hand, read=lambda: tokens, clock=bench.clock, emit=bench.emit, redactor=bench.redactor
    )
    manager = bench.managed(hand, source)
    first = await manager.probe()
    assert await manager.token() is first
    manager.invalidate(first.version, "401")
    for ask in (manager.token, manager.probe, manager.token):
        with pytest.raises(IdentityError) as caught:
            await ask()
        assert "the API refuses" in caught.value.message
        assert manager.status().state is TokenState.REJECTED
    tokens[:] = ["enrt_" + "B" * 64]
    assert (await manager.probe()).value == tokens[0]
    assert (await manager.token()).value == tokens[0]
    tokens[:] = ["enrt_" + "C" * 64]
    await manager.probe()
    assert (await manager.token()).value == tokens[0]
