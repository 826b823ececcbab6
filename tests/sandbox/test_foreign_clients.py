"""Clients that are not ours get a token by Client Credentials and read data, unchanged."""

import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuth2Client
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from oauthlib.oauth2 import BackendApplicationClient, InvalidClientError
from requests_oauthlib import OAuth2Session

from erpsync.sandbox.identity import CLIENT_ID, CLIENT_SECRET


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
