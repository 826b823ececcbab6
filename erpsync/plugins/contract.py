"""What a plugin is: its decorator, its settings, its result and the signals it may raise."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, cast, get_args, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from erpsync.config.reference import reference_from
from erpsync.core.duration import parse_duration
from erpsync.core.run import Counts
from erpsync.core.secret import SecretReference


class Settings(BaseModel):
    """The base of a plugin's settings: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NoValueError(RuntimeError):
    """A secret was asked for its value where settings are only checked."""


class Secret:
    """A setting whose value is found elsewhere: `{ secret = "name" }`, `{ env = "NAME" }`, `{ file = "path" }`
    or `{ command = ["pass", "show", "x"] }`. The value appears in no repr and in no serialised form.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | None) -> None:
        self._value = value

    def get(self) -> str:
        """The value; RuntimeError where settings were only checked, never in a run."""
        if self._value is None:
            raise NoValueError("the secret was checked for its shape only and has no value here")
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> str:
        raise TypeError("a secret cannot be pickled")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: object) -> dict[str, object]:
        text: dict[str, object] = {"type": "string"}
        forms = {"secret": text, "env": text, "file": text, "command": {"type": "array", "items": text}}
        return {
            "type": "object",
            "description": "where the secret is found",
            "oneOf": [{"properties": {name: form}, "required": [name]} for name, form in forms.items()],
            "properties": forms,
            "additionalProperties": False,
        }

    @classmethod
    def _validate(cls, value: object, info: core_schema.ValidationInfo) -> "Secret":
        if isinstance(value, Secret):
            return value
        try:
            reference = reference_from(cast("Mapping[str, object]", value))
        except (ValueError, TypeError) as error:
            raise PydanticCustomError("secret_reference", "a secret reference") from error
        resolve: Callable[[SecretReference], str] | None = (info.context or {}).get("resolve")
        return cls(resolve(reference) if resolve else None)


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "examples": ["90s", "15m", "2h", "1d"]}),
]
"""A setting written as "90s", "15m", "2h" or "1d"."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a run did: rows by what happened to them, and a sentence for people where there is one."""

    counts: Counts = Counts()
    note: str = ""


class Retry(Exception):  # noqa: N818 - a signal, not a fault
    """Try again, `after` this long (a duration, or text like "10m"); None leaves it to the job's `retry`."""

    def __init__(self, after: timedelta | str | None = None, reason: str = "") -> None:
        super().__init__(reason or "the plugin asks for another attempt")
        self.after = parse_duration(after) if isinstance(after, str) else after


class Skip(Exception):  # noqa: N818
    """There is nothing to do: the run succeeds with this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class AuthFailed(Exception):  # noqa: N818
    """The other side refuses who we are; trying again with the same credentials is pointless."""


class ConfigProblem(Exception):  # noqa: N818
    """A setting cannot work; `key` is its dotted path within the job's `with` table."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f'"{key}" {message}' if key else message)
        self.key = key
        self.message = message


@dataclass(frozen=True, slots=True)
class Plugin:
    """Code that can be run: what `@job` makes of a function; calling it calls the function.

    `needs` names packages that must be importable. `repeatable`: an attempt cut off in the middle may simply be
    started again. `takes_dead`: it knows `ctx.dead`, the rows that failed before. `scope` holds the scopes without
    which its calls are refused: it is not entered with a token that lacks one. `cursor_of` names the settings that a
    cursor belongs to: where one of them changes, reading begins anew.
    """

    name: str
    function: Callable[[Any], Any]
    settings_type: type[Settings]
    repeatable: bool = False
    needs: tuple[str, ...] = ()
    takes_dead: bool = False
    scope: tuple[str, ...] = ()
    cursor_of: tuple[str, ...] = ()

    def __call__(self, context: object) -> Any:
        return self.function(context)

    @property
    def is_async(self) -> bool:
        """Whether it is an `async def`."""
        return inspect.iscoroutinefunction(self.function)

    @property
    def doc(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def job(
    name: str,
    *,
    repeatable: bool = False,
    needs: tuple[str, ...] = (),
    takes_dead: bool = False,
    scope: Sequence[str] = (),
    cursor_of: Sequence[str] = (),
) -> Callable[[Callable[[Any], Any]], Plugin]:
    """Make a plugin of a function `(ctx: JobContext[Options]) -> JobResult`, `async def` or `def`; see `Plugin`.

    Raises:
        TypeError: the name, the scope or the function's first annotation cannot be used.
    """
    if isinstance(scope, str):
        raise TypeError(f'scope must be a tuple of words, like scope=("{scope}",)')
    if not _NAME.fullmatch(name):
        raise TypeError(f'"{name}" is no plugin name; use small letters, digits, "-" and "_"')

    def decorate(function: Callable[[Any], Any]) -> Plugin:
        settings = _settings_type(function)
        more = (tuple(needs), takes_dead, tuple(scope), tuple(cursor_of))
        return Plugin(name, function, settings, repeatable, *more)

    return decorate


def _settings_type(function: Callable[[Any], Any]) -> type[Settings]:
    """The settings model in the annotation of the first parameter; a bare `JobContext` has none."""
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) != 1:
        raise TypeError(f"{function.__name__}() must take exactly one parameter, the context")
    hint = get_type_hints(function).get(parameters[0])
    arguments = get_args(hint)
    if hint is None or len(arguments) > 1:
        raise TypeError(f"annotate the parameter of {function.__name__}() as JobContext[YourSettings]")
    settings = arguments[0] if arguments else Settings
    if not (isinstance(settings, type) and issubclass(settings, Settings)):
        raise TypeError(f"the settings of {function.__name__}() must be a subclass of erpsync.Settings")
    return settings
