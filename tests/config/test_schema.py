"""The JSON Schema for editors."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from erpsync.config.schema import json_schema
from erpsync.config.section import JobSection
from erpsync.core.run import Outcome

SAMPLE = Path(__file__).parents[2] / "config"
MIRROR = {
    "type": "object",
    "properties": {"entity": {"type": "string"}, "target": {"$ref": "#/$defs/Target"}},
    "required": ["entity", "target"],
    "additionalProperties": False,
    "$defs": {
        "Target": {"type": "object", "properties": {"required": {"type": "boolean"}}, "required": ["url"]}
    },
}


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from nodes(inner)


def test_every_reference_leads_to_a_definition() -> None:
    """Those of plugins' own schemas too, which are renamed so that two plugins never meet."""
    schema = json_schema({"mirror": MIRROR, "other": MIRROR})
    references = {node["$ref"] for node in nodes(schema) if isinstance(node.get("$ref"), str)}
    assert {reference.removeprefix("#/$defs/") for reference in references} <= schema["$defs"].keys()
    assert "#/$defs/mirror.Target" in references
    assert "#/$defs/other.Target" in references


def test_a_plugins_settings_hold_where_a_job_names_it() -> None:
    """Nothing in them is obligatory, as another layer may give it; a property called "required" stays."""
    schema = json_schema({"mirror": MIRROR})
    (rule,) = schema["$defs"]["AnyJob"]["allOf"]
    assert rule["if"]["properties"]["plugin"] == {"const": "mirror"}
    assert rule["then"]["properties"]["with"] == {"$ref": "#/$defs/mirror.with"}
    assert schema["$defs"]["mirror.with"]["additionalProperties"] is False
    assert "required" not in schema["$defs"]["mirror.with"]
    assert schema["$defs"]["mirror.Target"]["properties"].keys() == {"required"}


def test_a_job_has_all_its_keys_with_the_defaults_that_hold() -> None:
    """Defaults are the core's; an instance changes everything but `instances`; TOML has no null."""
    definitions = json_schema({})["$defs"]
    job = definitions["AnyJob"]["properties"]
    assert job.keys() == {field.alias or name for name, field in JobSection.model_fields.items()}
    assert (job["timeout"]["default"], job["overlap"]["default"]) == ("1h", "skip")
    assert job["overlap"]["enum"] == ["skip", "queue", "replace", "allow"]
    assert (job["on_blackout"]["default"], job["window"]) == ("skip", {"$ref": "#/$defs/WindowSection"})
    assert definitions["WindowSection"]["properties"].keys() == {"from", "to", "at_end"}
    assert "required" not in definitions["WindowSection"]
    assert {"$ref": "#/$defs/AfterTable"} in job["schedule"]["anyOf"]
    assert definitions["RetrySection"]["properties"]["attempts"]["default"] == 3
    assert job.keys() - definitions["InstanceJob"]["properties"].keys() == {"instances"}
    assert not [node for node in nodes(definitions) if node.get("type") == "null"]


def test_one_value_needs_no_list() -> None:
    """Editors take a word where a list of words is taken, from the words there are."""
    definitions = json_schema({})["$defs"]
    outcomes = {"enum": [outcome.value for outcome in Outcome]}
    assert definitions["AfterTable"]["properties"]["on"]["anyOf"] == [
        outcomes,
        {"type": "array", "items": outcomes},
    ]
    weekdays = definitions["CalendarSection"]["properties"]["weekdays"]["anyOf"]
    assert weekdays[0]["enum"][5:] == ["SAT", "SUN"]
    assert weekdays[1]["items"] == weekdays[0]


def test_the_sample_uses_only_what_the_schema_has() -> None:
    """Every table of the sample is known, key by key, and the schema is JSON."""
    schema = json_schema({})
    assert json.loads(json.dumps(schema)) == schema
    for file in SAMPLE.rglob("*.toml"):
        for section, table in tomllib.loads(file.read_text()).items():
            described = schema["properties"][section]
            tables = table.values() if "additionalProperties" in described else [table]
            reference = described.get("additionalProperties", described)["$ref"]
            definition = schema["$defs"][reference.removeprefix("#/$defs/")]
            assert definition["additionalProperties"] is False
            for each in tables:
                assert each.keys() <= definition["properties"].keys()
