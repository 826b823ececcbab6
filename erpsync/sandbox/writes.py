"""What a create, update or delete does to the rows: references found, values checked, rules kept, versions raised.

Source: domain-api/data-manipulation (create, update, erpnet-action, optimistic-locking, import).
"""

import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from decimal import Decimal
from typing import Any, Final

from erpsync.sandbox.data import Database, Row
from erpsync.sandbox.errors import (
    ErpError,
    duplicate,
    malformed,
    not_found,
    refused,
    rule_broken,
    unknown_property,
)
from erpsync.sandbox.model import RELEASED, RENAMED, SETS, TYPES, Attribute, EntitySet
from erpsync.sandbox.values import exact_number, stored_value

Body = Mapping[str, Any]

_ID: Final = re.compile(r"(?:.*/)?(?P<set>\w+)\((?P<id>[0-9a-fA-F-]{36})\)")
_FIND: Final = (
    "find",
    "findSingle",
    "findOrNull",
    "findSingleOrNull",
    "findOrCreate",
    "merge",
    "update",
    "delete",
)
_LINE_SETS: Final = ("Crm_Sales_SalesOrderLines", "Crm_Invoicing_InvoiceLines")
_STATES: Final = SETS["Crm_Sales_SalesOrders"].attributes["State"].values


class Writer:
    """The rules of writing. Every method is one unit: when it raises ErpError nothing has changed."""

    def __init__(
        self, database: Database, now: Callable[[], str], conflict_status: Callable[[], int]
    ) -> None:
        """`now` gives the UTC text for update times; `conflict_status` the HTTP status of a lost optimistic lock."""
        self._database = database
        self._now = now
        self._conflict_status = conflict_status

    def post(self, entity_set: EntitySet, body: Body) -> str:
        """Does what `@erpnet.action` says, by default creates. Returns the id of the row."""
        with self._database.unit():
            return self._place(entity_set, body, "create")[0] or ""

    def update(self, entity_set: EntitySet, row_id: str, body: Body) -> None:
        """Changes the attributes that `body` names; nested children are added or changed."""
        with self._database.unit():
            self._update(entity_set, row_id, body)

    def delete(self, entity_set: EntitySet, row_id: str) -> None:
        """Deletes a row with its children."""
        with self._database.unit():
            self._delete(entity_set, row_id)

    def touch(self, entity_set: EntitySet, row_id: str) -> None:
        """Saves a row as if somebody had changed something about it."""
        with self._database.unit():
            self._save(entity_set, self._row(entity_set, row_id))

    def act(self, entity_set: EntitySet, row_id: str, action: str, body: Body) -> None:
        """Performs a bound action of a document: `ChangeState` or `MakeVoid`."""
        if not entity_set.is_document or action not in ("ChangeState", "MakeVoid"):
            raise not_found(f"The operation '{action}' of '{entity_set.name}'")
        with self._database.unit():
            row = self._row(entity_set, row_id)
            if row["Void"]:
                raise refused(f"The document {row['DocumentNo']} is void.")
            row |= {"Void": 1} if action == "MakeVoid" else self._new_state(body)
            self._save(entity_set, row)

    def import_objects(self, body: Body) -> dict[str, Any]:
        """Places many objects; each has its own outcome, or with `all-objects` all have one."""
        objects = body.get("objects")
        if not isinstance(objects, list):
            raise malformed("The parameter 'objects' is expected to be an array.")
        together = body.get("transaction") == "all-objects"
        try:
            with self._database.unit() if together else nullcontext():
                results = [self._import_one(item) for item in objects]
                if together and any(item["@erpnet.result"] == "fail" for item in results):
                    raise _Abandoned(results)
        except _Abandoned as abandoned:
            results = [
                item
                if item["@erpnet.result"] == "fail"
                else {"@erpnet.result": "fail", "@erpnet.message": "Rolled back."}
                for item in abandoned.results
            ]
        failed = any(item["@erpnet.result"] == "fail" for item in results)
        return {"@erpnet.result": "fail" if failed else "success", "objects": results}

    def _import_one(self, item: Body) -> dict[str, Any]:
        try:
            with self._database.unit():
                entity_set = _typed_set(item, None)
                row_id, state = self._place(entity_set, item, "create")
        except ErpError as error:
            detail = error.body(wrapped=False)
            return {"@erpnet.result": "fail", "@erpnet.message": error.message, "@erpnet.error": detail}
        return {
            "@erpnet.result": "success",
            "@odata.id": f"{entity_set.name}({row_id})",
            "@erpnet.state": state,
        }

    def _place(self, entity_set: EntitySet, body: Body, default: str) -> tuple[str | None, str]:
        """Finds, creates, changes or deletes as the action says. Returns (id or None, Import's word for it)."""
        action = body.get("@erpnet.action", default)
        if action == "create":
            return self._create(entity_set, body), "Added"
        if action not in _FIND:
            raise malformed(f"Unknown @erpnet.action '{action}'.")
        found = self._search(entity_set, body)
        if found is None:
            if action.endswith("OrNull"):
                return None, "Unchanged"
            if action in ("merge", "findOrCreate"):
                return self._create(entity_set, body), "Added"
            raise not_found(f"An object of type Erp.{entity_set.type_name} matching the search criteria")
        if action in ("merge", "update"):
            self._update(entity_set, found, body)
            return found, "Modified"
        if action == "delete":
            self._delete(entity_set, found)
            return found, "Deleted"
        return found, "Unchanged"

    def _search(self, entity_set: EntitySet, body: Body) -> str | None:
        """By `@erpnet.findBy`, else by what the body has of ExternalId, Id, code and name, in this order."""
        criteria = body.get("@erpnet.findBy") or body
        if "@odata.id" in criteria:
            return self._existing(entity_set, criteria["@odata.id"])
        if criteria.get("ExternalId") is not None:
            ids = self._database.find_ids(entity_set.name, "ExternalId", criteria["ExternalId"])
            system = criteria.get("ExternalSystem")
            return next(
                (
                    row_id
                    for row_id in ids
                    if system in (None, self._row(entity_set, row_id)["ExternalSystem"])
                ),
                None,
            )
        if "Id" in criteria:
            return self._existing(entity_set, f"{entity_set.name}({criteria['Id']})")
        code = criteria.get(entity_set.code, criteria.get("Code"))
        if code is not None and entity_set.code:
            return next(iter(self._database.find_ids(entity_set.name, entity_set.code, code, 1)), None)
        return self._search_by_name(entity_set, criteria)

    def _search_by_name(self, entity_set: EntitySet, criteria: Body) -> str | None:
        """The first row whose name contains the text, whatever the case."""
        name = criteria.get("Name", criteria.get("DisplayText"))
        texts = list(name.values()) if isinstance(name, Mapping) else [name]
        if "Name" not in entity_set.attributes or not texts or not isinstance(texts[0], str):
            raise malformed(f"No search criteria for type Erp.{entity_set.type_name}.")
        sql = (
            f'SELECT id FROM "{entity_set.name}" WHERE instr(fold("Name"), fold(?)) > 0 ORDER BY sort LIMIT 1'  # noqa: S608
        )
        found = self._database.query(sql, (texts[0],))
        return found[0][0] if found else None

    def _create(self, entity_set: EntitySet, body: Body, owner: Row | None = None) -> str:
        if not entity_set.writable:
            raise refused(f"Objects of type Erp.{entity_set.type_name} cannot be created.")
        now = self._now()
        row: Row = {"id": str(uuid.uuid4()), "ObjectVersion": 0, "CreationTime": now, **_switches(entity_set)}
        row |= owner or {}
        if entity_set.is_document:
            row |= {"State": 0, "Void": 0, "ReadOnly": 0, "DocumentNo": uuid.uuid4().hex[:10].upper()}
        children = self._assign(entity_set, row, body)
        self._check_new(entity_set, row)
        self._save(entity_set, row)
        self._place_children(entity_set, row["id"], children)
        return str(row["id"])

    def _update(self, entity_set: EntitySet, row_id: str, body: Body) -> None:
        row = self._row(entity_set, row_id)
        expected = body.get("ObjectVersion")
        if expected is not None and expected != row["ObjectVersion"]:
            message = f"The object was changed by another user: version {row['ObjectVersion']}, expected {expected}."
            raise ErpError(message, status=self._conflict_status(), kind="OptimisticLockException")
        self._check_editable(entity_set, row)
        children = self._assign(entity_set, row, body)
        self._save(entity_set, row)
        self._place_children(entity_set, row_id, children)

    def _delete(self, entity_set: EntitySet, row_id: str) -> None:
        row = self._row(entity_set, row_id)
        self._check_editable(entity_set, row)
        for child, reference in entity_set.children.values():
            for child_id in self._database.find_ids(child, reference, row_id):
                self._database.remove(child, child_id)
        self._database.remove(entity_set.name, row_id)
        self._save_owner(entity_set, row)

    def _row(self, entity_set: EntitySet, row_id: str) -> Row:
        row = self._database.find(entity_set.name, row_id) if entity_set.writable else None
        if row is None:
            raise not_found(f"The object {entity_set.name}({row_id})")
        return row

    def _existing(self, entity_set: EntitySet, reference: str) -> str | None:
        """The id within an `@odata.id`, relative or absolute, its set named by an old name or not."""
        match = _ID.fullmatch(reference)
        if match is None:
            raise malformed(f"Invalid @odata.id '{reference}'.")
        row_id = match["id"].lower()
        return row_id if self._database.find(entity_set.name, row_id) else None

    def _assign(self, entity_set: EntitySet, row: Row, body: Body) -> dict[str, list[Body]]:
        """Puts the values of `body`, in its order, into `row`. Returns the nested children, to be placed later."""
        children: dict[str, list[Body]] = {}
        for key, value in body.items():
            name = key.removesuffix("@odata.bind")
            if key in ("Id", "ObjectVersion", "DisplayText") or (key.startswith("@") and name == key):
                continue
            if name in entity_set.children:
                children[name] = value
                continue
            attribute = entity_set.attributes.get(name)
            if attribute is None:
                raise unknown_property(name, entity_set.type_name)
            if "readonly" in attribute.flags:
                raise refused(f"The property '{name}' is read-only.")
            row |= self._columns(attribute, {"@odata.id": value} if name != key else value)
        return children

    def _columns(self, attribute: Attribute, value: Any) -> Row:
        """The columns of an attribute for a JSON value. Raises ErpError where the value does not fit."""
        if value is None:
            return dict.fromkeys(attribute.columns)
        if attribute.kind == "ref":
            return {attribute.name: self._reference(attribute, value)}
        if attribute.kind in ("amount", "quantity"):
            return self._measure(attribute, value)
        return {attribute.name: stored_value(attribute, value)}

    def _reference(self, attribute: Attribute, value: Any) -> str | None:
        if not isinstance(value, Mapping):
            raise malformed(f"An object is expected for the reference '{attribute.name}'.")
        target = SETS[attribute.target]
        if "@odata.id" in value and not [key for key in value if not key.startswith("@")]:
            found = self._existing(target, value["@odata.id"])
            if found is None:
                raise not_found(f"The object {value['@odata.id']}")
            return found
        if target.view:
            target = _typed_set(value, target)
        return self._place(target, value, "find" if _only_search_keys(target, value) else "merge")[0]

    def _measure(self, attribute: Attribute, value: Any) -> Row:
        """An amount or a quantity; its currency or unit has to exist."""
        number, sign = attribute.columns
        key = sign.rpartition(".")[2]
        if not isinstance(value, Mapping) or value.get(key) is None:
            raise malformed(f"An object with Value and {key} is expected for '{attribute.name}'.")
        master, code = _MEASURES[attribute.kind]
        if not self._database.find_ids(master, code, value[key], 1):
            raise refused(f"{key} '{value[key]}' of '{attribute.name}' was not found.")
        return {number: exact_number(attribute, value.get("Value")), sign: value[key]}

    def _place_children(
        self, entity_set: EntitySet, owner_id: str, children: Mapping[str, list[Body]]
    ) -> None:
        for name, items in children.items():
            child_name, reference = entity_set.children[name]
            child = SETS[child_name]
            for item in items:
                if item.get("@erpnet.action", "create") == "create" and "@odata.id" not in item:
                    self._create(child, item, {reference: owner_id})
                else:
                    self._place(child, item, "update")

    def _check_new(self, entity_set: EntitySet, row: Row) -> None:
        for attribute in entity_set.stored:
            if "required" in attribute.flags and row.get(attribute.name) in (None, ""):
                raise refused(f"The property '{attribute.name}' of Erp.{entity_set.type_name} is required.")
        if entity_set.owner:
            owner = SETS[entity_set.owner.target]
            self._check_editable(owner, self._row(owner, row[entity_set.owner.name]))

    def _check_editable(self, entity_set: EntitySet, row: Row) -> None:
        if entity_set.owner:
            owner = SETS[entity_set.owner.target]
            self._check_editable(owner, self._row(owner, row[entity_set.owner.name]))
        elif entity_set.is_document and row["State"] >= RELEASED:
            raise refused(f"The document {row['DocumentNo']} is released and cannot be edited.")

    def _save(self, entity_set: EntitySet, row: Row) -> None:
        """Checks what has to hold at commit, raises the version and carries the change to the aggregate's root."""
        self._check_rules(entity_set, row)
        now = self._now()
        row["ObjectVersion"] += 1
        row |= {"AggregateLastUpdateTimeUtc": now, "UpdateTime": now}
        if entity_set.name in _LINE_SETS:
            _calculate(row)
        self._database.put(
            entity_set.name, {column: row.get(column) for column in ("id", *entity_set.columns)}
        )
        self._save_owner(entity_set, row)

    def _save_owner(self, entity_set: EntitySet, row: Row) -> None:
        if entity_set.owner is None:
            return
        owner = SETS[entity_set.owner.target]
        above = self._row(owner, row[entity_set.owner.name])
        if entity_set.name in _LINE_SETS:
            above |= self._total(entity_set, above["id"])
        self._save(owner, above)

    def _total(self, lines: EntitySet, document_id: str) -> Row:
        reference = lines.owner.name if lines.owner else ""
        rows = [
            self._row(lines, row_id) for row_id in self._database.find_ids(lines.name, reference, document_id)
        ]
        total = sum((Decimal(row["LineAmount"]) for row in rows if row["LineAmount"]), Decimal("0.00"))
        currency = next((row["LineAmount.Currency"] for row in rows if row["LineAmount"]), None)
        return {"TotalLineAmount": str(total) if currency else None, "TotalLineAmount.Currency": currency}

    def _check_rules(self, entity_set: EntitySet, row: Row) -> None:
        code = row.get(entity_set.code)
        if code is not None and set(self._database.find_ids(entity_set.name, entity_set.code, code, 2)) - {
            row["id"]
        }:
            raise duplicate(entity_set.name, entity_set.code, str(code))
        if entity_set.name == "Crm_Sales_Customers" and (row.get("FromDate") or "") > (
            row.get("ThruDate") or "9999"
        ):
            explanation = "The 'from date' must not be after the 'thru date'."
            raise rule_broken("Crm.Sales.Customers", "R27159", "FromDateLessThanThruDate", explanation)

    def _new_state(self, body: Body) -> Row:
        state = _STATES.get(body.get("newState", ""))
        if state is None:
            raise malformed(f"Unknown document state '{body.get('newState')}'.")
        released = state >= RELEASED
        return {"State": state, "ReadOnly": int(released), "ReleaseTime": self._now() if released else None}


class _Abandoned(Exception):  # noqa: N818 - leaves the unit of an Import, is no error
    def __init__(self, results: list[dict[str, Any]]) -> None:
        self.results = results


def _typed_set(body: Body, default: EntitySet | None) -> EntitySet:
    """The set that `@odata.type` names, by type or by set, old names included."""
    name = str(body.get("@odata.type", "")).removeprefix("#")
    bare = name.removeprefix("Erp.")
    found = TYPES.get(name) or SETS.get(RENAMED.get(bare, (bare, ""))[0]) or default
    if found is None:
        raise malformed(f"Unknown @odata.type '{name}'.")
    return found


def _switches(entity_set: EntitySet) -> Row:
    """New rows are active, and nothing else that can be switched on."""
    names = (item.name for item in entity_set.stored if item.kind == "bool")
    return {name: int(name in ("Active", "IsActive")) for name in names}


def _only_search_keys(entity_set: EntitySet, body: Body) -> bool:
    keys = {key for key in body if not key.startswith("@")}
    return keys <= {"Id", "ExternalId", "ExternalSystem", "Code", "Name", "DisplayText", entity_set.code} - {
        ""
    }


def _calculate(row: Row) -> None:
    """The amount of a line is its quantity times its unit price."""
    if row.get("UnitPrice") is not None and row.get("Quantity") is not None:
        amount = (Decimal(row["Quantity"]) * Decimal(row["UnitPrice"])).quantize(Decimal("0.01"))
        row |= {"LineAmount": str(amount), "LineAmount.Currency": row["UnitPrice.Currency"]}


_MEASURES: Final = {
    "amount": ("General_Currencies_Currencies", "CurrencySign"),
    "quantity": ("General_Products_MeasurementUnits", "Code"),
}
