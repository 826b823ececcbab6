"""What pydantic says about a section, in the words of people."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from erpsync.config.document import did_you_mean
from erpsync.config.source import Keys

NOT_YET_HELP = "not available in this version"

NOT_YET_KEYS = frozenset({
    "notices", "ping",
})  # fmt: skip

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "float_type": "a number",
    "tuple_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}
_MISSING = {
    "plugin": "`erpsync plugins` lists what there is; [defaults] can name one for all jobs",
    "client_id": "that of the Trusted Application",
    "slots": "like slots = 4",
    "from": 'like from = "22:00"',
    "to": 'like to = "06:00"',
}
_LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
}
_KINDS: tuple[tuple[type, str], ...] = (
    (int, "a whole number"),
    (float, "a decimal number"),
    (str, "text"),
    (list, "a list"),
    (dict, "a table"),
    (datetime, "a date-time"),
    (date, "a date"),
    (time, "a time"),
)


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing wrong inside a section: `keys` are relative to it; `hide` where the value may be a secret."""

    code: str
    keys: Keys
    message: str
    hint: str = ""
    hide: bool = False


def fault(code: str, message: str, hint: str = "") -> PydanticCustomError:
    """What our own validators raise; `{key}` in `message` becomes the key's name."""
    return PydanticCustomError("fault", "{message}", {"code": code, "message": message, "hint": hint})


def complaints(error: ValidationError, model: type[BaseModel]) -> Iterator[Complaint]:
    """Each of pydantic's errors as a complaint with a code."""
    for detail in error.errors(include_url=False):
        yield _complaint(detail, model)


def kind_of(value: object) -> str:
    """How people call the type of a TOML value."""
    if isinstance(value, bool):
        return str(value).lower()
    return next((words for type_, words in _KINDS if isinstance(value, type_)), "something else")


def name_of(keys: Keys) -> str:
    """How a message calls the value at `keys`: retry.attempts, item 2 of tags."""
    name = ".".join(key for key in keys if isinstance(key, str))
    return f"item {keys[-1] + 1} of {name}" if keys and isinstance(keys[-1], int) else name


def _complaint(detail: ErrorDetails, model: type[BaseModel]) -> Complaint:
    keys = detail["loc"]
    kind, value, context = (
        detail["type"],
        detail["input"],
        cast("Mapping[str, object]", detail.get("ctx", {})),
    )
    name = name_of(keys)
    if kind == "fault":
        message = str(context["message"]).replace("{key}", name)
        return Complaint(str(context["code"]), keys, message, str(context["hint"]), context["code"] == "E111")
    if kind == "extra_forbidden":
        hint = (
            NOT_YET_HELP
            if keys[-1] in NOT_YET_KEYS
            else did_you_mean(str(keys[-1]), _known(model, keys[:-1]))
        )
        return Complaint("E103", keys, f'unknown key "{keys[-1]}"', hint)
    if kind == "missing":
        return Complaint("E106", keys, f"{name} is missing", _MISSING.get(str(keys[-1]), ""))
    if kind in ("literal_error", "enum"):
        return _not_allowed(keys, name, value, str(context["expected"]))
    if kind in _LIMITS:
        limit, words = _LIMITS[kind]
        return Complaint("E105", keys, f"{name} must be {words} {context[limit]}, not {value}")
    if kind in ("string_too_short", "too_short"):
        return Complaint("E105", keys, f"{name} must not be empty")
    if kind in _EXPECTED:
        return Complaint("E104", keys, f"{name} must be {_EXPECTED[kind]}, not {kind_of(value)}")
    return Complaint("E105", keys, f"{name}: {detail['msg'].replace('Input should', 'must')}")


def _not_allowed(keys: Keys, name: str, value: object, expected: str) -> Complaint:
    choices = expected.replace("'", '"')
    if not isinstance(value, str):
        return Complaint("E104", keys, f"{name} must be {choices}, not {kind_of(value)}")
    words = expected.replace(" or ", ", ").replace("'", "").split(", ")
    message = f'{name} must be {choices}, not "{value}"'
    return Complaint("E105", keys, message, did_you_mean(value, words))


def _known(model: type[BaseModel], keys: Keys) -> list[str]:
    """The keys of the table at `keys` inside the section."""
    for key in keys:
        annotation = model.model_fields[str(key)].annotation
        parts = (annotation, *get_args(annotation))
        model = next(part for part in parts if isinstance(part, type) and issubclass(part, BaseModel))
    return [field.alias or name for name, field in model.model_fields.items()]
