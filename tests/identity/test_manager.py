"""The life of a token: who asks for it, who waits, and what happens when the server is away or says no."""

import asyncio
import base64
import contextlib
from datetime import timedelta

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from erpsync.core.clock import SystemClock
from erpsync.core.errors import (
    ConfigError,
    IdentityError,
    SecretUnavailableError,
    TokenEndpointError,
)
from erpsync.identity.status import TokenState
from tests.identity.conftest import (
    DOWN,
    NIGHT,
    REFUSED,
    SECRET,
    TOKEN_PATH,
    Bench,
    grant,
    passing,
    seconds,
    until,
)
from tests.servers.scripted import Seen, http

# -- one request for all ---------------------------------------------------------------------------------------------


async def test_thousand_callers_cost_one_request(bench: Bench) -> None:
    """However many ask at once, the server is asked once."""
    manager = bench.manager()
    tokens = await asyncio.gather(*(manager.token() for _ in range(1000)))
    assert {token.value for token in tokens} == {"opaque-token-1"}
    assert bench.token_requests == 1


async def test_fresh_token_costs_microseconds(bench: Bench) -> None:
    """Asking for a fresh token does not give way to other tasks, and needs no server."""
    manager = bench.manager()
    first = await manager.token()
    bench.answers(DOWN)
    call = manager.token()
    with pytest.raises(StopIteration) as done:
        call.send(None)
    assert done.value.value is first


async def test_cancelled_first_caller_harms_nobody(bench: Bench) -> None:
    """The request belongs to the manager: a caller who goes away takes nothing with him."""
    arrived, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Seen) -> bytes:
        arrived.set()
        await go.wait()
        return http(grant())

    bench.answers(slow)
    manager = bench.manager()
    first = asyncio.create_task(manager.token())
    await arrived.wait()
    second = asyncio.create_task(manager.token())
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert manager.status().state is TokenState.FETCHING
    go.set()
    assert (await second).value == "opaque-token-1"
    assert bench.token_requests == 1


async def test_error_reaches_every_waiter(bench: Bench) -> None:
    """Those who waited together fail together, each with an exception of his own."""
    bench.answers(REFUSED)
    manager = bench.manager()
    errors = await asyncio.gather(*(manager.token() for _ in range(20)), return_exceptions=True)
    assert {type(error) for error in errors} == {TokenEndpointError}
    assert len({id(error) for error in errors}) == 20
    assert bench.token_requests == 1


# -- windows ---------------------------------------------------------------------------------------------------------


async def test_one_token_serves_its_whole_life(bench: Bench) -> None:
    """Late renewal: an hour's token is used until a minute before its end, however often it is asked for."""
    bench.answers(http(grant("one")), http(grant("two")))
    manager = bench.manager()
    for _ in range(59):
        assert (await manager.token()).value == "one"
        bench.clock.advance(seconds(60))
    assert bench.token_requests == 1
    bench.clock.advance(seconds(1))
    assert (await manager.token()).value == "one", "served while the successor comes"
    await until(lambda: manager.status().state is TokenState.FRESH)
    assert (await manager.token()).value == "two"
    assert bench.named("token.renewed")[1]["trigger"] == "aging"


async def test_early_renewal_leaves_room_for_trouble(bench: Bench) -> None:
    """Early renewal, for servers without sessions: a fifth to three tenths of the life before the end."""
    manager = bench.manager(renewal="early")
    await manager.token()
    bench.clock.advance(seconds(3600 - 720 - 360 - 1))
    await manager.token()
    assert manager.status().state is TokenState.FRESH
    bench.clock.advance(seconds(362))
    assert manager.status().state is TokenState.AGING


async def test_token_that_is_over_on_arrival_is_no_token(bench: Bench) -> None:
    """An answer that took longer than the token lives is a failure that may pass, not a loop of requests."""

    async def slow(_: Seen) -> bytes:
        bench.clock.advance(seconds(10))
        return http(grant(expires_in=10))

    bench.answers(slow, http(grant("second")))
    manager = bench.manager()
    assert (await passing(bench.clock, manager.token())).value == "second"
    assert bench.token_requests == 2


async def test_caller_may_ask_for_a_longer_life(bench: Bench) -> None:
    """min_valid brings a new token where the old one would end too soon, and no more than the server can give."""
    bench.answers(http(grant("one")), http(grant("two")), http(grant("three")))
    manager = bench.manager()
    await manager.token()
    bench.clock.advance(seconds(1800))
    assert (await manager.token(min_valid=timedelta(minutes=20))).value == "one"
    assert (await manager.token(min_valid=timedelta(minutes=45))).value == "two"
    assert (await manager.token(min_valid=timedelta(hours=9))).value == "two"
    assert bench.named("token.renewed")[1]["trigger"] == "run"


# -- outages ---------------------------------------------------------------------------------------------------------


async def test_cold_callers_wait_for_retries(bench: Bench) -> None:
    """With no token, a flight tries up to five times; the callers get the fifth's token."""
    bench.answers(DOWN, DOWN, DOWN, DOWN, http(grant()))
    manager = bench.manager()
    assert (await passing(bench.clock, manager.token())).value == "opaque-token-1"
    assert bench.token_requests == 5
    assert manager.status().last_error is None


async def test_cold_failure_is_shared_for_a_moment(bench: Bench) -> None:
    """After five tries the error is given to late comers too, without a request; later it is tried again."""
    bench.answers(DOWN)
    manager = bench.manager()
    with pytest.raises(TokenEndpointError) as caught:
        await passing(bench.clock, manager.token())
    assert caught.value.retryable
    assert manager.status().state is TokenState.BACKOFF
    assert bench.token_requests == 5
    with pytest.raises(TokenEndpointError):
        await manager.token()
    assert bench.token_requests == 5
    bench.answers(http(grant("back")))
    bench.clock.advance(seconds(6))
    assert (await manager.token()).value == "back"


async def test_unreachable_host_is_worth_waiting_for(bench: Bench) -> None:
    """A connection refused is retryable and names the host."""
    manager = bench.manager(issuer="http://127.0.0.1:9/id")
    with pytest.raises(IdentityError) as caught:
        await passing(bench.clock, manager.token())
    assert caught.value.retryable
    assert "127.0.0.1:9" in str(caught.value)


async def test_large_answer_is_cut_off(bench: Bench) -> None:
    """No more than 1 MiB of an answer is read."""
    bench.answers(http(b" " * (2 << 20)), http(grant()))
    manager = bench.manager()
    await passing(bench.clock, manager.token())
    assert "1 MiB" in str(bench.named("token.renewal_failed")[0]["error_message"])


# -- refusals --------------------------------------------------------------------------------------------------------


async def test_new_secret_ends_the_parking(bench: Bench) -> None:
    """A secret that changed is tried with the next call, without waiting for the probe."""
    bench.answers(REFUSED, http(grant()))
    manager = bench.manager()
    with pytest.raises(TokenEndpointError):
        await manager.token()
    bench.secrets[:] = ["a-new-and-better-secret"]
    bench.clock.advance(seconds(5))
    assert (await manager.token()).value == "opaque-token-1"
    assert bench.server.requests(TOKEN_PATH)[1].form["client_secret"] == ["a-new-and-better-secret"]


async def test_missing_secret_parks_until_it_is_there(bench: Bench) -> None:
    """A secret that cannot be read is an error of configuration; once there it is used."""
    known: list[str] = []

    def read() -> list[str]:
        if not known:
            raise SecretUnavailableError("secret:acme.night is nowhere", hint="put it into secrets/")
        return known

    manager = bench.manager(secrets=read)
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            await manager.token()
        assert caught.value.message == "secret:acme.night is nowhere"
        assert caught.value.hint == "put it into secrets/"
        bench.clock.advance(seconds(6))
    known.append(SECRET)
    assert (await manager.token()).value == "opaque-token-1"


async def test_refusal_does_not_take_the_living_token(bench: Bench) -> None:
    """A renewal that is refused is told, and the old token is used to its end."""
    bench.answers(http(grant()), REFUSED)
    manager = bench.manager()
    await manager.token()
    bench.clock.advance(seconds(3550))
    await manager.token()
    await until(lambda: bench.named("token.rejected"))
    assert (await manager.token()).value == "opaque-token-1"
    bench.clock.advance(seconds(50))
    with pytest.raises(TokenEndpointError):
        await manager.token()
    assert bench.token_requests == 2


# -- the API says 401 ------------------------------------------------------------------------------------------------


async def test_renewals_by_force_are_a_minute_apart(bench: Bench) -> None:
    """A new token that is refused too is kept for a minute: then the token is not the reason."""
    bench.answers(http(grant("one")), http(grant("two")), http(grant("three")))
    manager = bench.manager()
    manager.invalidate((await manager.token()).version, "401")
    second = await manager.token()
    for _ in range(10):
        manager.invalidate(second.version, "401")
        assert await manager.token() is second
    assert [event["renewed"] for event in bench.named("token.invalidated")] == [True, False]
    bench.clock.advance(seconds(60))
    manager.invalidate(second.version, "401")
    assert (await manager.token()).value == "three"


# -- requests --------------------------------------------------------------------------------------------------------


async def test_form_post_is_the_default(bench: Bench) -> None:
    """Client id and secret travel as form fields, as ERP.net documents; nothing of them in a header."""
    await bench.manager(audience="api", resource=("urn:a", "urn:b"), extra={"tenant": "x y"}).token()
    seen = bench.server.requests(TOKEN_PATH)[0]
    assert seen.form == {
        "grant_type": ["client_credentials"],
        "client_id": ["my.trusted.app/service"],
        "client_secret": [SECRET],
        "scope": ["read update"],
        "audience": ["api"],
        "resource": ["urn:a", "urn:b"],
        "tenant": ["x y"],
    }
    assert "authorization" not in seen.headers


@pytest.mark.parametrize(
    ("encoding", "header"),
    [
        ("rfc6749", "Basic bXkudHJ1c3RlZC5hcHAlMkZzZXJ2aWNlOiVEMSU4OCUyNSUyMCUyQg=="),
        ("raw", "Basic bXkudHJ1c3RlZC5hcHAvc2VydmljZTrRiCUgKw=="),
    ],
)
async def test_basic_credentials_in_both_encodings(bench: Bench, encoding: str, header: str) -> None:
    """Basic is form-encoded with %20 (RFC 6749), or raw for servers that do not decode."""
    bench.secrets[:] = ["ш% +"]
    await bench.manager(auth_method="client_secret_basic", basic_encoding=encoding).token()
    seen = bench.server.requests(TOKEN_PATH)[0]
    assert seen.headers["authorization"] == header
    assert set(seen.form) == {"grant_type", "scope"}


async def test_no_scope_asks_for_none(bench: Bench) -> None:
    """Without scopes the parameter is left out, and the granted ones are kept."""
    token = await bench.manager(scope=()).token()
    assert "scope" not in bench.server.requests(TOKEN_PATH)[0].form
    assert token.scope == ("read", "update")


# -- secrecy, status, end --------------------------------------------------------------------------------------------


async def test_no_secret_and_no_token_in_anything_told(bench: Bench) -> None:
    """Events, errors, status and reprs hold neither secret nor token; the redactor knows both."""
    bench.answers(
        http(grant("opaque-and-very-secret")),
        http({"error": "invalid_client", "error_description": f"no: {SECRET}"}, 401),
    )
    manager = bench.manager()
    token = await manager.token()
    bench.clock.advance(seconds(3600))
    with pytest.raises(TokenEndpointError) as caught:
        await manager.token()
    told = repr(
        (bench.events, caught.value, vars(caught.value), manager.status(), manager.status().document(), token)
    )
    assert SECRET not in told
    assert "opaque-and-very-secret" not in told
    assert "opaque-and-very-secret" not in bench.redactor("x opaque-and-very-secret y")
    assert token.fingerprint in told


async def test_status_tells_the_life(bench: Bench) -> None:
    """The status says where the token is, when it ends, when it is renewed and what was granted."""
    manager = bench.manager()
    assert manager.status().state is TokenState.ABSENT
    token = await manager.token()
    status = manager.status()
    assert status.state is TokenState.FRESH
    assert status.scope == ("read", "update")
    assert (status.fingerprint, status.requests, status.secret_in_use) == (token.fingerprint, 1, 0)
    assert status.expires_at == token.expires_at
    assert status.next_renewal_at == token.expires_at - seconds(60)
    for later, state in [(3545, TokenState.AGING), (30, TokenState.EXPIRING), (30, TokenState.EXPIRED)]:
        bench.clock.advance(seconds(later))
        assert manager.status().state is state
    assert manager.status().document()["fingerprint"] is None


async def test_closing_ends_a_renewal_under_way(bench: Bench) -> None:
    """After close nothing runs on; who waits is told."""
    arrived = asyncio.Event()

    async def silent(_: Seen) -> bytes:
        arrived.set()
        await asyncio.Event().wait()
        return b""

    bench.answers(silent)
    manager = bench.manager(clock=SystemClock())
    waiting = asyncio.create_task(manager.token())
    await arrived.wait()
    await manager.close()
    await manager.close()
    with pytest.raises(IdentityError):
        await waiting
    with contextlib.suppress(IdentityError):
        await manager.close()


async def test_identity_is_named_in_every_event(bench: Bench) -> None:
    """Each event says whose token it is about."""
    bench.answers(http(grant(token_type=None)), REFUSED)
    manager = bench.manager()
    manager.invalidate((await manager.token()).version, "401")
    with pytest.raises(TokenEndpointError):
        await manager.token()
    assert {name for name, _, _ in bench.events} == {
        "token.renewed",
        "token.requested",
        "token.answer_doubted",
        "token.invalidated",
        "token.rejected",
    }
    assert {fields["identity"] for _, _, fields in bench.events} == {NIGHT.name}


async def test_age_is_told_by_both_clocks(bench: Bench) -> None:
    """A token that must be young is young on the wall clock and on the boot-time clock."""
    bench.answers(http(grant("one")), http(grant("two")))
    manager = bench.manager()
    first = await manager.token(max_age=seconds(60))
    bench.clock.advance(seconds(59))
    assert await manager.token(max_age=seconds(60)) is first
    bench.clock.advance(seconds(2))
    bench.clock.step(seconds(-3600))
    assert (await manager.token(max_age=seconds(60))).value == "two"
    assert bench.token_requests == 2


# -- ready in time ---------------------------------------------------------------------------------------------------


async def test_cold_identity_is_made_ready(bench: Bench) -> None:
    """What is prepared waits for its run; preparing again costs nothing."""
    manager = bench.manager()
    for _ in range(3):
        await manager.prepare()
    assert bench.token_requests == 1
    assert manager.status().state is TokenState.FRESH
    bench.clock.advance(seconds(3545))
    bench.answers(http(grant("two")))
    await manager.prepare()
    assert (await manager.token()).value == "two"


async def test_preparing_never_raises(bench: Bench) -> None:
    """A refusal is told once, by the event; who prepares hears nothing."""
    bench.answers(REFUSED)
    manager = bench.manager()
    for _ in range(3):
        await manager.prepare()
    assert bench.token_requests == 1
    assert len(bench.named("token.rejected")) == 1
    bench.answers(DOWN)
    other = bench.manager(name="other")
    await passing(bench.clock, other.prepare())
    assert other.status().state is TokenState.BACKOFF


async def test_survival_is_foretold(bench: Bench) -> None:
    """The status says how long the identity works on without its server, to the second that the token is given."""
    manager = bench.manager()
    assert manager.status().survives_seconds == 0
    await manager.token()
    bench.answers(DOWN)
    bench.clock.advance(seconds(600))
    foretold = manager.status().survives_seconds
    assert foretold == 3600 - 600 - 10
    bench.clock.advance(seconds(foretold - 1))
    assert (await passing(bench.clock, manager.token())).value == "opaque-token-1"
    bench.clock.advance(seconds(2))
    assert manager.status().state in (TokenState.EXPIRED, TokenState.BACKOFF)


async def test_client_without_a_secret(bench: Bench) -> None:
    """Client authentication "none" sends the client's name and nothing else; no secret is looked for."""

    def read() -> list[str]:
        raise AssertionError("nobody should look")

    manager = bench.manager(auth_method="none", secrets=read)
    await manager.token()
    assert manager.status().secret_in_use is None
    seen = bench.server.requests(TOKEN_PATH)[0]
    assert set(seen.form) == {"grant_type", "client_id", "scope"}
    assert "authorization" not in seen.headers


@pytest.mark.parametrize(
    "secret", ["no key at all", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"]
)
async def test_key_that_is_none(bench: Bench, secret: str) -> None:
    """A private key that cannot sign parks the identity before anything is sent; a good one wakes it."""
    bench.secrets[:] = [secret]
    manager = bench.manager(auth_method="private_key_jwt")
    with pytest.raises(SecretUnavailableError) as caught:
        await manager.token()
    assert "openssl" in caught.value.hint
    assert bench.token_requests == 0
    assert manager.status().state is TokenState.REJECTED


async def test_assertions_are_used_once(bench: Bench, signing_key: str) -> None:
    """Each request is signed anew, for the token endpoint, for at most a minute; the key itself stays here."""
    bench.secrets[:] = [signing_key]
    manager = bench.manager(auth_method="private_key_jwt", key_id="k1")
    await manager.token()
    bench.clock.advance(seconds(3600))
    await manager.token()
    sent = [seen.form for seen in bench.server.requests(TOKEN_PATH)]
    claims = [jwt.decode(form["client_assertion"][0], RSAKey.import_key(signing_key)) for form in sent]
    assert len({each.claims["jti"] for each in claims}) == 2
    for each in claims:
        assert each.header == {"typ": "JWT", "alg": "RS256", "kid": "k1"}
        assert each.claims["iss"] == each.claims["sub"] == NIGHT.client_id
        assert each.claims["aud"] == bench.server.url + TOKEN_PATH
        assert each.claims["exp"] - each.claims["iat"] <= 60
    assert {"client_secret"} & set(sent[0]) == set()
    assert "PRIVATE" not in str(sent)


async def test_no_age_is_too_young(bench: Bench) -> None:
    """Who wants a token of this very moment gets the one requested for him, however long that took."""

    async def slow(_: Seen) -> bytes:
        bench.clock.advance(seconds(5))
        return http(grant(f"token-{bench.token_requests}"))

    bench.answers(slow)
    manager = bench.manager()
    assert (await manager.token(max_age=seconds(0))).value == "token-1"
    bench.clock.advance(seconds(1))
    assert (await manager.token(max_age=seconds(0))).value == "token-2"
    assert bench.token_requests == 2


async def test_hanging_renewal_near_the_end(bench: Bench) -> None:
    """Close to its end callers wait five seconds for the successor, and then go on with the token that lives."""
    manager = bench.manager()
    before = await manager.token()
    asked, never = asyncio.Event(), asyncio.Event()

    async def hangs(_: Seen) -> bytes:
        asked.set()
        await never.wait()
        return b""

    bench.answers(hangs)
    bench.clock.advance(seconds(3575))
    assert manager.status().state is TokenState.EXPIRING
    calls = [asyncio.create_task(manager.token()) for _ in range(3)]
    async with asyncio.timeout(5):
        await asked.wait()
    for _ in range(4):
        bench.clock.advance(seconds(1))
        await asyncio.sleep(0.01)
        assert not any(call.done() for call in calls)
    bench.clock.advance(seconds(1.1))
    async with asyncio.timeout(5):
        assert await asyncio.gather(*calls) == [before] * 3
    assert bench.token_requests == 2
    never.set()


async def test_basic_raw_for_a_server_that_does_not_decode(bench: Bench) -> None:
    """Such a server calls encoded credentials wrong, and raw ones right."""
    secret = "p+ss:w%rd &="
    bench.secrets[:] = [secret]

    async def literal(seen: Seen) -> bytes:
        scheme, _, pair = seen.headers["authorization"].partition(" ")
        name, _, given = base64.b64decode(pair).decode().partition(":")
        good = (scheme, name, given) == ("Basic", NIGHT.client_id, secret)
        return http(grant()) if good else REFUSED

    bench.answers(literal)
    with pytest.raises(TokenEndpointError) as caught:
        await bench.manager(auth_method="client_secret_basic").token()
    assert "basic_encoding" in caught.value.hint
    raw = bench.manager(auth_method="client_secret_basic", basic_encoding="raw")
    assert (await raw.token()).value == "opaque-token-1"
