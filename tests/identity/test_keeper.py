"""A service's token over a restart: used on while it is what would be asked for, and never otherwise."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from erpsync.core.errors import SecretUnavailableError
from erpsync.core.instance import Identity
from erpsync.identity.manager import TokenManager
from erpsync.identity.sealed import Drawer, SealedStore
from tests.identity.conftest import DOWN, NIGHT, REFUSED, TOKEN_PATH, Bench, grant, passing, seconds
from tests.servers.scripted import http

Restart = Callable[..., TokenManager]


@pytest.fixture
def restart(bench: Bench, tmp_path: Path) -> Restart:
    """A manager as a new process has it, over the same folder of sealed tokens."""

    def restarted(**changes: Any) -> TokenManager:
        return bench.manager(drawer=drawer(bench, tmp_path, **changes), **changes)

    return restarted


def drawer(bench: Bench, folder: Path, **changes: Any) -> Drawer:
    identity = Identity(**{"name": NIGHT.name, "instance": "acme", "client_id": NIGHT.client_id} | changes)
    return SealedStore(folder, ["k" * 32], bench.emit, host="machine-1").drawer(identity, bench.issuer)


async def test_a_restart_uses_the_token_on(bench: Bench, restart: Restart) -> None:
    """Twenty restarts within the hour make one request; life and age go on counting."""
    bench.answers(http(grant("one")), http(grant("two")))
    first = await restart().token()
    for _ in range(20):
        bench.clock.advance(seconds(150))
        manager = restart()
        token = await manager.token()
        assert (token.value, token.obtained_at, token.expires_at) == (
            "one",
            first.obtained_at,
            first.expires_at,
        )
        assert manager.status().survives_seconds is not None
    assert bench.token_requests == 1
    assert len(bench.named("token.restored")) == 20
    bench.clock.advance(seconds(545))
    assert (await restart().token()).value == "two"


async def test_a_reboot_and_a_clock_set_back(bench: Bench, restart: Restart) -> None:
    """What is stored has no boot-time clock: a token from the future is not used, another boot does no harm."""
    bench.answers(http(grant("one")), http(grant("two")), http(grant("three")))
    await restart().token()
    bench.clock._boot = 7.0
    bench.clock.step(seconds(600))
    token = await restart().token()
    assert token.value == "one"
    bench.clock.step(timedelta(hours=-1))
    assert (await restart().token()).value == "two"


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": ("read",)},
        {"client_id": "another.app"},
        {"audience": "api"},
        {"resource": ("urn:a",)},
        {"extra": {"tenant": "t"}},
    ],
)
async def test_what_was_asked_for_otherwise_is_not_used(
    bench: Bench, restart: Restart, changes: dict[str, Any]
) -> None:
    """Another client, scope, audience, resource or parameter makes another token."""
    await restart().token()
    bench.answers(http(grant("two")))
    assert (await restart(**changes).token()).value == "two"


async def test_the_secret_decides(bench: Bench, restart: Restart) -> None:
    """A secret that is gone takes its token with it; in a roll-over both secrets' tokens are good."""
    await restart().token()
    bench.secrets.insert(0, "the-new-secret")
    assert (await restart().token()).value == "opaque-token-1"
    bench.secrets.pop()
    bench.answers(http(grant("two")))
    assert (await restart().token()).value == "two"
    assert bench.token_requests == 2


async def test_a_missing_secret_is_told(bench: Bench, restart: Restart, tmp_path: Path) -> None:
    """Without its secret an identity is parked, whatever is stored; with it the stored token is used."""
    await restart().token()
    missing = True

    def read() -> list[str]:
        if missing:
            raise SecretUnavailableError("secret:acme.night is nowhere")
        return bench.secrets

    manager = bench.manager(drawer=drawer(bench, tmp_path), secrets=read)
    with pytest.raises(SecretUnavailableError):
        await manager.token()
    missing = False
    bench.clock.advance(seconds(6))
    assert (await manager.token()).value == "opaque-token-1"
    assert bench.token_requests == 1


async def test_a_refused_token_is_not_brought_back(bench: Bench, restart: Restart) -> None:
    """After a 401 the new token is stored in place of the old; looking is done once a process."""
    bench.answers(http(grant("one")), http(grant("two")))
    await restart().token()
    manager = restart()
    manager.invalidate((await manager.token()).version, "401")
    assert (await manager.token()).value == "two"
    assert (await restart().token()).value == "two"


async def test_a_stored_token_is_too_old_for_a_session(bench: Bench, restart: Restart) -> None:
    """Who needs a token of the last minute gets a new one, which is then the stored one."""
    bench.answers(http(grant("one")), http(grant("two")))
    await restart().token()
    bench.clock.advance(seconds(600))
    assert (await restart().token(max_age=seconds(60))).value == "two"
    assert (await restart().token()).value == "two"


async def test_an_outage_at_the_start_is_survived(bench: Bench, restart: Restart) -> None:
    """With a stored token a process can start while its identity server is away, or refuses."""
    await restart().token()
    for answer in (DOWN, REFUSED):
        bench.answers(answer)
        assert (await restart().token()).value == "opaque-token-1"


async def test_a_probe_never_replaces_what_is_stored(bench: Bench, restart: Restart) -> None:
    """A token that somebody only wanted to see is thrown away; the session's own is still there."""
    bench.answers(http(grant("one")), http(grant("two")))
    manager = restart()
    await manager.token()
    assert (await manager.probe()).value == "two"
    assert (await restart().token()).value == "one"


async def test_a_disk_that_refuses(bench: Bench, restart: Restart, tmp_path: Path) -> None:
    """A token that cannot be stored is used all the same, which is told."""
    manager = restart()
    for file in tmp_path.iterdir():
        file.unlink()
    tmp_path.rmdir()
    assert (await passing(bench.clock, manager.token())).value == "opaque-token-1"
    assert "cannot be kept" in str(bench.named("token.store_failed")[0]["error_message"])
    tmp_path.mkdir()


async def test_nothing_is_stored_in_the_clear(bench: Bench, restart: Restart, tmp_path: Path) -> None:
    """Neither token nor secret stands in a file."""
    await restart().token()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert content
    assert b"opaque-token-1" not in content
    assert bench.server.requests(TOKEN_PATH)[0].form["client_secret"][0].encode() not in content
