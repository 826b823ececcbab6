"""A person's tokens: rotation survives lost answers, kills, full disks and other processes."""

# ruff: noqa: N802 - catalogued cases are named by their ids

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import parse_qs

import pytest

from erpsync.core.errors import LoginRequiredError, StoreUnavailableError, TokenEndpointError
from erpsync.core.instance import Identity
from erpsync.identity.keep_alive import LOOK_SECONDS, keep_signed_in
from erpsync.identity.manager import TokenManager
from erpsync.identity.refresh import RefreshSource
from erpsync.identity.sealed import Drawer, SealedStore, StoredToken, fingerprint
from erpsync.identity.status import TokenState
from tests.identity.conftest import TOKEN_PATH, Bench, grant
from tests.servers.scripted import Script, Seen, http

ANN = Identity(
    "ann@acme",
    "acme",
    "my.app/desk",
    grant="authorization_code",
    auth_method="none",
    scope=("read", "update"),
)
KEY = "k" * 32
INVALID = http({"error": "invalid_grant", "error_description": "refresh token reused"}, 400)
GONE = b""  # the connection ends without an answer


class Desk:
    """A person's identity at the scripted server, and the folder where her sign-in is kept."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        self.folder = folder

    def drawer(self) -> Drawer:
        """The drawer as any process sees it."""
        return SealedStore(self.folder, [KEY], self.bench.emit, host="here").drawer(ANN, self.bench.issuer)

    def sign_in(self, access: str = "access-1", refresh: str | None = "refresh-1") -> StoredToken:
        """What `login` leaves."""
        now = self.bench.clock.now()
        scope = ("read", "update")
        token = StoredToken(
            access, now, 3600.0, scope, refresh_token=refresh, refreshed_at=now, subject="ann"
        )
        self.drawer().save(token)
        return token

    def source(self, identity: Identity = ANN) -> RefreshSource:
        return RefreshSource(self.bench.client_of(identity), self.drawer())

    def manager(self, source: RefreshSource | None = None) -> TokenManager:
        source = source or self.source()
        return self.bench.managed(ANN, source, keeper=source)

    @property
    def sent(self) -> list[str]:
        """The refresh tokens the server has seen."""
        forms = [parse_qs(seen.body.decode()) for seen in self.bench.server.requests(TOKEN_PATH)]
        assert all(form["grant_type"] == ["refresh_token"] for form in forms)
        assert all(form["client_id"] == ["my.app/desk"] for form in forms)
        return [form["refresh_token"][0] for form in forms]

    def stored(self) -> StoredToken:
        token = self.drawer().load()
        assert token is not None
        return token


def answer(number: int, **fields: object) -> bytes:
    """A good answer that rotates."""
    return http(grant(f"access-{number}", **{"refresh_token": f"refresh-{number}", **fields}))


@pytest.fixture
def desk(bench: Bench, tmp_path: Path) -> Desk:
    return Desk(bench, tmp_path / "tokens")


async def test_probe_is_a_real_request(desk: Desk) -> None:
    """Whoever wants to know gets the server's own word, by a daemon that holds a token and without one."""
    desk.sign_in()
    desk.bench.answers(answer(2), answer(3), INVALID)
    manager = desk.manager()
    assert (await manager.probe()).value == "access-2"
    assert (await manager.token()).value == "access-2"
    probed = await manager.probe()
    assert await manager.token() is probed  # the one before may be void with its refresh token
    assert desk.stored().access_token == probed.value == "access-3"
    alone = desk.manager()
    with pytest.raises(LoginRequiredError):
        await alone.probe()
    assert desk.sent == ["refresh-1", "refresh-2", "refresh-3"]


async def test_a_stored_sign_in_serves_its_life(desk: Desk) -> None:
    """A fresh stored token needs no request; near its end it is renewed, and the rotated refresh token is kept."""
    desk.sign_in()
    desk.bench.answers(answer(2), answer(3))
    manager = desk.manager()
    assert (await manager.token()).value == "access-1"
    assert desk.sent == []
    desk.bench.clock.advance(timedelta(seconds=3590))
    assert (await manager.token()).value == "access-2"
    desk.bench.clock.advance(timedelta(seconds=3595))
    assert (await manager.token()).value == "access-3"
    assert desk.sent == ["refresh-1", "refresh-2"]
    stored = desk.stored()
    assert (stored.access_token, stored.refresh_token, stored.attempt) == ("access-3", "refresh-3", None)
    assert (stored.subject, stored.refreshed_at) == ("ann", desk.bench.clock.now())


async def test_T46_lost_answer(desk: Desk) -> None:
    """The attempt is on disk when the server sees it; the same refresh token goes out at once, once more."""
    desk.sign_in()
    noted: list[bool] = []

    async def look(_: Seen) -> bytes:
        attempt = desk.stored().attempt
        noted.append(attempt is not None and attempt.fingerprint == fingerprint("refresh-1"))
        return GONE

    desk.bench.answers(look, answer(2))
    desk.bench.clock.advance(timedelta(hours=2))
    assert (await desk.manager().token()).value == "access-2"
    assert desk.sent == ["refresh-1", "refresh-1"]
    assert noted == [True]
    assert desk.stored().refresh_token == "refresh-2"


async def test_T46_lost_answer_and_reuse_refused(desk: Desk) -> None:
    """Where the server calls that a reuse, a person is asked for, and the access token serves to its end."""
    desk.sign_in()
    manager = desk.manager()
    await manager.token()
    desk.bench.answers(GONE, INVALID)
    desk.bench.clock.advance(timedelta(seconds=3560))
    assert (await manager.token()).value == "access-1"
    await _told(desk.bench, "token.login_required")
    assert desk.sent == ["refresh-1", "refresh-1"]
    stored = desk.stored()
    assert (stored.access_token, stored.refused) == ("access-1", "refresh token reused")
    assert (await manager.token()).value == "access-1"
    desk.bench.clock.advance(timedelta(seconds=60))
    with pytest.raises(LoginRequiredError):
        await manager.token()
    assert len(desk.sent) == 2


async def test_no_repetition_after_a_long_silence(desk: Desk) -> None:
    """An answer lost after more than ten seconds is not asked for again at once: no server forgives so late."""
    desk.sign_in()

    async def slow(_: Seen) -> bytes:
        desk.bench.clock.advance(timedelta(seconds=11))
        return GONE

    desk.bench.answers(slow, answer(2))
    source = desk.source()
    desk.bench.clock.advance(timedelta(hours=2))
    with pytest.raises(TokenEndpointError) as caught:
        await source.fetch()
    assert caught.value.retryable
    assert desk.sent == ["refresh-1"]


async def test_T50_answer_without_refresh_token(desk: Desk) -> None:
    """The refresh token before stays in force."""
    desk.sign_in()
    desk.bench.answers(answer(2, refresh_token=None), answer(3, refresh_token=""))
    source = desk.source()
    for _ in range(3):
        desk.bench.clock.advance(timedelta(hours=2))
        await source.fetch()
    assert desk.sent == ["refresh-1"] * 3
    assert desk.stored().refresh_token == "refresh-1"


async def test_T51_refused(desk: Desk) -> None:
    """A refused refresh token is tried once; whoever asks is told to sign in, at once and without a request, until
    somebody does, which is noticed by itself."""
    desk.sign_in()
    manager = desk.manager()
    await manager.token()
    desk.bench.answers(INVALID)
    desk.bench.clock.advance(timedelta(hours=2))
    for _ in range(3):
        with pytest.raises(LoginRequiredError, match="ann@acme is not signed in any more") as caught:
            await manager.token()
        assert caught.value.hint == "erpsync login ann@acme"
        assert not caught.value.retryable
        desk.bench.clock.advance(timedelta(hours=1))
    assert desk.sent == ["refresh-1"]
    status = manager.status()
    assert status.state is TokenState.LOGIN_REQUIRED
    assert status.next_renewal_at is None  # not before somebody signs in
    told = [
        (event["error_type"], event["retry_seconds"]) for event in desk.bench.named("token.login_required")
    ]
    assert told == [("LoginRequiredError", None)]
    desk.sign_in("access-2", "refresh-2")
    assert (await manager.token()).value == "access-2"
    assert manager.status().state is TokenState.FRESH


async def test_T51_refused_and_restarted(desk: Desk) -> None:
    """A restart asks the server nothing about a refused refresh token, and still uses the access token that lives."""
    desk.sign_in()
    desk.bench.answers(INVALID)
    desk.bench.clock.advance(timedelta(minutes=30))
    source = desk.source()
    await source.fetch()
    with pytest.raises(LoginRequiredError):
        await source.fetch()
    again = desk.source()
    assert (await again.fetch()).grant.access_token == "access-1"
    with pytest.raises(LoginRequiredError):
        await again.fetch()
    assert desk.sent == ["refresh-1"]


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("invalid_client", "ClientType = Public"),
        ("unauthorized_client", "ImpersonateLoginUrl"),
        ("unsupported_grant_type", "refresh_token"),
        ("invalid_scope", "Scope"),
        ("invalid_request", "client_id"),
    ],
)
async def test_T27_wrong_configuration_of_a_person(desk: Desk, code: str, named: str) -> None:
    """Parked as a service is, with the field to mend of a person's application; the sign-in is kept."""
    desk.sign_in()
    desk.bench.clock.advance(timedelta(hours=2))
    desk.bench.answers(http({"error": code}, 400))
    manager = desk.manager()
    for _ in range(3):
        with pytest.raises(TokenEndpointError) as caught:
            await manager.token()
        assert named in caught.value.hint
    assert desk.sent == ["refresh-1"]
    assert manager.status().state is TokenState.REJECTED
    assert (desk.stored().refresh_token, desk.stored().refused) == ("refresh-1", "")


async def test_nobody_signed_in(desk: Desk) -> None:
    """Without a sign-in, or without a key to keep one with, the error says which and what to type."""
    with pytest.raises(LoginRequiredError, match="nobody has signed in") as caught:
        await desk.source().fetch()
    assert caught.value.hint == "erpsync login ann@acme"
    assert desk.source().has_nobody()
    keyless = RefreshSource(desk.bench.client_of(ANN), None)
    with pytest.raises(LoginRequiredError, match="no seal_key"):
        await keyless.fetch()
    assert keyless.has_nobody()
    assert desk.sent == []


async def test_the_token_of_another_process(desk: Desk) -> None:
    """What another process has stored meanwhile is taken over: the server is not asked."""
    desk.sign_in()
    manager = desk.manager()
    await manager.token()
    desk.bench.clock.advance(timedelta(seconds=3595))
    desk.sign_in("access-7", "refresh-7")
    assert (await manager.token()).value == "access-7"
    assert desk.sent == []


async def test_two_processes_at_once(desk: Desk) -> None:
    """Two that find the token at its end show the refresh token once."""
    desk.sign_in()
    desk.bench.clock.advance(timedelta(hours=2))
    desk.bench.answers(answer(2), INVALID)
    fetched = await asyncio.gather(*(desk.source().fetch() for _ in range(4)))
    assert {each.grant.access_token for each in fetched} == {"access-2"}
    assert desk.sent == ["refresh-1"]


async def test_an_outage_keeps_the_sign_in(desk: Desk) -> None:
    """Errors that say nothing about the refresh token leave it in force."""
    desk.sign_in()
    desk.bench.clock.advance(timedelta(hours=2))
    source = desk.source()
    for wrong in (http({}, 503), http({"error": "invalid_client"}, 401), http(b"<html>", 502)):
        desk.bench.answers(wrong)
        with pytest.raises(TokenEndpointError):
            await source.fetch()
        assert (desk.stored().refresh_token, desk.stored().refused) == ("refresh-1", "")
    desk.bench.answers(answer(2))
    assert (await source.fetch()).grant.access_token == "access-2"


async def test_a_disk_that_refuses_the_answer(desk: Desk) -> None:
    """A rotated token that cannot be stored is given to nobody; it is kept, and stored and given the next time."""
    desk.sign_in()
    desk.bench.clock.advance(timedelta(hours=2))
    (sealed,) = desk.folder.glob("*.sealed")
    obstacle = sealed.with_suffix(f".{os.getpid()}.tmp")

    async def in_the_way(_: Seen) -> bytes:
        obstacle.mkdir()
        return answer(2)

    desk.bench.answers(in_the_way, INVALID)
    source = desk.source()
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await source.fetch()
    obstacle.rmdir()
    assert (await source.fetch()).grant.access_token == "access-2"
    assert desk.sent == ["refresh-1"]
    assert desk.stored().refresh_token == "refresh-2"


async def test_closing_in_the_middle_of_an_exchange(desk: Desk) -> None:
    """A daemon that goes down waits for the answer: the rotated token is stored."""
    desk.sign_in()
    desk.bench.clock.advance(timedelta(hours=2))
    asked, go = asyncio.Event(), asyncio.Event()
    desk.bench.answers(_held_back(asked, go, answer(2)))
    manager = desk.manager()
    waiting = asyncio.create_task(manager.token())
    await asked.wait()
    waiting.cancel()
    closing = asyncio.create_task(manager.close())
    await asyncio.sleep(0)
    go.set()
    async with asyncio.timeout(30):
        await closing
    assert desk.stored().refresh_token == "refresh-2"


async def test_a_confidential_client_rolls_its_secret_over(desk: Desk) -> None:
    """A refused client secret is no refused sign-in: the next secret is tried with the same refresh token."""
    identity = replace(ANN, auth_method="client_secret_post", name="ann@acme")
    desk.sign_in()
    desk.bench.clock.advance(timedelta(hours=2))
    desk.bench.secrets[:] = ["old-secret", "new-secret"]
    desk.bench.answers(http({"error": "invalid_client"}, 401), answer(2))
    assert (await desk.source(identity).fetch()).grant.access_token == "access-2"
    assert desk.sent == ["refresh-1", "refresh-1"]
    forms = [seen.form["client_secret"] for seen in desk.bench.server.requests(TOKEN_PATH)]
    assert forms == [["old-secret"], ["new-secret"]]


async def test_a_person_by_a_client_with_a_key(desk: Desk, signing_key: str) -> None:
    """An application that shows who it is by `private_key_jwt` signs each renewal anew."""
    identity = replace(ANN, auth_method="private_key_jwt")
    desk.sign_in()
    desk.bench.secrets[:] = [signing_key]
    desk.bench.answers(answer(2), answer(3))
    source = desk.source(identity)
    for number in (2, 3):
        desk.bench.clock.advance(timedelta(hours=2))
        assert (await source.fetch()).grant.access_token == f"access-{number}"
    forms = [seen.form for seen in desk.bench.server.requests(TOKEN_PATH)]
    assert [form["refresh_token"] for form in forms] == [["refresh-1"], ["refresh-2"]]
    assert len({form["client_assertion"][0] for form in forms}) == 2
    assert not any("client_secret" in form for form in forms)


async def test_nothing_is_told(desk: Desk) -> None:
    """Neither refresh tokens nor access tokens get past the redactor, whoever repeats them."""
    desk.sign_in()
    desk.bench.clock.advance(timedelta(hours=2))
    repeated = {"error": "invalid_grant", "error_description": "unknown token refresh-1"}
    desk.bench.answers(http(repeated, 400))
    with pytest.raises(LoginRequiredError) as caught:
        await desk.source().fetch()
    assert "refresh-1" not in caught.value.message
    assert "unknown token" in caught.value.message


async def test_what_has_just_come_is_known_already(desk: Desk) -> None:
    """A refresh token that a renewal brings is a secret from its arrival, not from its first use."""
    desk.sign_in()
    desk.bench.clock.advance(timedelta(hours=2))
    desk.bench.answers(answer(2))
    await desk.source().fetch()
    assert desk.bench.redactor("refresh-1 refresh-2") == "[redacted] [redacted]"


@pytest.mark.parametrize(
    ("method", "due"), [("none", timedelta(hours=16)), ("client_secret_post", timedelta(days=20))]
)
async def test_kept_alive(desk: Desk, method: Any, due: timedelta) -> None:
    """A refresh token that nobody needs is used after two thirds of its life: a day for public clients, thirty for
    others; not before, and again after as long."""
    desk.sign_in()
    desk.bench.answers(answer(2), answer(3))
    source = desk.source(replace(ANN, auth_method=method))
    await source.fetch()
    desk.bench.clock.advance(due - timedelta(minutes=1))
    assert not source.is_due()
    desk.bench.clock.advance(timedelta(minutes=1))
    assert source.is_due()
    async with _kept(desk, source):
        await _until(lambda: desk.stored().access_token == "access-2")
        await _until(lambda: not source.is_due())
        desk.bench.clock.advance(due)
        await _until(lambda: _passes(desk) and desk.stored().access_token == "access-3")
    assert desk.sent == ["refresh-1", "refresh-2"]


async def test_signed_in_and_out_elsewhere(desk: Desk) -> None:
    """A daemon notices within seconds that somebody has signed in, as somebody else, and out, by other processes."""
    async with _kept(desk, desk.source()) as manager:
        desk.sign_in("access-1")
        await _until(lambda: _passes(desk) and _held(manager) == "access-1")
        desk.sign_in("access-2")
        await _until(lambda: _passes(desk) and _held(manager) == "access-2")
        desk.drawer().clear()
        await _until(lambda: _passes(desk) and manager.held is None)
        with pytest.raises(LoginRequiredError, match="nobody has signed in"):
            await manager.token()
    assert desk.sent == []


async def test_nobody_is_known_from_the_start(desk: Desk) -> None:
    """That a person has never signed in is told before any job needs her; who is signed in costs no request."""
    async with _kept(desk, desk.source()) as manager:
        await _until(lambda: manager.status().state is TokenState.LOGIN_REQUIRED)
        assert [event["identity"] for event in desk.bench.named("token.login_required")] == ["ann@acme"]
        desk.sign_in()
        await _until(lambda: _passes(desk) and manager.status().state is TokenState.FRESH)
    assert desk.sent == []


@pytest.mark.parametrize(
    ("age", "state", "shown"),
    [
        (timedelta(minutes=5), TokenState.FRESH, True),
        (timedelta(hours=2), TokenState.EXPIRED, False),
        (None, TokenState.LOGIN_REQUIRED, False),
    ],
)
async def test_what_is_stored_is_shown(
    desk: Desk, age: timedelta | None, state: TokenState, shown: bool
) -> None:
    """A process that only looks tells how the sign-in stands, and asks nobody."""
    if age is not None:
        desk.sign_in()
        desk.bench.clock.advance(age)
    manager = desk.manager()
    await manager.recall()
    status = manager.status()
    assert (status.state, status.fingerprint is not None, desk.sent) == (state, shown, [])
    desk.bench.answers(answer(2))
    if age is not None:
        assert (await manager.token()).value == ("access-1" if shown else "access-2")


async def test_who_signed_out_is_used_no_more(desk: Desk) -> None:
    """The very next call after a sign-in or a sign-out elsewhere sees it, the third within a minute too, and so does
    one that comes while the token is renewed."""
    desk.sign_in("access-1")
    manager = desk.manager()
    for number in (1, 2, 3):
        desk.sign_in(f"access-{number}")
        assert (await manager.token()).value == f"access-{number}"
    desk.drawer().clear()
    assert manager.held is None
    with pytest.raises(LoginRequiredError, match="nobody has signed in"):
        await manager.token()
    desk.sign_in("access-4")
    assert (await manager.token()).value == "access-4"
    assert desk.sent == []


async def test_a_renewal_that_finds_nobody_signed_in(desk: Desk) -> None:
    """It takes the token away that had some life left, however it came to look."""
    desk.sign_in()
    source = desk.source()
    manager = desk.manager(source)
    await manager.token()
    desk.drawer().clear()
    with pytest.raises(LoginRequiredError):
        await source.fetch()
    assert manager.held is None


async def test_a_refusal_of_a_token_that_is_not_stored_any_more(desk: Desk) -> None:
    """Somebody signs in while the old refresh token is being refused, through a lock that does not hold: the refusal
    is not that of the new sign-in, which stays as it is and serves."""
    desk.sign_in()
    desk.bench.clock.advance(timedelta(hours=2))

    async def signed_in_meanwhile(_: Seen) -> bytes:
        desk.sign_in("access-7", "refresh-7")
        return INVALID

    desk.bench.answers(signed_in_meanwhile)
    source = desk.source()
    with pytest.raises(TokenEndpointError, match="renewed elsewhere") as caught:
        await source.fetch()
    assert caught.value.retryable
    assert (desk.stored().refresh_token, desk.stored().refused) == ("refresh-7", "")
    assert (await source.fetch()).grant.access_token == "access-7"


async def test_an_answer_overtaken_by_a_sign_in(desk: Desk) -> None:
    """A rotated token that could not be stored gives way to who has signed in meanwhile."""
    desk.sign_in()
    desk.bench.clock.advance(timedelta(hours=2))
    (sealed,) = desk.folder.glob("*.sealed")
    obstacle = sealed.with_suffix(f".{os.getpid()}.tmp")

    async def in_the_way(_: Seen) -> bytes:
        obstacle.mkdir()
        return answer(2)

    desk.bench.answers(in_the_way)
    source = desk.source()
    with pytest.raises(StoreUnavailableError):
        await source.fetch()
    obstacle.rmdir()
    desk.sign_in("access-7", "refresh-7")
    assert (await source.fetch()).grant.access_token == "access-7"
    assert desk.stored().refresh_token == "refresh-7"


_PROCESS = """
    import asyncio, os, signal, sys
    from pathlib import Path
    import httpx2
    from erpsync.core.clock import SystemClock
    from erpsync.core.event import silent
    from erpsync.core.instance import Identity
    from erpsync.core.redaction import Redactor
    from erpsync.identity.client import TokenClient
    from erpsync.identity.gate import ServerGates
    from erpsync.identity.manager import TokenManager
    from erpsync.identity.metadata import MetadataSource
    from erpsync.identity.refresh import RefreshSource
    from erpsync.identity.sealed import SealedStore

    identity = Identity("ann@acme", "acme", "my.app/desk", grant="authorization_code", auth_method="none")
    folder, issuer = Path(sys.argv[1]), sys.argv[2]

    async def find_issuer():
        return issuer

    async def main():
        clock, redactor = SystemClock(), Redactor()
        drawer = SealedStore(folder, ["k" * 32], silent, host="here").drawer(identity, issuer)
        async with httpx2.AsyncClient(trust_env=False) as client:
            tokens = TokenClient(
                identity, metadata=MetadataSource(client, find_issuer, clock=clock), secrets=list, client=client,
                gates=ServerGates(clock), clock=clock, emit=silent, redactor=redactor,
            )
            source = RefreshSource(tokens, drawer)
            manager = TokenManager(identity, source, clock=clock, emit=silent, redactor=redactor)
            token = await manager.token()
            if len(sys.argv) > 3:
                os.kill(os.getpid(), signal.SIGKILL)  # received, and not used
            print(token.value)
"""


async def _process(desk: Desk, before: str = "", *arguments: str) -> tuple[int, str]:
    code = dedent(_PROCESS) + dedent(before) + "\nasyncio.run(main())\n"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        str(desk.folder),
        desk.bench.issuer,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode().strip()


async def test_T47_killed_between_receiving_and_using(desk: Desk) -> None:
    """A process killed as soon as it holds the new token has stored it: the next one finds it and asks nothing."""
    desk.sign_in()
    desk.bench.answers(answer(2), INVALID)
    assert (await _process(desk, "", "die"))[0] == -signal.SIGKILL
    assert await _process(desk) == (0, "access-2")
    assert desk.sent == ["refresh-1"]
    assert desk.stored().refresh_token == "refresh-2"


async def test_T47_killed_before_it_could_store(desk: Desk) -> None:
    """Killed with the answer in hand and nothing stored, the next process shows the same refresh token once more."""
    desk.sign_in()
    desk.bench.answers(answer(2), answer(2))
    kill = """
        times = []
        keep = Path.replace
        def replace(self, target):
            times.append(target)
            if len(times) == 2:  # the first note is that of the attempt
                os.kill(os.getpid(), signal.SIGKILL)
            return keep(self, target)
        Path.replace = replace
    """
    assert (await _process(desk, kill))[0] == -signal.SIGKILL
    stored = desk.stored()
    assert stored.refresh_token == "refresh-1"
    assert stored.attempt is not None
    assert await _process(desk) == (0, "access-2")
    assert desk.sent == ["refresh-1", "refresh-1"]


@asynccontextmanager
async def _kept(desk: Desk, source: RefreshSource) -> AsyncIterator[TokenManager]:
    manager = desk.manager(source)
    keeping = asyncio.create_task(keep_signed_in(lambda: [(manager, source)], desk.bench.clock))
    try:
        yield manager
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def _passes(desk: Desk) -> bool:
    desk.bench.clock.advance(timedelta(seconds=LOOK_SECONDS))
    return True


def _held(manager: TokenManager) -> str | None:
    return manager.held.value if manager.held else None


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what others do is looked at
            await asyncio.sleep(0.01)


async def _told(bench: Bench, event: str) -> None:
    await _until(lambda: bench.named(event))


def _held_back(asked: asyncio.Event, go: asyncio.Event, late: bytes) -> Script:
    async def script(_: Seen) -> bytes:
        asked.set()
        await go.wait()
        return late

    held: Callable[[Seen], Awaitable[bytes]] = script
    return held
