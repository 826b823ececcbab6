"""The blocking twin, in a thread without a loop."""

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from anyio.from_thread import start_blocking_portal

from erpsync.core.errors import NotFoundError
from erpsync.erpnet.blocking import BlockingErp
from erpsync.erpnet.client import ErpClient
from erpsync.sandbox.server import Sandbox
from tests.erpnet.conftest import PRODUCTS, TLS, Site

GROUPS = "General_Products_ProductGroups"


def test_plugin_in_a_thread_of_its_own(sandbox: Sandbox) -> None:
    """Pages, counts, errors and transactions are those of the asynchronous client."""

    @asynccontextmanager
    async def client() -> AsyncIterator[ErpClient]:
        base = httpx2.AsyncHTTPTransport(verify=TLS)
        async with httpx2.AsyncClient(transport=base) as http:
            yield Site(sandbox.url, http, base).erp()

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(client()) as inner:
        erp = BlockingErp(inner, portal)
        assert erp.count(PRODUCTS) == 50
        assert [len(page) for page in erp.pages(PRODUCTS, select=["Id"], page_size=20)] == [20, 20, 10]
        for _ in erp.pages(PRODUCTS, select=["Id"], page_size=20):
            break
        with pytest.raises(NotFoundError):
            erp.one_page("No_Such_Set")
        before = sandbox.rows(GROUPS)
        with erp.transaction() as work:
            work.create(GROUPS, {"Code": "ZZ-1", "Name": {"EN": "Zed"}})
        with pytest.raises(ValueError, match="mine"):
            _fail_inside(erp)
        assert sandbox.rows(GROUPS) == before + 1


def _fail_inside(erp: BlockingErp) -> None:
    with erp.transaction() as work:
        work.create(GROUPS, {"Code": "ZZ-2", "Name": {"EN": "Zed"}})
        raise ValueError("mine")


def test_twin_has_every_method() -> None:
    """Whatever the client can do its twin can do."""
    methods = {name for name, _ in inspect.getmembers(ErpClient, callable) if not name.startswith("_")}
    with start_blocking_portal() as portal:
        twin = BlockingErp(ErpClient.__new__(ErpClient), portal)
    assert methods == {name for name in dir(twin) if not name.startswith("_")}
