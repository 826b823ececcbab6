"""What `$metadata` says of one entity set, as columns of a table."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree as Xml

from erpsync import Column, RejectedError

_EDM = "{http://docs.oasis-open.org/odata/ns/edm}"
_KINDS = {
    "Edm.Boolean": "boolean",
    "Edm.Byte": "integer",
    "Edm.SByte": "integer",
    "Edm.Int16": "integer",
    "Edm.Int32": "integer",
    "Edm.Int64": "integer",
    "Edm.Decimal": "decimal",
    "Edm.Double": "float",
    "Edm.Single": "float",
    "Edm.Date": "date",
    "Edm.DateTimeOffset": "datetime",
    "Edm.Guid": "guid",
}
_HINT = "look at the instance's $metadata; a server or proxy that changes it must be mended first"
_MEASURES = {"Amount": "Currency", "Quantity": "Unit"}


@dataclass(frozen=True, slots=True)
class EntityType:
    """Attributes by name with their Edm type, references (to one row) by name; `key` as the service names it."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    base: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """The entity sets of an instance and the types of their rows."""

    sets: Mapping[str, str]
    types: Mapping[str, EntityType]
    enums: frozenset[str]

    def entity(self, entity_set: str) -> EntityType:
        """The type of the rows of a known set, with all that it inherits.

        Raises:
            RejectedError: the model lacks a type, or a type inherits from itself.
        """
        found = self._type(self.sets[entity_set], entity_set)
        ancestors: set[str] = set()
        while found.base:
            if found.base in ancestors:
                raise RejectedError(f"$metadata: {found.base} inherits from itself", hint=_HINT)
            ancestors.add(found.base)
            base = self._type(found.base, entity_set)
            found = EntityType(
                {**base.attributes, **found.attributes},
                base.references + found.references,
                found.key or base.key,
                base.base,
            )
        return found

    def _type(self, name: str, entity_set: str) -> EntityType:
        if name not in self.types:
            raise RejectedError(
                f'$metadata: {entity_set} needs the type "{name}", which is not there', hint=_HINT
            )
        return self.types[name]

    def columns(self, entity: EntityType, name: str) -> Iterator[Column]:
        """The columns of one attribute or reference.

        An amount or quantity becomes two, `Price` and `Price_Currency` or `Size_Unit` (the underscore because sets
        have a reference `QuantityUnit` beside a quantity `Quantity`); a reference the id of its row; texts by
        language and whatever else is nested JSON.
        """
        kind = entity.attributes.get(name, "")
        measure = _MEASURES.get(kind.rpartition(".")[2])
        if name in entity.references:
            yield Column(name, "reference", (name, "@odata.id"))
        elif measure:
            yield Column(name, "decimal", (name, "Value"))
            yield Column(f"{name}_{measure}", "text", (name, measure))
        elif kind in _KINDS:
            yield Column(name, _KINDS[kind])  # type: ignore[arg-type]  # the values above are kinds
        elif kind.startswith("Edm.") or kind in self.enums:
            yield Column(name, "text")
        else:
            yield Column(name, "json")


def read_model(document: bytes) -> Model:
    """The model in a CSDL document.

    Raises:
        RejectedError: it is no well-formed XML.
    """
    try:
        return _read(document)
    except Xml.ParseError as error:
        raise RejectedError(
            f"$metadata of the instance is no well-formed XML: {error}", hint=_HINT
        ) from error


def _read(document: bytes) -> Model:
    """As a stream, for real ones have many megabytes."""
    sets: dict[str, str] = {}
    types: dict[str, EntityType] = {}
    enums: set[str] = set()
    namespace = ""
    for event, element in Xml.iterparse(io.BytesIO(document), ("start", "end")):  # noqa: S314 - expat limits expansion
        tag = element.tag.removeprefix(_EDM)
        if event == "start":
            if tag == "Schema":
                namespace = element.get("Namespace", "")
            continue
        name = element.get("Name", "")
        if tag == "EntityType":
            types[f"{namespace}.{name}"] = _entity_type(element)
        elif tag == "EnumType":
            enums.add(f"{namespace}.{name}")
        elif tag == "EntitySet":
            sets[name] = element.get("EntityType", "")
        if tag in ("EntityType", "EnumType", "ComplexType"):
            element.clear()
    return Model(sets, types, frozenset(enums))


def _entity_type(element: Xml.Element) -> EntityType:
    properties = element.findall(f"{_EDM}Property")
    navigations = element.findall(f"{_EDM}NavigationProperty")
    return EntityType(
        {item.get("Name", ""): item.get("Type", "") for item in properties},
        tuple(
            item.get("Name", "") for item in navigations if not item.get("Type", "").startswith("Collection(")
        ),
        tuple(item.get("Name", "") for item in element.iterfind(f"{_EDM}Key/{_EDM}PropertyRef")),
        element.get("BaseType", ""),
    )
