"""A plugin's raw settings table checked against its model, with problems in plain words."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ValidationError

from erpsync.config.words import kind_of
from erpsync.core.errors import ErpsyncError, InvalidSettingsError
from erpsync.core.secret import SecretReference
from erpsync.plugins.contract import NoValueError, Plugin, Settings

Resolve = Callable[[SecretReference], str]

_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "float_type": "a number",
    "float_parsing": "a number",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a table",
    "mapping_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "time_delta_type": 'a duration like "15m"',
    "time_delta_parsing": 'a duration like "15m"',
    "secret_reference": 'a secret reference like {{ secret = "name" }}',
    "literal_error": "one of {expected}",
    "enum": "one of {expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
_LIMITS = ("literal_error", "enum", "greater_than", "greater_than_equal", "less_than", "less_than_equal")


def validate_settings(plugin: Plugin, raw: Mapping[str, object], resolve: Resolve | None) -> Settings:
    """The settings of a job as the plugin's model.

    With `resolve` None references to secrets are only checked for their shape. What `resolve` raises
    (SecretUnavailableError) passes through.

    Raises:
        NoValueError: without `resolve` a validator of the plugin wants the value of a secret: nobody can say more.
        InvalidSettingsError: all problems as (dotted key path, message); no message repeats a value.
    """
    try:
        return plugin.settings_type.model_validate(dict(raw), context={"resolve": resolve})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        problems = _problems(plugin.settings_type, raw, found)
        text = "; ".join(message for _, message in problems)
        raise InvalidSettingsError(
            f'the settings do not fit plugin "{plugin.name}": {text}',
            problems=problems,
            literals=_literals(raw, found),
        ) from None  # pydantic's own text could repeat values
    except (ErpsyncError, NoValueError):
        raise
    except (
        Exception,
        SystemExit,
        KeyboardInterrupt,
    ) as error:  # a validator is the plugin's code: it may do anything
        message = f"the plugin's own check of its settings fails: {type(error).__name__}: {error}"
        raise InvalidSettingsError(message, problems=[("", message)]) from error


def references(plugin: Plugin, raw: Mapping[str, object]) -> list[SecretReference]:
    """The references to secrets that these settings hold, in order, whether the settings are right or not."""
    found: dict[SecretReference, None] = {}

    def note(reference: SecretReference) -> str:
        found[reference] = None
        return ""

    with suppress(InvalidSettingsError):  # a validator may dislike what stands for the values here
        validate_settings(plugin, raw, note)
    return list(found)


def _problems(
    model: type[BaseModel], raw: Mapping[str, object], errors: Iterable[Any]
) -> list[tuple[str, str]]:
    """One problem a key, in order."""
    groups: dict[tuple[str, ...], list[tuple[Any, object]]] = {}
    for error in errors:
        path, value = _walk(raw, error)
        groups.setdefault(path, []).append((error, value))
    return [(".".join(path), _message(model, path, group)) for path, group in groups.items()]


def _literals(raw: Mapping[str, object], errors: Iterable[Any]) -> set[str]:
    """Where something else stands than the reference to a secret that belongs there."""
    return {".".join(_walk(raw, error)[0]) for error in errors if error["type"] == "secret_reference"}


def _message(model: type[BaseModel], path: tuple[str, ...], group: list[tuple[Any, object]]) -> str:
    """What is wrong at `path`; the alternatives of a union become "x or y"."""
    for error, _ in group:
        if error["type"] not in _WANTED:
            return _sentence(model, path, error)
    error, value = group[0]
    wanted = dict.fromkeys(_WANTED[each["type"]].format(**each.get("ctx", {})) for each, _ in group)
    text = f"{'.'.join(path)} must be {' or '.join(wanted)}".replace("'", '"')
    return text if error["type"] in _LIMITS else f"{text}, not {kind_of(value)}"


def _walk(raw: Mapping[str, object], error: Any) -> tuple[tuple[str, ...], object]:
    """The path of an error in the table itself, without pydantic's marks for union members, and the value."""
    path: list[str] = []
    value: object = raw
    for part in error["loc"]:
        if (isinstance(value, Mapping) and part in value) or (
            isinstance(value, list) and part in range(len(value))
        ):
            value = value[part]
        elif error["type"] != "missing" or part != error["loc"][-1]:
            continue
        path.append(str(part))
    return tuple(path), value


def _sentence(model: type[BaseModel], path: tuple[str, ...], error: Any) -> str:
    key = ".".join(path)
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(path[-1], _names(model, path[:-1]), n=1)
        return f'unknown setting "{key}"' + (f'; did you mean "{close[0]}"?' if close else "")
    if error["type"] == "value_error":
        return f"{key}: {error['ctx']['error']}" if key else str(error["ctx"]["error"])
    message = str(error["msg"])
    return f"{key}: {message[:1].lower()}{message[1:]}"


def _names(model: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """The settings that exist at `path`; none where it leads through something that is no model."""
    for part in path:
        field = model.model_fields.get(part)
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        models = [item for item in inner if isinstance(item, type) and issubclass(item, BaseModel)]
        if not models:
            return []
        model = models[0]
    return [field.alias or name for name, field in model.model_fields.items()]
