"""Finding an instance's sites."""

import asyncio

import httpx2
import pytest

from erpsync.core.errors import DiscoveryError
from erpsync.erpnet.sites import SiteDirectory, discover_sites
from erpsync.sandbox.server import Sandbox
from tests.erpnet.conftest import TLS, HastyClock, Site
from tests.servers.scripted import ScriptedServer, http

SYS, TOOLS = "/sys/auto-discovery", "/tools/auto-discovery"
IDENTITY = {"Type": "ID", "Status": "Unknown", "Url": "https://acme.example/id/"}
API = {"Type": "DomainAPI", "Status": "Working", "Url": "https://api.example/"}


async def sites(server: ScriptedServer, *listed: object, path: str = SYS) -> tuple[str, str]:
    server.script[path] = http({"WebSites": list(listed)})
    async with httpx2.AsyncClient(verify=TLS, trust_env=False) as client:
        found = await discover_sites(client, server.url)
    return found.identity_url, found.odata_root


async def refused(server: ScriptedServer, *listed: object) -> DiscoveryError:
    with pytest.raises(DiscoveryError) as caught:
        await sites(server, *listed)
    return caught.value


async def test_sandbox_is_found(reading: Site) -> None:
    """The sandbox's identity server and Domain API are where it says."""
    found = await reading.directory.sites()
    assert found.identity_url == f"{reading.root}/id"
    assert found.odata_root == f"{reading.root}/api/domain/odata/"
    assert found.origins == {reading.root}


async def test_either_path_will_do(scripted: ScriptedServer) -> None:
    """The documentation names two paths; the second is asked where the first is not there."""
    assert await sites(scripted, IDENTITY, API, path=TOOLS) == (
        "https://acme.example/id",
        "https://api.example/domain/odata/",
    )


async def test_named_service_root_wins(scripted: ScriptedServer) -> None:
    """ODataServiceRoot is taken as it is; unknown types and odd entries do no harm."""
    api = API | {"AdditionalProperties": {"ODataServiceRoot": "https://api.example/v2/odata"}}
    strange = [{"Type": "Hologram"}, "text", {"Type": "DomainAPI"}]
    assert (await sites(scripted, *strange, IDENTITY, api))[1] == "https://api.example/v2/odata/"


async def test_stopped_api_is_worth_waiting_for(scripted: ScriptedServer) -> None:
    """An API that does not work now may work later."""
    error = await refused(scripted, IDENTITY, API | {"Status": "NotWorking"})
    assert error.retryable
    assert "NotWorking" in str(error)


@pytest.mark.parametrize("listed", [(API,), (IDENTITY,), ()])
async def test_missing_sites_are_permanent(scripted: ScriptedServer, listed: tuple[object, ...]) -> None:
    """Without an identity site and a Domain API it is no instance for us."""
    assert not (await refused(scripted, *listed)).retryable


@pytest.mark.parametrize(
    ("answer", "retryable"),
    [
        (http(b"<html>"), True),
        (http(b"[]"), True),
        (http(b"", 503), True),
        (http(b"", 302), False),
        (b"", True),
    ],
)
async def test_wrong_answers_are_named(scripted: ScriptedServer, answer: bytes, retryable: bool) -> None:
    """HTML, another document, trouble and a redirect each give a clear problem with a hint."""
    scripted.script[SYS] = scripted.script[TOOLS] = answer
    async with httpx2.AsyncClient(verify=TLS, trust_env=False) as client:
        with pytest.raises(DiscoveryError) as caught:
            await discover_sites(client, scripted.url)
    assert caught.value.retryable is retryable
    assert caught.value.hint


async def test_directory_asks_once_and_survives(sandbox: Sandbox) -> None:
    """Many tasks ask once; later failures change nothing, and only doubt or a day make it ask again."""
    clock = HastyClock()
    async with httpx2.AsyncClient(verify=TLS, trust_env=False) as client:
        directory = SiteDirectory(client, sandbox.url, clock=clock)
        found = await asyncio.gather(*(directory.odata_root() for _ in range(50)))
        assert set(found) == {f"{sandbox.url}/api/domain/odata/"}
        sandbox.fail(where="discovery", status=503, times=-1)
        directory.doubt()
        assert await directory.odata_root() == found[0]


@pytest.mark.parametrize("url", ["http://[bad", "https://[::1", "https://x:port/"])
async def test_addresses_that_are_none_are_named(scripted: ScriptedServer, url: str) -> None:
    """A site whose Url cannot be read is a permanent error that shows it."""
    error = await refused(scripted, IDENTITY, API | {"Url": url})
    assert url in error.message
    assert (error.retryable, bool(error.hint)) == (False, True)
