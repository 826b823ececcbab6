"""Reading: pages, projections, filters and what is refused."""

import random
import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpsync.sandbox.errors import ErpError
from erpsync.sandbox.guid import from_sort_key, sort_key
from erpsync.sandbox.model import SETS
from erpsync.sandbox.query import parse_query

PRODUCTS = "General_Products_Products"
ORDERS = "Crm_Sales_SalesOrders"
LINES = "Crm_Sales_SalesOrderLines"


def test_the_headers_and_the_order_of_keys_are_those_of_erp_net(reader):
    """A page says its OData version, and context, count and next link stand before the rows."""
    response = reader.get(PRODUCTS, top=2, count="true", select="Id")
    assert response.headers["odata-version"] == "4.0"
    assert "odata.metadata=minimal" in response.headers["content-type"]
    keys = list(response.json())
    assert keys == ["@odata.context", "@odata.count", "@odata.nextLink", "value"]
    assert response.json()["@odata.count"] == 1250


def test_the_default_projection_leaves_out_id_and_calculated_attributes(reader):
    """Without `$select` come system attributes and references; `default` asks for them beside others."""
    (row,) = reader.value(PRODUCTS, top=1, filter="PartNumber in ('PRD-000001')")
    assert re.fullmatch(r"General_Products_Products\([0-9a-f-]{36}\)", row["@odata.id"])
    assert set(row["ProductGroup"]) == {"@odata.id"}
    assert not {"Id", "ObjectVersion", "AggregateLastUpdateTimeUtc", "DisplayText"} & set(row)
    (more,) = reader.value(PRODUCTS, filter="PartNumber in ('PRD-000001')", select="default,Id,DisplayText")
    assert more.items() >= row.items()
    assert more["DisplayText"] == "Steel bolt 1"


def test_every_row_is_seen_once_in_the_order_of_sql_server(reader):
    """Pages follow each other without gap or overlap, sorted by the last six bytes of the id first."""
    pages = list(reader.pages(PRODUCTS, top=100, select="Id"))
    ids = [row["Id"] for page in pages for row in page]
    assert [len(page) for page in pages] == [100] * 12 + [50]
    assert len(set(ids)) == 1250
    assert [row_id[-12:] for row_id in ids] == sorted(row_id[-12:] for row_id in ids)
    assert ids != sorted(ids)


def test_the_token_of_a_next_link_is_the_first_id_of_the_next_page(reader):
    """The skip token is opaque to clients, and is where the next page begins."""
    first = reader.get(PRODUCTS, top=10, select="Id").json()
    token = re.search(r"skiptoken=([0-9a-f-]+)", first["@odata.nextLink"])[1]
    assert token not in {row["Id"] for row in first["value"]}
    assert reader.call("GET", first["@odata.nextLink"]).json()["value"][0]["Id"] == token


def test_published_ids_ascend(reader):
    """Ids in the order in which ERP.net lists them have ascending sort keys."""
    tails = ("00155d00050a", "002a1beef969", "00b929a00283", "042e2ac89b5a", "09eab18d3c37")
    keys = [sort_key(f"{random.Random(tail).randbytes(10).hex()}{tail}") for tail in tails]
    assert keys == sorted(keys)


@given(st.uuids(), st.uuids())
def test_sort_keys_are_reversible_and_order_later_bytes_first(one, other):
    """A sort key holds the whole id, and compares bytes 10–15, 8–9, then the mixed-endian groups from the right."""
    assert from_sort_key(sort_key(str(one))) == str(one)

    def rank(guid: uuid.UUID) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        raw = guid.bytes_le
        return raw[10:], raw[8:10], raw[6:8], raw[4:6], raw[:4]

    assert (sort_key(str(one)) < sort_key(str(other))) == (rank(one) < rank(other))


def test_without_top_everything_comes_and_no_link(reader):
    """`$top` is a page size: without it there is one answer; with enough of it there is no next link."""
    everything = reader.get(PRODUCTS, select="Id").json()
    assert len(everything["value"]) == 1250
    assert "@odata.nextLink" not in everything
    assert "@odata.nextLink" not in reader.get(PRODUCTS, select="Id", top=1250).json()
    assert "@odata.nextLink" in reader.get(PRODUCTS, select="Id", top=1249).json()


@pytest.mark.parametrize(
    ("path", "options"),
    [(PRODUCTS, {"orderby": "PartNumber desc"}), ("Logistics_Inventory_CurrentBalances", {})],
)
def test_ordered_sets_and_views_page_by_offset(reader, path, options):
    """Where there is an order, or no id, next links skip; all rows come once."""
    pages = list(reader.pages(path, top=200, **options))
    rows = [str(row) for page in pages for row in page]
    assert "skip=200" in reader.get(path, top=200, **options).json()["@odata.nextLink"]
    assert len(rows) == len(set(rows)) == int(reader.get(f"{path}/$count").text)
    if options:
        assert pages[0][0]["PartNumber"] == "PRD-001250"


def test_next_links_can_be_relative_or_foreign(sandbox, caller):
    """A relative link resolves against the service root; a foreign one can be provoked."""
    sandbox.behave(next_links="relative")
    link = caller.get(PRODUCTS, top=5).json()["@odata.nextLink"]
    assert link.startswith(f"{PRODUCTS}?")
    assert len(caller.call("GET", link).json()["value"]) == 5
    sandbox.behave(next_link_origin="https://elsewhere.example")
    assert caller.get(PRODUCTS, top=5).json()["@odata.nextLink"].startswith("https://elsewhere.example/")


@pytest.mark.parametrize(
    ("path", "condition", "count"),
    [
        (PRODUCTS, "PartNumber eq 'PRD-000007'", 1),
        (PRODUCTS, "PartNumber in ('PRD-000007','PRD-000008','none')", 2),
        (PRODUCTS, "startswith(PartNumber,'prd-00000')", 9),
        (PRODUCTS, "endswith(PartNumber,'0007') and Active eq true", 1),
        (PRODUCTS, "contains(Name,'СТОМАНЕН болт 1')", 5),
        (PRODUCTS, "contains(Name,'O''Neill')", 0),
        (PRODUCTS, "(ABCClass eq 'A') and ProductGroup/Code eq 'FAST'", 209),
        (PRODUCTS, "AggregateLastUpdateTimeUtc ge 2025-07-20T12:00:00.000Z", 554),
        (PRODUCTS, "AggregateLastUpdateTimeUtc ge 2025-07-20T14:00:00+02:00", 554),
        (ORDERS, "State ge 'Released' and Void eq false", 156),
        (ORDERS, "State in ('New','Planned')", 80),
        (ORDERS, "State eq Erp.General_DocumentState'Closed'", 40),
        (ORDERS, "DocumentDate ge 2025-01-11 and DocumentDate le 2025-01-20Z", 10),
        (LINES, "SalesOrder/State eq 'Closed' and QuantityValue ge 9.5", 26),
        ("Crm_Sales_Customers", "contains(Party/PartyName,'Храни')", 25),
        ("Crm_Sales_Customers", "lessequalnull(ThruDate,2026-01-01)", 120),
        ("General_Contacts_Parties", "PartyType eq 'CompanyLocation'", 3),
    ],
)
def test_supported_filters(reader, path, condition, count):
    """What filter.md lists finds what it says; the rows and the plain count agree."""
    assert int(reader.call("GET", f"{path}/$count", params={"$filter": condition}).text) == count
    assert len(reader.value(path, filter=condition)) == count


def test_a_reference_is_filtered_by_its_quoted_id(reader):
    """References compare with the quoted `@odata.id`, whose set may have an old name; ids with bare GUIDs."""
    group = reader.value("General_Products_ProductGroups", filter="Code eq 'TOOL'", select="Id")[0]
    by_reference = reader.value(PRODUCTS, filter=f"ProductGroup eq '{group['@odata.id']}'")
    assert len(by_reference) == len(reader.value(PRODUCTS, filter="ProductGroup/Code eq 'TOOL'")) > 200
    assert reader.value("General_Products_ProductGroups", filter=f"Id eq {group['Id']}") != []


@pytest.mark.parametrize(
    ("path", "condition", "status", "words"),
    [
        (PRODUCTS, "Active eq true or Active eq false", 500, "operator 'or' is not supported"),
        (PRODUCTS, "not (Active eq true)", 500, "operator 'not' is not supported"),
        (PRODUCTS, "PartNumber ne 'x'", 500, "operator 'ne' is not supported"),
        (PRODUCTS, "CreationTime gt 2025-01-01Z", 500, "operator 'gt' is not supported"),
        (PRODUCTS, "tolower(PartNumber) eq 'x'", 500, "function 'tolower' is not supported"),
        (PRODUCTS, "UpdateTime eq 2025-01-01Z", 500, "'UpdateTime' does not support the filter 'eq'"),
        (PRODUCTS, "Name eq 'Bolt'", 500, "'Name' does not support"),
        (PRODUCTS, "StandardPricePerLotValue ge 1", 500, "does not support"),
        (ORDERS, "Customer/Number eq 'CST0001'", 500, "not a filterable reference"),
        (PRODUCTS, "Colour eq 'red'", 400, "'Colour' on type 'Erp.General_Products_Product'"),
        (PRODUCTS, "PartNumber eq", 400, "Syntax error"),
        (PRODUCTS, "PartNumber eq 'x", 400, "Syntax error"),
        (PRODUCTS, "Active eq 'yes'", 400, "does not fit"),
        (ORDERS, "State eq 'Sleeping'", 400, "does not fit"),
    ],
)
def test_refused_filters(reader, path, condition, status, words):
    """Everything outside the documented grammar and capabilities is refused with an ERP-shaped error."""
    answered, error = reader.error(path, filter=condition)
    assert answered == status
    assert words in error["message"]
    assert set(error) == {"message", "code", "type", "info", "messageFormat", "parameters"}


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"orderby": "Name"}, 500),
        ({"apply": "aggregate($count as N)"}, 500),
        ({"select": "Nothing"}, 400),
        ({"top": "many"}, 400),
        ({"skiptoken": "zzz", "top": 5}, 400),
    ],
)
def test_refused_options(reader, options, status):
    """Options that are not supported, or make no sense, are refused."""
    assert reader.error(PRODUCTS, **options)[0] == status


def test_date_time_filters_can_be_truncated_to_the_date(sandbox, caller):
    """With the switch of filter.md a literal loses its time of day."""
    condition = "AggregateLastUpdateTimeUtc ge 2025-07-20T12:00:00Z"
    assert len(caller.value(PRODUCTS, filter=condition)) == 554
    sandbox.behave(date_time_filter="truncate")
    assert len(caller.value(PRODUCTS, filter=condition)) == 558


def test_expansion_reaches_lines_and_their_products(reader):
    """Collections and references expand, nested, with their own projection; links can be had alone."""
    (order,) = reader.value(
        ORDERS,
        filter="DocumentNo eq 'SO00000001'",
        select="DocumentNo,Store",
        expand="Lines($select=Quantity;$expand=Product($select=PartNumber),LineStore($select=Code)),Customer/$ref",
    )
    assert order["Store"] is None
    assert set(order["Customer"]) == {"@odata.id"}
    assert len(order["Lines"]) == 3
    assert len({line["LineStore"]["Code"] for line in order["Lines"]}) == 3
    assert set(order["Lines"][0]["Product"]) == {"@odata.id", "PartNumber"}
    assert order["Lines"][0]["Quantity"]["Unit"] == "pcs"


def test_skipnulls_leaves_nulls_out(reader):
    """`options=skipnulls` drops what has no value."""
    row = reader.call("GET", PRODUCTS, params={"$top": "1", "options": "skipnulls"}).json()["value"][0]
    assert None not in row.values()
    assert "ShortName" not in row


def test_search_looks_into_code_and_name(reader):
    """`$search` finds by code or name, whatever the case and script."""
    assert len(reader.value("General_Products_ProductGroups", search='"градина"')) == 1
    assert len(reader.value("General_Products_ProductGroups", search='"paint"')) == 1


def test_one_row_is_read_by_its_key(reader):
    """A key answers one entity; an unknown key, set or operation 404, a key that is none 400."""
    row = reader.value(PRODUCTS, top=1, select="Id,PartNumber")[0]
    single = reader.get(row["@odata.id"], select="PartNumber").json()
    assert single["PartNumber"] == row["PartNumber"]
    assert single["@odata.context"].endswith("$metadata#General_Products_Products/$entity")
    for path, status in (
        (f"{PRODUCTS}({uuid.uuid4()})", 404),
        ("Nothing_At_All", 404),
        (f"{row['@odata.id']}/Nothing", 404),
        (f"{PRODUCTS}(7)", 400),
    ):
        assert reader.error(path)[0] == status


def test_a_renamed_set_names_its_successor(reader):
    """An old set name is refused with the new one, and the renames can be listed."""
    status, error = reader.error("Crm_Customers")
    assert (status, "Crm_Sales_Customers" in error["message"]) == (404, True)
    assert {"OldName", "NewName", "Version"} == set(reader.value("GetRenamedEntityTypes")[0])


def test_metadata_describes_every_set(reader):
    """`$metadata` is a CSDL document with all sets; the service document lists them, versions are told."""
    text = reader.get("$metadata").text
    assert text.startswith("<?xml")
    assert all(f'EntitySet Name="{name}"' in text for name in SETS)
    assert {item["name"] for item in reader.value("")} == set(SETS)
    assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+", reader.get("GetVersion").json()["version"])


def test_money_keeps_its_digits(reader):
    """Amounts are JSON numbers with exactly the digits that were stored."""
    text = reader.get("Crm_Sales_Customers", filter="Number eq 'CST0000'", select="CreditLimit").text
    assert '"CreditLimit":{"Value":1000.00,"Currency":"EUR"}' in text


_LITERALS = st.one_of(
    st.text("абвABC'() ,", max_size=8).map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.integers().map(str),
    st.uuids().map(str),
    st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    st.sampled_from(["null", "true", "("]),
)
_PATHS = st.sampled_from(["PartNumber", "Active", "CreationTime", "ProductGroup/Code", "Id", "Name", "Nope"])
_TERMS = st.one_of(
    st.tuples(_PATHS, st.sampled_from(["eq", "ge", "le", "ne", "in"]), _LITERALS).map(" ".join),
    st.tuples(st.sampled_from(["contains", "startswith", "what"]), _PATHS, _LITERALS).map(
        lambda parts: f"{parts[0]}({parts[1]},{parts[2]})"
    ),
)


@given(st.one_of(st.text(max_size=40), st.lists(_TERMS, min_size=1, max_size=3).map(" and ".join)))
def test_any_filter_is_either_understood_or_refused(text):
    """Whatever is written into `$filter`, the parser answers SQL that binds its values, or an ERP error."""
    try:
        query = parse_query(SETS[PRODUCTS], {"$filter": text}, truncate_times=False)
    except ErpError:
        pass
    else:
        assert query.where.text.count("?") == len(query.where.values)
        assert "'" not in query.where.text
