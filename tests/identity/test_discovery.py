"""Reading an OpenID provider's description of itself."""

import asyncio

import httpx2
import pytest

from erpsync.core.clock import SystemClock
from erpsync.core.errors import DiscoveryError
from erpsync.identity.discovery import fetch_metadata
from erpsync.identity.metadata import MetadataSource
from tests.identity.conftest import Bench
from tests.servers.scripted import http

PATH = "/id/.well-known/openid-configuration"


async def refused(bench: Bench, issuer: str | None = None) -> DiscoveryError:
    with pytest.raises(DiscoveryError) as caught:
        await fetch_metadata(bench.client, issuer or bench.issuer)
    return caught.value


async def test_description_is_read(bench: Bench) -> None:
    """T61: issuer and token endpoint are taken from the document; its lists count for nothing."""
    document = {
        "issuer": bench.issuer,
        "token_endpoint": "https://id.example/token",
        "grant_types_supported": [],
    }
    bench.server.script[PATH] = http(document)
    metadata = await fetch_metadata(bench.client, bench.issuer)
    assert (metadata.issuer, metadata.token_endpoint) == (bench.issuer, "https://id.example/token")


@pytest.mark.parametrize(
    ("status", "retryable"), [(404, False), (403, False), (302, False), (500, True), (503, True), (429, True)]
)
async def test_status_decides_whether_to_wait(bench: Bench, status: int, retryable: bool) -> None:
    """A server in trouble may recover; an address without a document will not."""
    bench.server.script[PATH] = http(b"", status)
    assert (await refused(bench)).retryable is retryable


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"\xff", b"[" * 100_000])
async def test_nonsense_is_a_problem_that_may_pass(bench: Bench, body: bytes) -> None:
    """HTML in place of JSON is what a proxy shows while the server is away; the hint says what to check."""
    bench.server.script[PATH] = http(body)
    error = await refused(bench)
    assert error.retryable
    assert "https://acme.my.erp.net/id" in error.hint


async def test_other_issuer_is_refused(bench: Bench) -> None:
    """The document must call the server exactly as we do."""
    bench.server.script[PATH] = http({"issuer": f"{bench.issuer}/", "token_endpoint": "https://x/token"})
    assert not (await refused(bench)).retryable


@pytest.mark.parametrize("endpoint", ["http://id.example/token", "ftp://id.example/token", None, 5])
async def test_token_endpoint_must_be_safe(bench: Bench, endpoint: object) -> None:
    """T60: secrets go over https, or stay on this machine."""
    bench.server.script[PATH] = http({"issuer": bench.issuer, "token_endpoint": endpoint})
    assert not (await refused(bench)).retryable


async def test_issuer_must_be_safe(bench: Bench) -> None:
    """Plain http is for loopback; nothing is sent elsewhere."""
    assert not (await refused(bench, "http://id.example/id")).retryable


async def test_untrusted_certificate_is_named() -> None:
    """A certificate that is not trusted is a permanent error with the setting to change."""
    import ssl

    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server, httpx2.AsyncClient(trust_env=False) as client:
        with pytest.raises(DiscoveryError) as caught:
            await fetch_metadata(client, f"https://localhost:{port}/id")
    assert not caught.value.retryable
    assert "ca_file" in caught.value.hint


async def test_crowd_asks_once(bench: Bench) -> None:
    """A hundred identities of one server ask for its description once; in an outage they share the failure too."""
    clock = SystemClock()

    async def issuer() -> str:
        return bench.issuer

    source = MetadataSource(bench.client, issuer, clock=clock)
    bench.server.script[PATH] = http(b"", 503)
    failures = await asyncio.gather(*(source.get() for _ in range(100)), return_exceptions=True)
    assert {type(failure) for failure in failures} == {DiscoveryError}
    assert len({id(failure) for failure in failures}) == 100
    assert len(bench.server.requests(PATH)) == 1
    document = {"issuer": bench.issuer, "token_endpoint": "https://id.example/token"}
    bench.server.script[PATH] = http(document)
    found = await asyncio.gather(*(source.get() for _ in range(100)))
    assert {one.token_endpoint for one in found} == {"https://id.example/token"}
    assert len(bench.server.requests(PATH)) == 2
