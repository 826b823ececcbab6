"""Reading and writing at the Domain API, through everything that can come between."""

import asyncio
import gzip
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from erpsync.core.errors import (
    BusinessRuleError,
    ErpNetError,
    InvalidQueryError,
    LicenseExhaustedError,
    NotFoundError,
    ReadOnlyError,
    RejectedError,
    ServerFaultError,
    ThrottledError,
    UnauthorizedError,
    UnreachableError,
)
from erpsync.erpnet.client import ErpClient, Page
from erpsync.sandbox.server import Sandbox
from tests.erpnet.conftest import PRODUCTS, Site
from tests.servers.fault_proxy import BlackHole, Cut, FaultProxy, Latency, Reset
from tests.servers.scripted import ScriptedServer, Seen, http

GROUPS = "General_Products_ProductGroups"
ORDERS = "Crm_Sales_SalesOrders"


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a fact of the outside world, at most five seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.002)


async def ids(erp: ErpClient, **how: Any) -> list[str]:
    return [row["Id"] async for page in erp.pages(PRODUCTS, select=["Id"], **how) for row in page]


# -- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [True, False])
@pytest.mark.parametrize("links", ["absolute", "relative"])
async def test_every_row_comes_once(site: Site, sandbox: Sandbox, links: str, prefetch: bool) -> None:
    """All rows come, each once, whatever the form of the next links."""
    sandbox.behave(next_links=links)
    found = await ids(site.erp(), page_size=7, prefetch=prefetch)
    assert len(found) == len(set(found)) == 50


async def test_pages_have_the_size_asked_for(reading: Site) -> None:
    """$top is the page size; the last page is shorter and has no link."""
    pages = [page async for page in reading.erp().pages(PRODUCTS, select=["Id"], page_size=500)]
    assert [len(page) for page in pages] == [500, 500, 250]
    assert pages[-1].next_link is None


async def test_reading_goes_on_at_a_link(reading: Site) -> None:
    """A link kept from an earlier reading is a place to start from."""
    erp = reading.erp()
    pages = [page async for page in erp.pages(PRODUCTS, select=["Id"], page_size=500)]
    rest = [page async for page in erp.pages(PRODUCTS, start=pages[0].next_link)]
    assert rest == pages[1:]


async def test_next_page_comes_while_the_caller_works(site: Site, sandbox: Sandbox) -> None:
    """With prefetch the second request goes out before the first page is done with."""
    before = sandbox.stats()["api_requests"]
    async for _ in site.erp().pages(PRODUCTS, select=["Id"], page_size=25):
        await until(lambda: sandbox.stats()["api_requests"] >= before + 2)
        break


async def test_foreign_next_link_is_not_followed(site: Site, sandbox: Sandbox) -> None:
    """A next link to another origin would carry the token there: it is refused."""
    sandbox.behave(next_link_origin="https://evil.example")
    with pytest.raises(RejectedError, match=r"evil\.example"):
        await ids(site.erp(), page_size=7)


async def test_foreign_start_is_not_followed(site: Site) -> None:
    """Nor is a foreign link that somebody has put into a saved position."""
    with pytest.raises(RejectedError):
        await ids(site.erp(), start="https://evil.example/odata/x")


@pytest.mark.parametrize(
    "link", ["http://[x/", "//evil.example/x", "ftp://127.0.0.1/", "http://127.0.0.1:0x1/"]
)
async def test_broken_next_links_are_refused(odd: ErpClient, scripted: ScriptedServer, link: str) -> None:
    """A link that is no address of the same server is a clear error."""
    scripted.script["/odata/Set"] = http({"value": [], "@odata.nextLink": link})
    with pytest.raises(RejectedError, match="next page"):
        _ = [page async for page in odd.pages("Set")]


async def test_circle_of_links_ends(odd: ErpClient, scripted: ScriptedServer) -> None:
    """A server that links a page to one that was read is found out."""
    scripted.script["/odata/Set"] = http({"value": [{"Id": 1}], "@odata.nextLink": "Set?page=1"})
    with pytest.raises(UnreachableError, match="circles"):
        async for _ in odd.pages("Set"):
            pass
    assert len(scripted.seen) == 2


async def test_empty_page_with_a_link_goes_on(odd: ErpClient, scripted: ScriptedServer) -> None:
    """An empty page is not the end; the link decides."""
    scripted.script["/odata/Set?$top=1000"] = http({"value": [], "@odata.nextLink": "Set?page=2"})
    scripted.script["/odata/Set?page=2"] = http({"value": [{"Id": 1}]})
    assert [list(page) async for page in odd.pages("Set")] == [[], [{"Id": 1}]]


async def test_answer_has_an_end(
    odd: ErpClient, scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an answer unpacks to is limited, not what is sent; it is refused by its size and asked for once."""
    monkeypatch.setattr("erpsync.erpnet.client._LARGEST_ANSWER", 1 << 20)
    bomb = gzip.compress(b'{"value": []' + b" " * (5 << 20) + b"}")
    scripted.script[f"/odata/{GROUPS}"] = http(bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(RejectedError, match="larger than 1 MiB") as caught:
        await odd.one_page(GROUPS)
    assert (caught.value.retryable, len(bomb) < 10_000, len(scripted.seen)) == (False, True, 1)
    assert caught.value.hint


async def test_packed_answer_is_read(odd: ErpClient, scripted: ScriptedServer) -> None:
    """An answer that comes packed is unpacked."""
    body = gzip.compress(b'{"value": [{"Id": "a"}]}')
    scripted.script[f"/odata/{GROUPS}"] = http(body, headers={"Content-Encoding": "gzip"})
    assert await odd.one_page(GROUPS) == [{"Id": "a"}]


async def test_bottomless_json_is_an_answer_cut_short(odd: ErpClient, scripted: ScriptedServer) -> None:
    """JSON that is nested beyond all measure is one of our errors, with where it came from."""
    scripted.script[f"/odata/{GROUPS}"] = http(b'{"value": [{"a": ' + b"[" * 100_000)
    with pytest.raises(UnreachableError, match=GROUPS) as caught:
        await odd.one_page(GROUPS)
    assert caught.value.hint


async def test_one_page_is_one_page(reading: Site) -> None:
    """one_page reads no further."""
    page = await reading.erp().one_page(PRODUCTS, select=["Id"], top=10)
    assert len(page) == 10
    assert page.next_link is not None


async def test_numbers_are_exact(odd: ErpClient, scripted: ScriptedServer) -> None:
    """Money and quantities are what stands in the text, to the last digit; whole numbers of any size too."""
    scripted.script["/odata/Set"] = http(
        b'{"value":[{"Price":{"Value":0.10,"Currency":"BGN"},"Long":12345678901234567890.123456789,'
        b'"Big":9007199254740993,"Tiny":1e-7}]}'
    )
    row = (await odd.one_page("Set"))[0]
    assert row["Price"]["Value"] == Decimal("0.10")
    assert str(row["Price"]["Value"]) == "0.10"
    assert row["Long"] == Decimal("12345678901234567890.123456789")
    assert row["Big"] == 9007199254740993
    assert row["Tiny"] == Decimal("0.0000001")


async def test_unsupported_filter_is_not_sent(reading: Site, shared_sandbox: Sandbox) -> None:
    """A filter that ERP.net would refuse is refused here, with what to write instead."""
    before = shared_sandbox.stats()["api_requests"]
    with pytest.raises(InvalidQueryError) as caught:
        await ids(reading.erp(), filter="Active eq true or Active eq false")
    assert "in" in caught.value.hint
    assert shared_sandbox.stats()["api_requests"] == before


async def test_filter_select_and_count_reach_the_server(reading: Site) -> None:
    """A filter built of our conditions selects, and counts, the same rows."""
    erp = reading.erp()
    part = (await erp.one_page(PRODUCTS, select=["PartNumber"], top=1))[0]["PartNumber"]
    page = await erp.one_page(PRODUCTS, select=["Id", "PartNumber"], filter=f"PartNumber in ('{part}')")
    assert [row["PartNumber"] for row in page] == [part]
    assert await erp.count(PRODUCTS, filter=f"PartNumber in ('{part}')") == 1
    assert await erp.count(PRODUCTS) == 1250


# -- blips -----------------------------------------------------------------------------------------------------------

BLIPS = {
    "503": {"status": 503},
    "502-html": {"status": 502, "raw": "<html>", "headers": {"Content-Type": "text/html"}},
    "500-bare": {"status": 500, "raw": ""},
    "429": {"status": 429, "raw": ""},
    "reset": {"reset": True},
    "truncated": {"pass": True, "truncate": 50},
    "half-json": {"status": 200, "raw": '{"value": [{"Id"'},
    "empty": {"status": 200, "raw": ""},
}


@pytest.mark.parametrize("blip", BLIPS.values(), ids=BLIPS)
async def test_reading_survives_a_blip(site: Site, sandbox: Sandbox, blip: dict[str, object]) -> None:
    """What passes by itself costs a pause and no row, in the middle of the pages too."""
    sandbox.fail({"where": "api", "after": 1, "times": 2, **blip})
    found = await ids(site.erp(), page_size=10)
    assert len(found) == len(set(found)) == 50
    assert len([event for event, _ in site.events if event == "request.retried"]) == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"status": 503}, ServerFaultError),
        ({"status": 429, "headers": {"Retry-After": "5"}}, ThrottledError),
        ({"reset": True}, UnreachableError),
    ],
)
async def test_lasting_trouble_is_an_error(
    site: Site, sandbox: Sandbox, fault: dict[str, object], kind: type[ErpNetError]
) -> None:
    """After four tries the error is the caller's; it is retryable."""
    sandbox.fail({"where": "api", "times": -1, **fault})
    with pytest.raises(kind) as caught:
        await site.erp().count(PRODUCTS)
    assert caught.value.retryable
    assert sandbox.stats()["api_requests"] == 4


async def test_retry_after_is_honoured(site: Site, sandbox: Sandbox) -> None:
    """The pause is at least what the server asks for; more than a minute is left to the job's own retry."""
    erp = site.erp()
    sandbox.fail(where="api", status=429, headers={"Retry-After": "40"})
    await erp.count(PRODUCTS)
    assert site.clock.slept == [40]
    sandbox.fail(where="api", status=429, headers={"Retry-After": "90"})
    with pytest.raises(ThrottledError):
        await erp.count(PRODUCTS)
    assert site.clock.slept == [40]


async def test_lines_that_break(site: Site, sandbox: Sandbox) -> None:
    """A proxy that resets, cuts, delays or swallows costs time only."""
    async with FaultProxy(sandbox.url) as proxy:

        async def root() -> str:
            return f"{proxy.url}/api/domain/odata/"

        client = site.http(origins=frozenset({proxy.url}))
        client.timeout = 0.3
        erp = ErpClient(client, root, emit=site.emit, clock=site.clock)
        assert await erp.count(PRODUCTS) == 50
        for fault in (Reset(), Reset(forward=True), Cut(40), Latency(0.02), BlackHole()):
            proxy.queue(fault)
            page = await erp.one_page(PRODUCTS, select=["Id"])
            assert len(page) == 50


async def test_error_inside_a_good_answer_is_seen(odd: ErpClient, scripted: ScriptedServer) -> None:
    """An error object in place of rows is an error, whatever the status says."""
    scripted.script["/odata/Set"] = http({"error": {"message": "Broken.", "code": 2029}})
    with pytest.raises(BusinessRuleError):
        await odd.one_page("Set")


@pytest.mark.parametrize(
    "answer",
    [
        http(b"<html>Sign in</html>", content_type="text/html"),
        http(b"", 302, {"Location": "https://login.example/?state=s3cret"}),
    ],
)
async def test_sign_in_pages_are_found_out(odd: ErpClient, scripted: ScriptedServer, answer: bytes) -> None:
    """HTML or a redirect means that the token was not taken: a hint says where to look."""
    scripted.script["/odata/Set"] = answer
    with pytest.raises(UnauthorizedError) as caught:
        await odd.one_page("Set")
    assert "sign in" in caught.value.hint
    assert "s3cret" not in str(caught.value)


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [True, False])
@pytest.mark.parametrize("status", [500, 401, 403, 503])
async def test_full_licence_means_wait(site: Site, sandbox: Sandbox, status: int, wrapper: bool) -> None:
    """No free licence slot, in any status and shape: one error of its own, no quick retries."""
    sandbox.behave(license_status=status, error_wrapper=wrapper)
    sandbox.occupy(5)
    with pytest.raises(LicenseExhaustedError) as caught:
        await site.erp().count(PRODUCTS)
    assert caught.value.retryable
    assert sandbox.stats()["api_requests"] == 1


@pytest.mark.parametrize("status", [404, 500])
async def test_renamed_set_names_the_new_one(site: Site, sandbox: Sandbox, status: int) -> None:
    """A set that was renamed is refused with its new name."""
    sandbox.behave(renamed_status=status)
    with pytest.raises(NotFoundError) as caught:
        await site.erp().one_page("Crm_Customers")
    assert "Crm_Sales_Customers" in caught.value.hint


async def test_missing_things_are_not_found(reading: Site) -> None:
    """An unknown set and an unknown row are permanent errors that name the place."""
    erp = reading.erp()
    for call in (erp.one_page("No_Such_Set"), erp.get(PRODUCTS, uuid4())):
        with pytest.raises(NotFoundError) as caught:
            await call
        assert caught.value.where in str(caught.value)


async def test_unknown_property_is_a_query_error(reading: Site) -> None:
    """The server's own words are kept."""
    with pytest.raises(InvalidQueryError, match="Nonsense"):
        await reading.erp().one_page(PRODUCTS, select=["Nonsense"])


# -- writing ---------------------------------------------------------------------------------------------------------


async def test_rows_are_written(site: Site, sandbox: Sandbox) -> None:
    """Create, read, change, delete; decimals keep their digits on the way out too."""
    erp = site.erp()
    made = await erp.create(GROUPS, {"Code": "ZZ-1", "Name": {"EN": "Zed", "BG": "Зет"}})
    row_id = made["@odata.id"].partition("(")[2].rstrip(")")
    await erp.update(GROUPS, row_id, {"Notes": "changed"})
    row = await erp.get(GROUPS, row_id, select=["Code", "Name", "Notes"])
    assert (row["Code"], row["Name"]["BG"], row["Notes"]) == ("ZZ-1", "Зет", "changed")
    await erp.delete(GROUPS, row_id)
    with pytest.raises(NotFoundError):
        await erp.get(GROUPS, row_id)


async def test_decimals_go_out_as_numbers(odd: ErpClient, scripted: ScriptedServer) -> None:
    """A Decimal is a JSON number of the same digits; keys keep their order."""
    scripted.script["/odata/Set"] = http({"Id": "x"}, 201)
    await odd.create("Set", {"b": Decimal("0.10"), "a": {"Value": Decimal(7), "Currency": "лв"}})
    assert scripted.seen[0].body.decode() == '{"b":0.10,"a":{"Value":7,"Currency":"лв"}}'


async def test_rules_of_the_instance_are_errors(site: Site) -> None:
    """A duplicate (500 with code 2129) is a permanent refusal."""
    erp = site.erp()
    await erp.create(GROUPS, {"Code": "ZZ-1", "Name": {"EN": "Zed"}})
    with pytest.raises(BusinessRuleError) as caught:
        await erp.create(GROUPS, {"Code": "ZZ-1", "Name": {"EN": "Zed"}})
    assert caught.value.code == 2129


@pytest.mark.parametrize("fault", [{"status": 502}, {"reset": True}, {"pass": True, "truncate": 1}])
async def test_writes_are_never_repeated(site: Site, sandbox: Sandbox, fault: dict[str, object]) -> None:
    """A write whose fate is unknown is sent once, and its error says so."""
    sandbox.fail({"where": "api", "method": "POST", "times": -1, **fault})
    with pytest.raises(ErpNetError) as caught:
        await site.erp().create(GROUPS, {"Code": "ZZ-1", "Name": {"EN": "Zed"}})
    assert not caught.value.retryable
    assert "look before" in caught.value.hint
    assert sandbox.stats()["api_requests"] == 1


async def test_dry_run_sends_no_write(site: Site, sandbox: Sandbox) -> None:
    """A dry run reads and does not write."""
    erp = site.erp(dry_run=True)
    assert await erp.count(PRODUCTS) == 50
    with pytest.raises(ReadOnlyError, match="dry run"):
        await erp.create(GROUPS, {"Code": "ZZ-1"})
    with pytest.raises(ReadOnlyError):
        async with erp.transaction():
            pass
    assert sandbox.stats()["api_requests"] == 1


# -- transactions ----------------------------------------------------------------------------------------------------


async def test_transaction_commits(site: Site, sandbox: Sandbox) -> None:
    """What is written inside is seen outside when the block has ended well."""
    before = sandbox.rows(GROUPS)
    async with site.erp().transaction() as work:
        await work.create(GROUPS, {"Code": "ZZ-1", "Name": {"EN": "Zed"}})
        assert sandbox.rows(GROUPS) == before
    assert sandbox.rows(GROUPS) == before + 1


@pytest.mark.parametrize("reason", [ValueError("mine"), asyncio.CancelledError()])
async def test_transaction_rolls_back(site: Site, sandbox: Sandbox, reason: BaseException) -> None:
    """Left by an exception, or cancelled, the transaction is ended at the server and nothing stays."""
    before = sandbox.rows(GROUPS)
    inside: list[ErpClient] = []

    async def unit_of_work() -> None:
        async with site.erp().transaction() as work:
            inside.append(work)
            await work.create(GROUPS, {"Code": "ZZ-1", "Name": {"EN": "Zed"}})
            raise reason

    with pytest.raises(type(reason)):
        await unit_of_work()
    assert sandbox.rows(GROUPS) == before
    with pytest.raises(RejectedError, match="Invalid TransactionId"):
        await inside[0].create(GROUPS, {"Code": "ZZ-2", "Name": {"EN": "Zed"}})


async def test_lost_transaction_may_be_tried_again(site: Site, sandbox: Sandbox) -> None:
    """A transaction that the server has forgotten is a retryable error: the unit of work starts anew."""

    async def unit_of_work() -> None:
        async with site.erp().transaction() as work:
            sandbox.restart_sessions()
            await work.create(GROUPS, {"Code": "ZZ-1", "Name": {"EN": "Zed"}})

    with pytest.raises(RejectedError) as caught:
        await unit_of_work()
    assert caught.value.retryable


@pytest.mark.parametrize("body", [b"abc", b'"abc"', b'{"value": "abc"}'])
async def test_transaction_numbers_come_in_three_forms(
    odd: ErpClient, scripted: ScriptedServer, body: bytes
) -> None:
    """Bare text, quoted, or an OData scalar: the same transaction."""
    kind = "text/plain" if body == b"abc" else "application/json"
    scripted.script["/odata/BeginTransaction"] = http(body, content_type=kind)
    scripted.script["/odata/EndTransaction"] = http(b"", 204)
    async with odd.transaction():
        pass
    assert scripted.seen[-1].headers["transactionid"] == "abc"
    assert scripted.seen[-1].body == b'{"commit":true}'


async def test_operations_of_the_instance(reading: Site) -> None:
    """Version and model can be read."""
    erp = reading.erp()
    assert (await erp.version()).count(".") == 3
    assert b"Erp" in await erp.metadata()


async def test_operations_of_a_row(odd: ErpClient, scripted: ScriptedServer) -> None:
    """Actions and functions of a row are called below it; an empty answer is None."""
    row = uuid4()
    scripted.script[f"/odata/Set({row})/ChangeState"] = http(b"", 204)
    scripted.script[f"/odata/Set({row})/Look(depth=2)"] = http({"value": 7})
    assert await odd.action("ChangeState", {"newState": "Released"}, on=("Set", row)) is None
    assert await odd.function("Look", {"depth": 2}, on=("Set", row)) == {"value": 7}


async def test_early_leaver_leaves_nothing_behind(odd: ErpClient, scripted: ScriptedServer) -> None:
    """A caller who stops in the middle cancels the page that was on its way."""
    gone = asyncio.Event()

    async def slow(seen: Seen) -> bytes:
        await gone.wait()
        return b""

    scripted.script["/odata/Set?$top=1000"] = http({"value": [{}], "@odata.nextLink": "Set?page=2"})
    scripted.script["/odata/Set?page=2"] = slow
    pages = odd.pages("Set")
    assert await anext(pages) == Page([{}])
    await pages.aclose()
    assert not [task for task in asyncio.all_tasks() if "_page" in repr(task.get_coro())]
    gone.set()
