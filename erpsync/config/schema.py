"""The JSON Schema (draft 2020-12) of erpsync.toml, for editors; what it lets pass may still fail `check`."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from typing import Any

from pydantic.json_schema import models_json_schema

from erpsync.config.configuration import duration_text
from erpsync.config.section import (
    AfterTable,
    AtTable,
    CalendarSection,
    ControlSection,
    CronTable,
    DaemonSection,
    EveryTable,
    IdentitySection,
    InstanceSection,
    JobSection,
    MetricsSection,
    PoolSection,
    SecretsSection,
    Section,
)
from erpsync.core.job import Job, RetryPolicy

_MODELS: tuple[type[Section], ...] = (
    DaemonSection, ControlSection, MetricsSection, SecretsSection, IdentitySection, InstanceSection, JobSection,
    CronTable, EveryTable, AtTable, AfterTable, CalendarSection, PoolSection,
)  # fmt: skip


def json_schema(plugin_settings: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The schema of the whole file; `plugin_settings` gives each plugin's own settings as a JSON Schema."""
    generated = models_json_schema([(model, "validation") for model in _MODELS])[1]["$defs"]
    definitions: dict[str, Any] = {name: _tidy(model) for name, model in generated.items()}
    _complete_job(definitions)
    definitions["AnyJob"] = definitions["JobSection"] | {
        "allOf": [_settings_rule(plugin, schema, definitions) for plugin, schema in plugin_settings.items()]
    }
    definitions["InstanceSection"]["properties"]["jobs"] = _named({"$ref": "#/$defs/InstanceJob"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "erpsync.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "daemon": {"$ref": "#/$defs/DaemonSection"},
            "control": {"$ref": "#/$defs/ControlSection"},
            "metrics": {"$ref": "#/$defs/MetricsSection"},
            "secrets": {"$ref": "#/$defs/SecretsSection"},
            "defaults": {"$ref": "#/$defs/JobSection"},
            "identities": _named({"$ref": "#/$defs/IdentitySection"}),
            "jobs": _named({"$ref": "#/$defs/AnyJob"}),
            "instances": _named({"$ref": "#/$defs/InstanceSection"}),
            "calendars": _named({"$ref": "#/$defs/CalendarSection"}),
            "pools": _named({"$ref": "#/$defs/PoolSection"}),
        },
        "$defs": definitions,
    }


def _named(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": schema}


def _complete_job(definitions: dict[str, Any]) -> None:
    """Give jobs the core's defaults; any layer may hold any key, so none is obligatory in one place."""
    job, retry = definitions["JobSection"], definitions["RetrySection"]
    del job["required"], definitions["WindowSection"]["required"]
    _add_defaults(job["properties"], Job)
    _add_defaults(retry["properties"], RetryPolicy)
    tables = [{"$ref": f"#/$defs/{model.__name__}"} for model in (CronTable, EveryTable, AtTable, AfterTable)]
    one = [{"type": "string"}, *tables]
    job["properties"]["schedule"] = {
        "anyOf": [*one, {"type": "array", "items": {"anyOf": one}, "minItems": 1}]
    }
    changed = {key: value for key, value in job["properties"].items() if key != "instances"}
    definitions["InstanceJob"] = job | {"properties": changed}


def _add_defaults(properties: dict[str, Any], values: type) -> None:
    for field in fields(values):
        plain = duration_text(field.default) if isinstance(field.default, timedelta) else field.default
        if field.name in properties and isinstance(plain, str | int):
            properties[field.name] |= {"default": plain}


def _settings_rule(plugin: str, schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """If the job names this plugin, then `with` has its settings."""
    for name, definition in schema.get("$defs", {}).items():
        definitions[f"{plugin}.{name}"] = _adopt(definition, plugin)
    settings = {key: value for key, value in schema.items() if key != "$defs"}
    definitions[f"{plugin}.with"] = _adopt(settings, plugin)
    return {
        "if": {"properties": {"plugin": {"const": plugin}}, "required": ["plugin"]},
        "then": {"properties": {"with": {"$ref": f"#/$defs/{plugin}.with"}}},
    }


def _adopt(schema: Any, plugin: str) -> Any:
    """A plugin's schema as part of ours: references renamed, nothing obligatory as tables merge over layers."""
    if isinstance(schema, list):
        return [_adopt(element, plugin) for element in schema]
    if not isinstance(schema, dict):
        return schema
    adopted = {key: _adopt(value, plugin) for key, value in schema.items()}
    if isinstance(adopted.get("required"), list):
        del adopted["required"]
    if isinstance(reference := adopted.get("$ref"), str):
        adopted["$ref"] = reference.replace("#/$defs/", f"#/$defs/{plugin}.")
    return adopted


def _tidy(schema: Any) -> Any:
    """Without what TOML has no word for (null) and what editors need not show (generated titles)."""
    if isinstance(schema, list):
        return [_tidy(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {
        key: _tidy(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))
    }
    if tidy.get("default", "") is None:
        del tidy["default"]
    choices = tidy.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        choices.remove({"type": "null"})
        if len(choices) == 1:
            tidy |= choices[0]
            del tidy["anyOf"]
    return tidy
