"""docs/sandbox.md says what there is."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from erpsync.sandbox.behaviour import Behaviour
from erpsync.sandbox.faults import Fault
from erpsync.sandbox.identity import CLIENT_SECRET, guide, openid_configuration
from erpsync.sandbox.people import PASSWORD, PEOPLE
from erpsync.sandbox.sites import application

TEXT = (Path(__file__).parents[2] / "docs/sandbox.md").read_text()


def column(title: str) -> set[str]:
    """The code words in the first column of a section's table."""
    section = TEXT.split(f"\n## {title}")[1].split("\n## ")[0]
    cells = re.findall(r"^\|([^|]*`[^|]*)\|", section, re.MULTILINE)
    return {word for cell in cells for word in re.findall("`([^`]+)`", cell)}


def test_every_switch_has_its_row():
    """Switches are listed, all of them and no others."""
    assert column("Switches") == {field.name for field in fields(Behaviour)}


def test_every_key_of_a_fault_has_its_row():
    """Keys of faults are listed, all of them and no others."""
    assert column("Faults") == set(Fault.__struct_encode_fields__)


def test_every_path_of_the_side_door_has_its_row(reader):
    """What the side door can do is listed."""
    routes = [route.path for route in application(reader.sandbox._instance).routes]
    doors = {path.removeprefix("/_sandbox/") for path in routes if path.startswith("/_sandbox/")}
    assert column("The side door") == doors


def test_every_endpoint_has_its_row():
    """The endpoints of the discovery document are listed."""
    document = openid_configuration("")
    endpoints = {str(value)[1:] for key, value in document.items() if key.endswith(("_endpoint", "_uri"))}
    assert endpoints < column("Endpoints of `/id`")


def test_who_is_there_is_told_alike(reader):
    """The document, the command's guide and the instance name the same applications and people."""
    listed = column("Who is there")
    told = "\n".join(guide("URL"))
    for client_id in listed:
        assert client_id in told
        assert reader.sandbox._instance.identity.applications.enabled(client_id)
    for word in (*PEOPLE, PASSWORD, CLIENT_SECRET):
        assert word in told
        assert f"`{word}`" in TEXT


@pytest.mark.parametrize("name", ["switches", "faults"])
def test_the_tables_are_not_empty(name):
    """What is compared was found."""
    assert len(column(name.capitalize())) > 10
