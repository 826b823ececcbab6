"""Creating, changing and deleting, with the rules and the versions that go with it."""

import threading
import uuid

import pytest

PRODUCTS = "General_Products_Products"
ORDERS = "Crm_Sales_SalesOrders"


def _product(number: str, **values: object) -> dict[str, object]:
    references = {"ProductGroup": {"Code": "FAST"}, "MeasurementUnit": {"Code": "pcs"}}
    return {"PartNumber": number, "Name": {"en": "New", "bg": "Нов"}, **references, **values}


def _create(caller, number: str = "NEW-1", **values: object) -> str:
    response = caller.call("POST", PRODUCTS, json=_product(number, **values))
    assert response.status_code == 201, response.text
    return response.json()["@odata.id"]


def _order(caller, number: str) -> dict:
    return caller.value(
        ORDERS, filter=f"DocumentNo eq '{number}'", select="Id,State,ObjectVersion", expand="Lines"
    )[0]


def test_a_row_is_created_changed_and_deleted(caller):
    """A new row comes back with 201; PATCH and DELETE answer 204; afterwards it is gone."""
    key = _create(caller, StandardPricePerLot={"Value": 12.50, "Currency": "EUR"}, ExternalId="X1")
    shown = caller.get(key, select="Name,Active,StandardPricePerLot,ObjectVersion,ExternalId").json()
    assert shown["Name"] == {"EN": "New", "BG": "Нов"}
    assert (shown["Active"], shown["ObjectVersion"], shown["ExternalId"]) == (True, 1, "X1")
    assert shown["StandardPricePerLot"] == {"Value": 12.5, "Currency": "EUR"}
    assert caller.call("PATCH", key, json={"ABCClass": "C"}).status_code == 204
    assert caller.get(key).json()["ABCClass"] == "C"
    assert caller.call("DELETE", key).status_code == 204
    assert caller.get(key).status_code == 404


def test_every_change_raises_version_and_update_time(sandbox, caller):
    """A change moves the row past every earlier watermark."""
    before = max(
        row["AggregateLastUpdateTimeUtc"] for row in sandbox.read(PRODUCTS, "AggregateLastUpdateTimeUtc")
    )
    touched = sandbox.touch(PRODUCTS, count=3)
    condition = f"AggregateLastUpdateTimeUtc ge {before}"
    changed = caller.value(PRODUCTS, filter=condition, select="Id,ObjectVersion,AggregateLastUpdateTimeUtc")
    newer = [row for row in changed if row["AggregateLastUpdateTimeUtc"] > before]
    assert {row["Id"] for row in newer} == set(touched)
    assert {row["ObjectVersion"] for row in newer} == {2}


def test_a_line_change_is_a_change_of_its_order(caller):
    """Saving a line recalculates it and its order, and raises the order's version."""
    order = _order(caller, "SO00000001")
    line = order["Lines"][0]
    change = {"Quantity": {"Value": 2, "Unit": "pcs"}, "UnitPrice": {"Value": "10.25", "Currency": "EUR"}}
    assert caller.call("PATCH", line["@odata.id"], json=change).status_code == 204
    after = caller.get(order["@odata.id"], select="ObjectVersion,TotalLineAmount", expand="Lines").json()
    assert after["ObjectVersion"] > order["ObjectVersion"]
    amounts = {item["@odata.id"]: item["LineAmount"]["Value"] for item in after["Lines"]}
    assert amounts[line["@odata.id"]] == 20.5
    assert after["TotalLineAmount"]["Value"] == pytest.approx(sum(amounts.values()))


def test_an_order_is_created_with_its_lines(caller):
    """Nested lines are created with the order; references are found by what identifies them."""
    line = {"Product": {"PartNumber": "PRD-000001"}, "Quantity": {"Value": 3, "Unit": "pcs"}}
    line["UnitPrice"] = {"Value": 1.5, "Currency": "EUR"}
    body = {
        "DocumentType": {"Code": "CRM_SALES_ORDER"},
        "EnterpriseCompany": {"@odata.id": caller.value("General_EnterpriseCompanies")[0]["@odata.id"]},
        "Customer": {"Number": "CST0003"},
        "Lines": [line, line],
    }
    created = caller.call("POST", ORDERS, json=body)
    assert created.status_code == 201, created.text
    shown = caller.get(created.json()["@odata.id"], select="State,TotalLineAmount", expand="Lines").json()
    assert (shown["State"], len(shown["Lines"]), shown["TotalLineAmount"]["Value"]) == ("New", 2, 9.0)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"PartNumber": "PRD-000001"}, 500, "Prohibited duplication"),
        ({"Name": None}, 500, "'Name' of Erp.General_Products_Product is required"),
        ({"Colour": "red"}, 400, "Could not find a property named 'Colour'"),
        ({"CreationTime": "2026-01-01Z"}, 500, "read-only"),
        ({"Active": "yes"}, 400, "Cannot convert"),
        ({"PartNumber": "x" * 33}, 500, "longer than 32"),
        ({"StandardPricePerLot": {"Value": 1, "Currency": "XXX"}}, 500, "'XXX'"),
        ({"StandardPricePerLot": {"Value": "much", "Currency": "EUR"}}, 400, "Cannot convert"),
        ({"ProductGroup": {"Code": "NOPE"}}, 404, "was not found"),
        (
            {"ProductGroup": {"@odata.id": f"General_Products_ProductGroups({uuid.uuid4()})"}},
            404,
            "was not found",
        ),
    ],
)
def test_bad_values_are_refused_and_nothing_is_written(sandbox, caller, change, status, words):
    """A write that breaks a rule is refused as a whole."""
    response = caller.call("POST", PRODUCTS, json=_product("NEW-2") | change)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]
    assert sandbox.rows(PRODUCTS) == 1250


def test_a_duplicate_names_table_and_value(caller):
    """The error of a duplicate has code 2129 and its parameters."""
    _create(caller)
    error = caller.call("POST", PRODUCTS, json=_product("NEW-1")).json()["error"]
    assert (error["code"], error["parameters"][2]) == (2129, "NEW-1")


def test_a_broken_business_rule_is_named(caller):
    """A customer that ends before it begins breaks rule R27159 with code 2029."""
    customer = caller.value("Crm_Sales_Customers", top=1)[0]["@odata.id"]
    change = {"FromDate": "2026-02-01T00:00:00Z", "ThruDate": "2026-01-01T00:00:00Z"}
    error = caller.call("PATCH", customer, json=change).json()["error"]
    assert (error["code"], "(Constraint R27159)" in error["message"]) == (2029, True)


def test_a_stale_version_is_refused(sandbox, caller):
    """Sending an older ObjectVersion loses against the other change; sending none checks nothing."""
    key = _create(caller)
    assert caller.call("PATCH", key, json={"ABCClass": "B", "ObjectVersion": 1}).status_code == 204
    assert caller.call("PATCH", key, json={"ABCClass": "A", "ObjectVersion": 1}).status_code == 500
    sandbox.behave(version_conflict_status=409)
    assert caller.call("PATCH", key, json={"ABCClass": "A", "ObjectVersion": 1}).status_code == 409
    assert caller.call("PATCH", key, json={"ABCClass": "A"}).status_code == 204


def test_documents_follow_their_states(caller):
    """ChangeState releases, a released order cannot be edited, MakeVoid voids, a void one changes no more."""
    order = _order(caller, "SO00000001")
    key = order["@odata.id"]
    assert caller.call("PATCH", key, json={"State": "Released"}).status_code == 500
    assert caller.call("POST", f"{key}/ChangeState", json={"newState": "Released"}).status_code == 204
    assert caller.get(key).json()["State"] == "Released"
    for path in (key, order["Lines"][0]["@odata.id"]):
        error = caller.call("PATCH", path, json={"RequiredDeliveryDate": "2026-01-01Z"}).json()["error"]
        assert "released and cannot be edited" in error["message"]
    assert caller.call("POST", f"{key}/MakeVoid", json={"reason": "test"}).status_code == 204
    assert caller.get(key).json()["Void"] is True
    assert caller.call("POST", f"{key}/ChangeState", json={"newState": "Closed"}).status_code == 500
    assert caller.call("POST", f"{key}/Fly", json={}).status_code == 404


def test_merge_by_external_id_is_idempotent(sandbox, caller):
    """The same merge twice creates once and changes once."""
    body = _product("EXT-1", ExternalId="E1", ExternalSystem="shop") | {"@erpnet.action": "merge"}
    first = caller.call("POST", PRODUCTS, json=body).json()["Id"]
    second = caller.call("POST", PRODUCTS, json=body | {"Name": {"EN": "Changed"}}).json()
    assert (second["Id"], second["Name"]) == (first, {"EN": "Changed"})
    assert sandbox.rows(PRODUCTS) == 1251


def test_a_nested_object_with_data_overwrites_what_it_refers_to(caller):
    """Without an explicit action a nested object that holds data is merged into the row it finds."""
    nested = {"ProductGroup": {"Code": "FAST", "Name": {"EN": "Only English"}, "Notes": "x"}}
    _create(caller, **nested)
    group = caller.value("General_Products_ProductGroups", filter="Code eq 'FAST'")[0]
    assert group["Name"] == {"EN": "Only English"}


def test_import_reports_each_object(sandbox, caller):
    """Per object, the good ones are saved and the bad ones explained within a 200."""
    kind = {"@odata.type": "Erp.General_Products_Product", "@erpnet.action": "merge"}
    objects = [
        kind | _product("IMP-1"),
        kind | _product("IMP-2", Colour="red"),
        kind | _product("PRD-000001"),
    ]
    answer = caller.call("POST", "Import", json={"objects": objects}).json()
    assert answer["@erpnet.result"] == "fail"
    assert [item["@erpnet.result"] for item in answer["objects"]] == ["success", "fail", "success"]
    assert [item.get("@erpnet.state") for item in answer["objects"]] == ["Added", None, "Modified"]
    assert "Colour" in answer["objects"][1]["@erpnet.message"]
    assert sandbox.rows(PRODUCTS) == 1251


def test_import_of_all_or_nothing(sandbox, caller):
    """With `all-objects` one bad object leaves nothing behind."""
    kind = {"@odata.type": "Erp.General_Products_Product"}
    objects = [kind | _product("IMP-1"), kind | _product("IMP-2", Colour="red")]
    answer = caller.call("POST", "Import", json={"transaction": "all-objects", "objects": objects}).json()
    assert [item["@erpnet.result"] for item in answer["objects"]] == ["fail", "fail"]
    assert sandbox.rows(PRODUCTS) == 1250


@pytest.mark.parametrize("commit", [True, False])
def test_a_transaction_is_seen_by_nobody_else_until_it_ends(sandbox, caller, commit):
    """Its own requests see its writes; others see them after commit, or never."""
    key = _create(caller, "OLD")
    transaction = caller.call("POST", "BeginTransaction", json={"model": "common"}).text
    headers = {"TransactionId": transaction}
    assert len(transaction) == 32
    new = caller.call("POST", PRODUCTS, json=_product("INSIDE"), headers=headers).json()["@odata.id"]
    assert caller.call("DELETE", key, headers=headers).status_code == 204
    assert caller.call("PATCH", new, json={"PartNumber": "PRD-000001"}, headers=headers).status_code == 500
    seen = [caller.call("GET", path, headers=headers).status_code for path in (key, new)]
    assert seen == [404, 200]
    assert [caller.get(path).status_code for path in (key, new)] == [200, 404]
    assert caller.call("POST", "EndTransaction", json={"commit": commit}, headers=headers).status_code == 204
    assert [caller.get(path).status_code for path in (key, new)] == ([404, 200] if commit else [200, 404])
    assert (
        caller.call("POST", PRODUCTS, json={}, headers=headers)
        .json()["error"]["message"]
        .startswith("Invalid T")
    )


def test_a_transaction_lives_for_25_minutes(sandbox, caller):
    """After its time, or a restart, its id is invalid."""
    for end in (lambda: sandbox.advance(25 * 60), sandbox.restart_sessions):
        headers = {"TransactionId": caller.call("POST", "BeginTransaction").text}
        end()
        response = caller.call("GET", PRODUCTS, headers=headers)
        assert response.json()["error"]["message"] == f"Invalid TransactionId {headers['TransactionId']}"


def test_what_cannot_be_written_says_so(caller):
    """Views, batches and bodies that are no JSON object are refused."""
    assert caller.call("POST", "Logistics_Inventory_CurrentBalances", json={}).status_code == 500
    assert caller.call("POST", "$batch", content=b"").status_code == 501
    assert caller.call("POST", PRODUCTS, content=b"{").status_code == 400
    assert caller.call("POST", PRODUCTS, json=[1]).status_code == 400


def test_rows_are_changed_from_within_the_process_too(sandbox, caller):
    """insert, change and delete follow the rules of the API, from any thread."""
    row_id = sandbox.insert(PRODUCTS, PartNumber="IN-1", Name={"EN": "Inside"})
    threads = [threading.Thread(target=sandbox.touch, args=(PRODUCTS, 5)) for _ in range(4)]
    for thread in threads:
        thread.start()
    sandbox.change(PRODUCTS, row_id, Name={"EN": "Changed"})
    for thread in threads:
        thread.join()
    assert caller.get(f"{PRODUCTS}({row_id})").json()["Name"] == {"EN": "Changed"}
    sandbox.delete(PRODUCTS, row_id)
    assert sandbox.rows(PRODUCTS) == 1250
    assert caller.get(PRODUCTS, top=1, select="ObjectVersion").json()["value"][0]["ObjectVersion"] >= 5
