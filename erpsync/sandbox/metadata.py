"""The model as CSDL (`$metadata`) and as the service document."""

from xml.etree import ElementTree as Xml

from erpsync.sandbox.model import SETS, Attribute, EntitySet

_EDMX = "http://docs.oasis-open.org/odata/ns/edmx"
_EDM = "http://docs.oasis-open.org/odata/ns/edm"
_TYPES = {
    "id": "Edm.Guid",
    "guid": "Edm.Guid",
    "display": "Edm.String",
    "string": "Edm.String",
    "bool": "Edm.Boolean",
    "int": "Edm.Int32",
    "decimal": "Edm.Decimal",
    "date": "Edm.DateTimeOffset",
    "datetime": "Edm.DateTimeOffset",
    "ml": "Erp.MultilanguageString",
    "amount": "Erp.Amount",
    "quantity": "Erp.Quantity",
}
_COMPLEX = {"Amount": ("Currency",), "Quantity": ("Unit",)}


def service_document(root: str) -> dict[str, object]:
    """The list of entity sets."""
    names = ({"name": name, "kind": "EntitySet", "url": name} for name in SETS)
    return {"@odata.context": f"{root}$metadata", "value": list(names)}


def csdl() -> str:
    """The model as an EDMX document."""
    edmx = Xml.Element("edmx:Edmx", {"Version": "4.0", "xmlns:edmx": _EDMX})
    schema = Xml.SubElement(
        Xml.SubElement(edmx, "edmx:DataServices"), "Schema", {"Namespace": "Erp", "xmlns": _EDM}
    )
    for name, second in _COMPLEX.items():
        kind = Xml.SubElement(schema, "ComplexType", {"Name": name})
        Xml.SubElement(kind, "Property", {"Name": "Value", "Type": "Edm.Decimal", "Scale": "Variable"})
        Xml.SubElement(kind, "Property", {"Name": second[0], "Type": "Edm.String"})
    Xml.SubElement(schema, "ComplexType", {"Name": "MultilanguageString", "OpenType": "true"})
    container = Xml.Element("EntityContainer", {"Name": "Container"})
    for entity_set in SETS.values():
        _entity_type(schema, entity_set)
        bindings = Xml.SubElement(
            container, "EntitySet", {"Name": entity_set.name, "EntityType": f"Erp.{entity_set.type_name}"}
        )
        for name, target in _navigations(entity_set):
            Xml.SubElement(bindings, "NavigationPropertyBinding", {"Path": name, "Target": target})
    schema.append(container)
    return Xml.tostring(edmx, encoding="unicode", xml_declaration=True)


def _entity_type(schema: Xml.Element, entity_set: EntitySet) -> None:
    for attribute in entity_set.attributes.values():
        if attribute.kind == "enum":
            members = Xml.SubElement(schema, "EnumType", {"Name": _enum_name(entity_set, attribute)})
            for name, number in attribute.values.items():
                Xml.SubElement(members, "Member", {"Name": name, "Value": str(number)})
    entity = Xml.SubElement(schema, "EntityType", {"Name": entity_set.type_name, "OpenType": "true"})
    if not entity_set.keyless:
        Xml.SubElement(Xml.SubElement(entity, "Key"), "PropertyRef", {"Name": "Id"})
    for attribute in entity_set.attributes.values():
        if attribute.kind != "ref":
            Xml.SubElement(entity, "Property", _property(entity_set, attribute))
    for name, target in _navigations(entity_set):
        many = name in entity_set.children
        kind = f"Erp.{SETS[target].type_name}"
        Xml.SubElement(
            entity, "NavigationProperty", {"Name": name, "Type": f"Collection({kind})" if many else kind}
        )


def _navigations(entity_set: EntitySet) -> list[tuple[str, str]]:
    references = [(item.name, item.target) for item in entity_set.attributes.values() if item.kind == "ref"]
    return references + [(name, target) for name, (target, _) in entity_set.children.items()]


def _property(entity_set: EntitySet, attribute: Attribute) -> dict[str, str]:
    kind = f"Erp.{_enum_name(entity_set, attribute)}" if attribute.kind == "enum" else _TYPES[attribute.kind]
    found = {"Name": attribute.name, "Type": kind, "Nullable": str(attribute.kind != "id").lower()}
    if attribute.max_length:
        found["MaxLength"] = str(attribute.max_length)
    if attribute.kind == "decimal":
        found["Scale"] = "Variable"
    return found


def _enum_name(entity_set: EntitySet, attribute: Attribute) -> str:
    return f"{entity_set.type_name}_{attribute.name}"
