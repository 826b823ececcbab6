"""`doctor` finds what is wrong between this machine and real servers, and says what to mend."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from erpsync.config.load import load_configuration
from erpsync.core.instance import Identity
from erpsync.core.redaction import Redactor
from erpsync.core.token import AccessToken
from erpsync.daemon.desk_alone import desk_alone, examine_alone
from erpsync.daemon.doctor import _token
from erpsync.sandbox.server import Sandbox
from tests.servers.scripted import ScriptedServer, http

SERVICE = """
[daemon]
data = "data"
[secrets]
from = ["secrets"]
[instances.acme]
url = "URL"
[identities.service]
instance = "acme"
client_id = "erpsync.sandbox/service"
client_secret = { secret = "acme" }
"""
OTHER = """
[instances.other]
kind = "oidc"
issuer = "URL/id"
api = ["URL/"]
ca_file = "ca.pem"
"""

Findings = dict[tuple[str, str | None], list[dict[str, object]]]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration and its secret, readable by us alone."""
    (tmp_path / "secrets").mkdir(mode=0o700)

    def write_(text: str, url: str, secret: str = "sandbox-secret") -> Path:
        path = tmp_path / "secrets" / "acme"
        path.touch(mode=0o600)
        path.write_text(secret)
        file = tmp_path / "erpsync.toml"
        file.write_text(text.replace("URL", url))
        return file

    return write_


async def examined(file: Path, *, api: bool = False) -> Findings:
    """What is found, by step and identity; no secret is among it."""
    configuration = load_configuration(file, {})
    (name,) = configuration.instances
    found = await examine_alone(configuration, Redactor(), [name], api=api, tell=str, at_once=4)
    assert "sandbox-secret" not in str(found)
    by_step: Findings = {}
    for finding in found[name]:
        by_step.setdefault((str(finding["step"]), finding["identity"]), []).append(finding)  # type: ignore[arg-type]
    return by_step


def only(found: Findings, step: str, identity: str | None = "service") -> dict[str, object]:
    (finding,) = found[step, identity]
    return finding


async def test_a_healthy_instance_is_all_ok(write: Write, sandbox: Sandbox) -> None:
    """Addresses, issuer, token endpoint, clock, token, scope, user: each ok, and no session is opened."""
    found = await examined(write(SERVICE + 'scope = ["read"]', sandbox.url))
    assert {each["verdict"] for findings in found.values() for each in findings} == {"ok"}
    steps = [step for step, _ in found]
    assert steps == ["discovery", "issuer", "token endpoint", "TLS", "clock", "token", "scope", "user"]
    assert only(found, "scope")["message"] == "read"
    assert only(found, "user")["message"] == "SYSTEM_APPLICATION_USER in database SANDBOX"
    assert sandbox.stats()["sessions_opened"] == 0


@pytest.mark.parametrize(
    ("fields", "step", "hint", "error"),
    [
        ({"is_enabled": False}, "token", "IsEnabled", "TokenEndpointError"),
        ({"system_user_allowed": False}, "token", "SystemUserAllowed", "TokenEndpointError"),
        ({"scope": "read"}, "token", "Scope", "TokenEndpointError"),
    ],
)
async def test_a_refusal_names_the_field_to_mend(
    write: Write, sandbox: Sandbox, fields: dict[str, object], step: str, hint: str, error: str
) -> None:
    """What the Trusted Application lacks is said by its own field name."""
    sandbox.register("erpsync.sandbox/service", "sandbox-secret", **fields)  # type: ignore[arg-type]
    found = await examined(write(SERVICE + 'scope = ["read", "update"]', sandbox.url))
    finding = only(found, step)
    assert (finding["verdict"], finding["error"], finding["retryable"]) == ("failed", error, False)
    assert hint in str(finding["hint"])


def test_scopes_about_people_are_not_missed() -> None:
    """`openid`, `profile` and `offline_access` ask about a person; servers do not list them in an access token."""
    asked = ("read", "openid", "profile", "offline_access")
    ann = Identity("ann", "box", "app/ann", scope=asked, grant="authorization_code")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    token = AccessToken("opaque", 1, now, now + timedelta(hours=1), ("read",))
    assert {finding.verdict for finding in _token(ann, token, now)} == {"ok"}


async def test_a_narrower_scope_is_a_warning(write: Write, sandbox: Sandbox) -> None:
    """A server that grants less than was asked for is found out before the first write fails."""
    sandbox.fail(where="token", pass_=True, merge={"scope": "read"})
    found = await examined(write(SERVICE + 'scope = ["read", "update"]', sandbox.url))
    finding = only(found, "scope")
    assert (finding["verdict"], finding["message"]) == ("warning", "asked for read update, granted read")
    assert "add update to the field Scope" in str(finding["hint"])


async def test_a_secret_that_others_can_read_is_a_warning(write: Write, sandbox: Sandbox) -> None:
    """The mode of the file is looked at, and the remedy can be typed."""
    file = write(SERVICE, sandbox.url)
    secret = file.parent / "secrets" / "acme"
    secret.chmod(0o644)
    finding = only(await examined(file), "secret")
    assert (finding["verdict"], finding["hint"]) == ("warning", f"chmod 600 {secret}")


async def test_a_clock_that_differs_is_a_warning(write: Write, sandbox: Sandbox) -> None:
    """A server two minutes ahead is named with the difference."""
    sandbox.skew(120)
    found = await examined(write(SERVICE, sandbox.url))
    finding = only(found, "clock", None)
    assert finding["verdict"] == "warning"
    assert "s ahead" in str(finding["message"])


async def test_nobody_at_the_address_is_temporary(write: Write) -> None:
    """An instance that is away fails in one line, worth trying again; its identities are not asked for."""
    found = await examined(write(SERVICE, "http://127.0.0.1:9"))
    assert list(found) == [("discovery", None)]
    assert only(found, "discovery", None)["retryable"] is True


@pytest.mark.parametrize(("days", "verdict"), [(None, "warning"), (5, "warning"), (60, "ok"), (-1, "failed")])
async def test_the_end_of_a_reference_token_is_watched(
    write: Write, sandbox: Sandbox, days: int | None, verdict: str
) -> None:
    """Unknown or near is a warning, over is a failure; the hint says where a new one is issued."""
    ends = "" if days is None else f"token_expires = {datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}"
    text = (
        SERVICE.partition("client_id")[0] + 'grant = "reference_token"\ntoken = { secret = "acme" }\n' + ends
    )
    file = write(text, sandbox.url, sandbox.reference_token("erpsync.sandbox/service"))
    found = await examined(file)
    assert only(found, "expiry")["verdict"] == verdict
    if verdict != "failed":
        assert "not checked" in str(only(found, "token")["message"])
        sandbox.revoke_tokens()
        assert only(await examined(file, api=True), "API")["error"] == "IdentityError"


async def test_the_api_step_opens_one_session(write: Write, sandbox: Sandbox) -> None:
    """With `api` one row is read, and the finding says what it cost."""
    found = await examined(write(SERVICE, sandbox.url), api=True)
    finding = only(found, "API")
    assert finding["verdict"] == "ok"
    assert "licence slot" in str(finding["message"])
    assert sandbox.stats()["sessions_opened"] == 1


async def test_no_free_slot_is_temporary(write: Write, sandbox: Sandbox) -> None:
    """Where other people hold every licence slot, waiting helps."""
    sandbox.occupy(5)
    finding = only(await examined(write(SERVICE, sandbox.url), api=True), "API")
    assert (finding["verdict"], finding["error"], finding["retryable"]) == (
        *("failed", "LicenseExhaustedError"),
        True,
    )


async def test_missing_rights_are_a_warning(write: Write, sandbox: Sandbox) -> None:
    """A refused read shows that the token works; the system user's rights are named."""
    sandbox.fail(where="api", path="/api/domain/odata/General_Ent*", status=403, times=-1)
    finding = only(await examined(write(SERVICE, sandbox.url), api=True), "API")
    assert finding["verdict"] == "warning"
    assert "SystemUser" in str(finding["hint"])


@pytest.fixture
def secured(tmp_path: Path) -> Callable[[int], ScriptedServer]:
    """Makes servers with a certificate that ends in so many days; its authority lies in ca.pem."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    def server(days: int) -> ScriptedServer:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ends = datetime.now(UTC) + timedelta(days=days, hours=1)
        authority.issue_cert("localhost", not_after=ends).configure_cert(context)
        return ScriptedServer(context)

    return server


@pytest.mark.parametrize(("days", "verdict"), [(90, "ok"), (5, "warning")])
async def test_certificates_are_read(
    write: Write, secured: Callable[[int], ScriptedServer], days: int, verdict: str
) -> None:
    """Who issued the certificate and when it ends; near its end it is a warning."""
    async with secured(days) as server:
        document = {"issuer": f"{server.url}/id", "token_endpoint": "https://elsewhere.example/token"}
        server.script["/id/.well-known/openid-configuration"] = http(document)
        found = await examined(write(OTHER, server.url))
    first, elsewhere = found["TLS", None]
    assert (first["verdict"], "trustme" in str(first["message"])) == (verdict, True)
    assert elsewhere["verdict"] == "failed"
    endpoint = only(found, "token endpoint", None)
    assert (endpoint["verdict"], "elsewhere.example" in str(endpoint["message"])) == ("warning", True)


async def test_an_unknown_authority_is_refused(
    write: Write, secured: Callable[[int], ScriptedServer], tmp_path: Path
) -> None:
    """A certificate that nobody here trusts fails for good, and the hint names `ca_file`."""
    async with secured(90) as server:
        finding = only(await examined(write(OTHER.replace("ca_file", "# "), server.url)), "issuer", None)
    assert (finding["error"], finding["retryable"]) == ("DiscoveryError", False)
    assert "ca_file" in str(finding["hint"])


async def test_another_issuer_is_refused(write: Write, sandbox: Sandbox) -> None:
    """A server that calls itself otherwise than it was called gets no secret."""
    sandbox.fail(
        where="discovery", path="/id/.well-known", pass_=True, merge={"issuer": "https://evil.example"}
    )
    found = await examined(write(SERVICE, sandbox.url))
    assert only(found, "issuer", None)["retryable"] is False
    assert sum(sandbox.stats()["token_requests"].values()) == 0


async def test_a_token_is_fetched_and_described(write: Write, sandbox: Sandbox) -> None:
    """`token --fetch` without a daemon: a real request, the claims, and no token."""
    async with desk_alone(load_configuration(write(SERVICE, sandbox.url), {}), Redactor()) as desk:
        shown = await desk.fetch("service")
    assert shown["claims"]["client_db"] == "SANDBOX"  # type: ignore[index]
    assert shown["state"] == "fresh"
    assert all(token not in str(shown) for token in sandbox.tokens())
