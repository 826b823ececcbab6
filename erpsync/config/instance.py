"""Instances out of their tables."""

from collections.abc import Mapping
from pathlib import Path

from erpsync.config.document import Document
from erpsync.config.reading import beneath, check_name, expanded, read_section
from erpsync.config.section import InstanceSection
from erpsync.core.instance import Instance


def read_instances(document: Document) -> dict[str, Instance]:
    """Every instance; a wrong one is told and stands in as well as it can, so that its jobs are judged too."""
    return {
        name: _read_instance(document, name, table) for name, table in document.named("instances").items()
    }


def instance_variables(instance: Instance) -> dict[str, str]:
    """What placeholders know of an instance."""
    return {"instance": instance.name, **{f"vars.{name}": value for name, value in instance.vars.items()}}


def _read_instance(document: Document, name: str, table: Mapping[str, object]) -> Instance:
    where = beneath("instances", name)
    check_name(document, where(()))
    stand_in = _stand_in(document, name, table)
    own = {key: value for key, value in table.items() if key not in ("vars", "jobs")}
    own = expanded(document, own, instance_variables(stand_in), where)
    rest = {"vars": stand_in.vars or table.get("vars", {}), "jobs": table.get("jobs", {})}
    section = read_section(document, InstanceSection, own | rest, where)
    if section is None:
        return stand_in
    _check_kind(document, name, section, own)
    return Instance(
        name=name,
        kind=section.kind,
        ca_file=_ca_file(document, name, section),
        **{key: getattr(section, key) for key in section.model_fields_set - {"kind", "jobs", "ca_file"}},
    )


def _stand_in(document: Document, name: str, table: Mapping[str, object]) -> Instance:
    """What jobs need to know of an instance, as far as it can be told without judging."""
    tags, texts = table.get("tags"), table.get("vars")
    tags = [tags] if isinstance(tags, str) else tags
    where = beneath("instances", name, "vars")
    texts = expanded(document, texts, {"instance": name}, where) if isinstance(texts, dict) else {}
    return Instance(
        name,
        kind="erpnet",
        tags=frozenset(tag for tag in tags if isinstance(tag, str))
        if isinstance(tags, list)
        else frozenset(),
        vars={key: value for key, value in texts.items() if isinstance(value, str)},
    )


def _check_kind(document: Document, name: str, section: InstanceSection, table: Mapping[str, object]) -> None:
    keys = ("instances", name)
    if section.kind == "erpnet" and "url" not in table:
        document.add("E106", "url is missing", keys, hint='like url = "https://acme.my.erp.net"')
    if section.kind == "oidc" and "issuer" not in table:
        document.add("E106", "issuer is missing", keys, hint='like issuer = "https://id.example"')
    foreign = {"erpnet": ("issuer", "api"), "oidc": ("url",)}[section.kind]
    for key in foreign:
        if key in section.model_fields_set:
            message = f'{key} has no meaning for an instance of kind "{section.kind}"'
            document.add("E105", message, (*keys, key))


def _ca_file(document: Document, name: str, section: InstanceSection) -> Path | None:
    if section.ca_file is None:
        return None
    keys = ("instances", name, "ca_file")
    path = document.folder_of(keys) / section.ca_file
    if not path.is_file():
        document.add("E101", f'there is no file "{section.ca_file}"', keys)
    return path
