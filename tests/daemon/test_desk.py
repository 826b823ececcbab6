"""What people are told of an identity that is in trouble, of one that nobody uses, and of licence slots."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from erpsync.config.load import load_configuration
from erpsync.core.redaction import Redactor
from erpsync.core.run import RunFailure
from erpsync.daemon.desk import identity_trouble
from erpsync.daemon.desk_alone import desk_alone
from erpsync.identity.status import IdentityStatus, TokenState

WHY = RunFailure("SomeError", "it is away", "wait a little")
END = datetime(2026, 1, 1, 3, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (IdentityStatus("n", TokenState.FRESH), ""),
        (IdentityStatus("n", TokenState.ABSENT), ""),
        (
            IdentityStatus("n", TokenState.LOGIN_REQUIRED, last_error=WHY),
            "identity n waits for somebody to sign in: it is away; wait a little",
        ),
        (
            IdentityStatus("n", TokenState.REJECTED, last_error=WHY),
            "identity n is refused: it is away; wait a little",
        ),
        (
            IdentityStatus("n", TokenState.BACKOFF, last_error=WHY),
            "identity n has no token: it is away; wait a little",
        ),
        (
            IdentityStatus("n", TokenState.BACKOFF, grant="reference_token", expires_at=END, last_error=WHY),
            "identity n has no token: it is away; wait a little",
        ),
        (
            IdentityStatus("n", TokenState.AGING, fingerprint="tok_1", expires_at=END, last_error=WHY),
            "identity n cannot renew its token, which serves until 2026-01-01 03:00:00 UTC: it is away; "
            "wait a little",
        ),
        (
            IdentityStatus(
                "n", TokenState.FRESH, grant="reference_token", fingerprint="tok_1", last_error=WHY
            ),
            "identity n goes on with the token it has, which cannot be read again: it is away; wait a little",
        ),
    ],
)
def test_troubles_are_one_sentence(status: IdentityStatus, said: str) -> None:
    """What is wrong, until when it does no harm, why, and what to do."""
    assert identity_trouble(status) == said


TEXT = """
[daemon]
data = "data"
[instances.acme]
url = "http://127.0.0.1:9"
license_slots = 2
[identities.hand]
instance = "acme"
grant = "reference_token"
token = { env = "NOWHERE" }
token_expires = 2099-12-31
"""


@pytest.mark.parametrize(("days", "words"), [(100, ()), (10, ("expires",)), (-10, ("expired",))])
async def test_what_nobody_uses_is_shown(tmp_path: Path, days: int, words: tuple[str, ...]) -> None:
    """The end of a reference token is known without reading it, and slots that nobody holds are there."""
    file = tmp_path / "erpsync.toml"
    ends = datetime.now(UTC) + timedelta(days=days)
    file.write_text(TEXT.replace("2099-12-31", f"{ends:%Y-%m-%d}"))
    async with desk_alone(load_configuration(file, {}), Redactor()) as desk:
        (document,) = desk.identities()
        (slots,) = desk.licenses()
    assert (document["state"], document["survives_seconds"]) == ("absent", None)
    assert (
        f"{ends:%Y-%m-%d}" <= str(document["expires_at"]) <= f"{ends + timedelta(days=1, hours=12):%Y-%m-%d}"
    )
    warnings = document["warnings"]
    assert isinstance(warnings, list)
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))
    assert (slots["instance"], slots["slots"], slots["in_use"]) == ("acme", 2, 0)
