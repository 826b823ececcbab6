"""The entity sets of the sandbox with their attributes and capabilities, read from `model.txt`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Final

VERSION: Final = "26.3.100.12"

RENAMED: Final[Mapping[str, tuple[str, str]]] = {
    "Crm_Customers": ("Crm_Sales_Customers", "25.1.2.28"),
    "General_MeasurementUnits": ("General_Products_MeasurementUnits", "24.1.5.35"),
    "General_DocumentTypes": ("Systems_Documents_DocumentTypes", "24.1.5.35"),
    "General_Currencies": ("General_Currencies_Currencies", "25.1.0.64"),
    "Crm_ProductPrices": ("Crm_Pricing_ProductPrices", "25.1.1.36"),
    "Crm_SalesPersons": ("Crm_SalesForce_SalesPersons", "25.1.1.36"),
}
"""Old set name -> (new name, version of the change): renames.md."""

RELEASED: Final = 30


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute or reference. `max_length` is in characters, 0 where there is no limit."""

    name: str
    kind: str
    filters: str = ""
    flags: frozenset[str] = frozenset()
    max_length: int = 0
    target: str = ""
    values: Mapping[str, int] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold it: a value and, for amounts and quantities, its currency or unit."""
        second = {"amount": (".Currency",), "quantity": (".Unit",)}.get(self.kind, ())
        return (self.name, *(self.name + suffix for suffix in second))


@dataclass(frozen=True, slots=True)
class EntitySet:
    """One entity set. `children` maps a collection's name to (set, its reference back to the owner)."""

    name: str
    type_name: str
    attributes: Mapping[str, Attribute]
    code: str
    """The attribute that is unique among the rows; "" where there is none."""
    label: str
    """The attribute shown as `DisplayText`; `Reference/Attribute` may be given."""
    children: Mapping[str, tuple[str, str]]
    owner: Attribute | None
    view: str = ""
    """SQL for sets without a table of their own; they cannot be written."""
    keyless: bool = False
    scope: str = "read"

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the table in order; `sort` is the key by which pages are read."""
        return ("sort", "id", *(column for item in self.stored for column in item.columns))

    @property
    def stored(self) -> tuple[Attribute, ...]:
        """The attributes that have columns."""
        return tuple(item for item in self.attributes.values() if item.kind not in ("id", "display"))

    @property
    def is_document(self) -> bool:
        """Whether it has the life cycle of a document: state, voiding, release."""
        return "State" in self.attributes

    @property
    def writable(self) -> bool:
        """Whether rows can be created, changed and deleted through the API."""
        return not self.view and not self.keyless


_SYSTEM: Final = (
    "sort, id, ObjectVersion, ExternalId, ExternalSystem, AggregateLastUpdateTimeUtc, AdditionalDataJson"
)
_PARTIES: Final = f"""
    SELECT {_SYSTEM}, id AS PartyId, PartyCode, Name AS PartyName, 0 AS PartyType, IsActive, GLN
    FROM General_Contacts_Companies
    UNION ALL
    SELECT {_SYSTEM}, id, PartyCode, LocationName, 1, IsActive, GLN FROM General_Contacts_CompanyLocations"""  # noqa: S608
_VIEWS: Final = {"General_Contacts_Parties": _PARTIES}


_KIND = re.compile(r"(?P<kind>string|enum)\((?P<inside>[^)]*)\)")


def _attribute(line: str) -> Attribute:
    name, kind, *rest = line.split()
    filters = "".join(word[1:] for word in rest if word.startswith(":"))
    flags = frozenset(word for word in rest if not word.startswith(":"))
    if kind.startswith("->"):
        return Attribute(name, "ref", filters, flags, target=kind[2:])
    shape = _KIND.fullmatch(kind)
    if shape is None:
        return Attribute(name, kind, filters, flags)
    if shape["kind"] == "string":
        return Attribute(name, "string", filters, flags, max_length=int(shape["inside"]))
    pairs = (pair.split("=") for pair in shape["inside"].split("|"))
    return Attribute(name, "enum", filters, flags, values={word: int(number) for word, number in pairs})


def _read(text: str) -> Iterator[EntitySet]:
    """Blank lines stand between blocks."""
    shared: dict[str, list[str]] = {}
    for block in text.split("\n\n"):
        head, *lines = [line for line in block.splitlines() if line and not line.startswith("#")] or [""]
        if head.startswith("@"):
            shared[head[1:]] = lines
        elif head:
            yield _set(head, lines, shared)


def _set(head: str, lines: list[str], shared: Mapping[str, list[str]]) -> EntitySet:
    name, type_name, *words = head.split()
    options = dict(word.partition("=")[::2] for word in words)
    keyless = "keyless" in options
    base = [] if keyless else shared["child" if any(" owner" in line for line in lines) else "root"]
    document = shared["document"] if "document" in options else []
    own = [line for line in lines if " *" not in line]
    attributes = {item.name: item for item in map(_attribute, [*base, *document, *own])}
    code = options.get("code", "")
    return EntitySet(
        name,
        type_name,
        attributes,
        code,
        options.get("label", code),
        dict(_child(line) for line in lines if " *" in line),
        next((item for item in attributes.values() if "owner" in item.flags), None),
        _VIEWS.get(name, ""),
        keyless,
        options.get("scope", "read"),
    )


def _child(line: str) -> tuple[str, tuple[str, str]]:
    name, target = line.split()
    child, _, reference = target.removeprefix("*").partition(".")
    return name, (child, reference)


_TEXT: Final = resources.files(__package__).joinpath("model.txt").read_text("utf-8")
SETS: Final[Mapping[str, EntitySet]] = {item.name: item for item in _read(_TEXT)}
"""All entity sets by name."""
TYPES: Final[Mapping[str, EntitySet]] = {f"Erp.{item.type_name}": item for item in SETS.values()}
"""Sets by the qualified name of their entity type, as in `@odata.type`."""
