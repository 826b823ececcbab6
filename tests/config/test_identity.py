"""Identities by grant: what each needs, what is filled in, and where secrets are looked for."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from erpsync.config.secrets import secret_problems
from erpsync.core.instance import Identity
from erpsync.core.problem import Problem
from tests.config.conftest import ACME, Load
from tests.config.test_secrets import named, resolver, write

Problems = Callable[..., list[Problem]]
OIDC = '[instances.other]\nkind = "oidc"\nissuer = "https://id.example"\napi = ["https://api.example/"]\n'


def only(load: Load, keys: str, instance: str = ACME, home: str = "acme") -> Identity:
    """The one identity of a configuration."""
    configuration = load(f'{instance}\n[identities.one]\ninstance = "{home}"\n{keys}')
    return configuration.identities["one"]


def test_a_service_with_a_key(load: Load) -> None:
    """private_key_jwt has a key in place of a secret; audience, resources and extra parameters travel along."""
    identity = only(
        load,
        'client_id = "x"\nauth_method = "private_key_jwt"\nprivate_key = { file = "night.pem" }\n'
        'key_id = "k1"\naudience = "api"\nresource = ["urn:a", "urn:b"]\nextra = { tenant = "t" }\n',
    )
    assert identity.grant == "client_credentials"
    assert (identity.auth_method, identity.key_id) == ("private_key_jwt", "k1")
    assert [secret.kind for secret in identity.secrets] == ["file"]
    assert (identity.audience, identity.resource, identity.extra) == (
        "api",
        ("urn:a", "urn:b"),
        {"tenant": "t"},
    )


def test_a_client_without_a_secret(load: Load) -> None:
    """Client authentication "none" needs no secret."""
    identity = only(load, 'client_id = "x"\nauth_method = "none"\n')
    assert (identity.auth_method, identity.secrets) == ("none", ())


@pytest.mark.parametrize(
    ("written", "end"),
    [
        ("2027-03-01", datetime(2027, 3, 2, tzinfo=UTC) - timedelta(microseconds=1)),
        ('"2027-03-01"', datetime(2027, 3, 2, tzinfo=UTC) - timedelta(microseconds=1)),
        ("2027-03-01T12:00:00+02:00", datetime(2027, 3, 1, 10, tzinfo=UTC)),
    ],
)
def test_a_reference_token(load: Load, written: str, end: datetime) -> None:
    """It has a token and no client; a day is its end, in UTC."""
    identity = only(
        load,
        'grant = "reference_token"\ntoken = { secret = "sat" }\n'
        f'token_header = "x-api-key"\ntoken_expires = {written}\n',
    )
    assert (identity.client_id, identity.token_scheme, identity.token_expires) == ("", "x-api-key", end)
    assert identity.secrets == (named("sat"),)


@pytest.mark.parametrize(
    ("keys", "method"),
    [("", "none"), ('client_secret = { secret = "web" }\n', "client_secret_post")],
)
def test_a_person_stays_signed_in(load: Load, keys: str, method: str) -> None:
    """A person's identity asks for a name and a refresh token by itself; without a secret the client is public."""
    identity = only(load, f'grant = "authorization_code"\nclient_id = "x"\nscope = "read openid"\n{keys}')
    assert identity.scope == ("read", "openid", "offline_access")
    assert identity.auth_method == method


def test_scopes_of_people_are_the_servers_business_elsewhere(load: Load) -> None:
    """Only ERP.net is known to refuse them to services."""
    keys = 'client_id = "x"\nclient_secret = { secret = "s" }\nscope = "openid"\n'
    assert only(load, keys, OIDC, "other").scope == ("openid",)


def test_a_problem_stands_at_the_key(problems: Problems) -> None:
    """A key of another grant is told where it stands, with the grant it goes with."""
    (problem,) = problems(
        f'{ACME}[identities.one]\ninstance = "acme"\ngrant = "reference_token"\n'
        'token = { secret = "sat" }\nclient_secret = { secret = "x" }\n'
    )
    assert (problem.code, problem.line, problem.key) == ("E105", 8, "identities.one.client_secret")
    assert "token" in problem.help


def test_every_kind_of_secret_is_looked_for(load: Load, tmp_path: Path) -> None:
    """A key and a reference token that are missing are told like a client secret, at their place."""
    configuration = load(
        f'{ACME}[identities.a]\ninstance = "acme"\ngrant = "reference_token"\ntoken = {{ secret = "sat" }}\n'
        '[identities.b]\ninstance = "acme"\nclient_id = "x"\nauth_method = "private_key_jwt"\n'
        'private_key = { secret = "key" }\n'
        '[identities.c]\ninstance = "acme"\nclient_id = "x"\nauth_method = "none"\n'
    )
    look = resolver(tmp_path, {}, "s")
    assert [problem.key for problem in secret_problems(configuration, look)] == [
        "identities.a.token",
        "identities.b.private_key",
    ]
    for name in ("sat", "key"):
        write(tmp_path / "s" / name, "dragon-tree-7")
    assert secret_problems(configuration, look) == []


def test_where_a_browser_comes_back(load: Load) -> None:
    """A person may name one exact address of this machine."""
    address = "http://127.0.0.1:8401/back"
    identity = only(load, f'grant = "authorization_code"\nclient_id = "x"\nredirect_uri = "{address}"\n')
    assert identity.redirect_uri == address


@pytest.mark.parametrize(
    "address",
    [
        "https://127.0.0.1:8401/back",
        "http://10.0.0.1:8401/back",
        "http://127.0.0.1.example.com/",
        "http://ann@127.0.0.1/",
        "http://127.0.0.1/?a=b",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:port/",
        "somewhere",
    ],
)
def test_where_a_browser_must_not_come_back(problems: Problems, address: str) -> None:
    """Anything but a plain loopback address would send a code to somebody else."""
    text = f'{ACME}[identities.one]\ninstance = "acme"\ngrant = "authorization_code"\nclient_id = "x"\n'
    (problem,) = problems(text + f'redirect_uri = "{address}"\n')
    assert (problem.code, problem.key) == ("E105", "identities.one.redirect_uri")


def test_a_service_has_no_browser(problems: Problems) -> None:
    """redirect_uri goes with people only, and the help says so."""
    text = f'{ACME}[identities.one]\ninstance = "acme"\nclient_id = "x"\nclient_secret = {{ env = "X" }}\n'
    (problem,) = problems(text + 'redirect_uri = "http://127.0.0.1/"\n')
    assert (problem.code, "authorization_code" in problem.help) == ("E105", True)
