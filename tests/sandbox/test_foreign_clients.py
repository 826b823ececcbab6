"""Clients that are not ours get tokens, for a service or for a person, and read data, unchanged."""

import pytest
from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuth2Client
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey
from oauthlib.oauth2 import BackendApplicationClient, InvalidClientError, InvalidGrantError
from requests_oauthlib import OAuth2Session

from erpsync.sandbox.identity import CLIENT_ID, CLIENT_SECRET, NATIVE, SIGNED, WEB
from tests.servers.person import CALLBACK, sign_in


@pytest.fixture
def urls(reader):
    """The token endpoint and a page of products."""
    root = reader.sandbox.url
    return (
        f"{root}/id/connect/token",
        f"{root}/api/domain/odata/General_Products_Products?$top=3&$select=PartNumber",
    )


@pytest.fixture
def oauthlib_session(monkeypatch):
    """requests-oauthlib, told that plain http on loopback will do."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    with OAuth2Session(client=BackendApplicationClient(CLIENT_ID, scope=["read", "update"])) as session:
        session.trust_env = False
        yield session


@pytest.mark.parametrize("by_form", [True, None])
def test_requests_oauthlib_reads(oauthlib_session, urls, by_form):
    """requests-oauthlib gets a token, with its credentials in the form or by HTTP Basic, and reads."""
    token_url, page_url = urls
    given = {"client_secret": CLIENT_SECRET, "include_client_id": by_form}
    if by_form is None:
        given["client_id"] = CLIENT_ID
    token = oauthlib_session.fetch_token(token_url, **given)
    assert token["scope"] == ["read", "update"]
    assert len(oauthlib_session.get(page_url).json()["value"]) == 3


def test_requests_oauthlib_understands_the_refusal(oauthlib_session, urls):
    """A wrong secret becomes the library's own error for invalid_client."""
    with pytest.raises(InvalidClientError):
        oauthlib_session.fetch_token(urls[0], client_secret="wrong", include_client_id=True)


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_authlib_on_httpx_reads(urls, method):
    """Authlib's client gets a token by either way of authentication and reads."""
    token_url, page_url = urls
    with OAuth2Client(CLIENT_ID, CLIENT_SECRET, token_endpoint_auth_method=method, trust_env=False) as client:
        client.fetch_token(token_url, grant_type="client_credentials")
        assert len(client.get(page_url).json()["value"]) == 3


async def test_authlib_async_reads(urls):
    """Authlib's asynchronous client fetches its first token by itself and reads."""
    token_url, page_url = urls
    async with AsyncOAuth2Client(
        CLIENT_ID,
        CLIENT_SECRET,
        scope="read",
        token_endpoint=token_url,
        grant_type="client_credentials",
        trust_env=False,
    ) as client:
        await client.fetch_token()
        assert len((await client.get(page_url)).json()["value"]) == 3


def test_authlib_on_requests_reads(urls):
    """Authlib's requests session gets a token and reads."""
    token_url, page_url = urls
    with AuthlibSession(CLIENT_ID, CLIENT_SECRET, scope="read update") as session:
        session.trust_env = False
        session.fetch_token(token_url, grant_type="client_credentials")
        assert len(session.get(page_url).json()["value"]) == 3


@pytest.fixture
def issuer(reader):
    """Where people sign in."""
    return f"{reader.sandbox.url}/id"


SCOPE = ["openid", "read", "offline_access"]


@pytest.mark.parametrize(("client_id", "secret"), [(NATIVE, None), (WEB, CLIENT_SECRET)])
def test_requests_oauthlib_signs_a_person_in(oauthlib_session, issuer, urls, client_id, secret):
    """Code with PKCE, state checked, then a refresh; the old refresh token is refused by its documented error."""
    token_url, page_url = urls
    session = OAuth2Session(client_id, scope=SCOPE, redirect_uri=CALLBACK, pkce="S256")
    session.trust_env = False
    url, _ = session.authorization_url(f"{issuer}/connect/authorize")
    first = session.fetch_token(
        token_url, authorization_response=sign_in(url), client_secret=secret, include_client_id=True
    )
    own = {"client_id": client_id} | ({"client_secret": secret} if secret else {})
    second = session.refresh_token(token_url, **own)
    assert second["refresh_token"] != first["refresh_token"]
    assert len(session.get(page_url).json()["value"]) == 3
    with pytest.raises(InvalidGrantError):
        session.refresh_token(token_url, refresh_token=first["refresh_token"], **own)
    session.close()


async def test_authlib_signs_a_person_in(issuer, urls):
    """Code with PKCE, refresh, revocation."""
    token_url, page_url = urls
    async with AsyncOAuth2Client(
        NATIVE,
        scope=" ".join(SCOPE),
        redirect_uri=CALLBACK,
        code_challenge_method="S256",
        token_endpoint_auth_method="none",
        trust_env=False,
    ) as client:
        verifier = generate_token(48)
        url, state = client.create_authorization_url(f"{issuer}/connect/authorize", code_verifier=verifier)
        answer = sign_in(url)
        first = await client.fetch_token(
            token_url, authorization_response=answer, state=state, code_verifier=verifier
        )
        second = await client.refresh_token(token_url)
        assert first["refresh_token"] != second["refresh_token"]
        assert len((await client.get(page_url)).json()["value"]) == 3
        revoked = await client.revoke_token(f"{issuer}/connect/revocation", second["refresh_token"])
        assert revoked.status_code == 200
        with pytest.raises(OAuthError, match="invalid_grant"):
            await client.refresh_token(token_url)


def test_authlib_signs_assertions(reader, urls):
    """private_key_jwt, as Authlib's own client does it."""
    token_url, page_url = urls
    key = ECKey.import_key(reader.http.get("/_sandbox/private-key").text)
    with OAuth2Client(SIGNED, key, token_endpoint_auth_method="private_key_jwt", trust_env=False) as client:
        client.register_client_auth_method(PrivateKeyJWT(token_url, alg="ES256"))
        client.fetch_token(token_url, grant_type="client_credentials")
        assert len(client.get(page_url).json()["value"]) == 3
