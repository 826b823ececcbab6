"""The sections of erpsync.toml as pydantic models; their defaults are those of the core's values."""

import re
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from erpsync.config.document import did_you_mean
from erpsync.config.reference import reference_from
from erpsync.config.words import NOT_YET_HELP, fault, kind_of
from erpsync.core.address import is_loopback
from erpsync.core.duration import parse_duration
from erpsync.core.instance import AuthMethod, GrantKind, TokenScheme
from erpsync.core.instant import reckonable
from erpsync.core.job import After, Dst
from erpsync.core.run import Outcome
from erpsync.core.secret import SecretReference

_RATE = re.compile(r"(\d+(?:\.\d+)?)/([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)")
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_LEAP_YEAR = 2000
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _text(value: object, example: str) -> str:
    if not isinstance(value, str):
        raise fault("E104", f"{{key}} must be text like {example}, not {kind_of(value)}")
    return value


def _duration(value: object) -> timedelta:
    text = _text(value, '"90s"')
    try:
        return parse_duration(text)
    except ValueError as error:
        raise fault("E105", f"{{key}}: {error}") from error


def _positive(value: timedelta) -> timedelta:
    if not value:
        raise fault("E105", "{key} must be more than nothing")
    return value


def _instant(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise fault(
            "E104", f"{{key}} must be a date-time like 2026-12-31T23:00:00+02:00, not {kind_of(value)}"
        )
    if value.tzinfo is None:
        raise fault("E105", "{key} must say its offset from UTC, like 2026-12-31T23:00:00+02:00")
    try:
        return reckonable(value).astimezone(UTC)
    except ValueError as error:
        raise fault("E105", f"{{key}} {error}") from error


@lru_cache(maxsize=1024)
def _zone_exists(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _zone(name: str) -> str:
    if not _zone_exists(name):
        zones = sorted(available_timezones())
        city = [zone for zone in zones if zone.rpartition("/")[2].lower() == name.rpartition("/")[2].lower()]
        raise fault(
            "E110",
            f'unknown time zone "{name}"',
            did_you_mean(name, city, nearness=0) or did_you_mean(name, zones),
        )
    return name


def _list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _words(value: object) -> object:
    return value.split() if isinstance(value, str) else value


def _path(value: str) -> str:
    if not value or "\0" in value:
        raise fault("E105", "{key} must be a path")
    return value


def _https(value: str) -> str:
    try:
        parts = urlsplit(value)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise fault("E105", "{key} is not a URL") from error
    if parts.scheme not in ("https", "http") or not host or any(letter <= " " for letter in value):
        raise fault("E105", "{key} must be a URL like https://acme.my.erp.net")
    if parts.scheme == "http" and not is_loopback(host):
        raise fault(
            "E113",
            f"{{key}} must be https: plain http would show tokens to the network between here and {host}",
        )
    return value


def _loopback(value: str) -> str:
    try:
        parts = urlsplit(value)
        plain = parts.scheme == "http" and "@" not in parts.netloc and not parts.query and not parts.fragment
        if plain and parts.hostname in ("127.0.0.1", "::1", "localhost") and parts.port != 0:
            return value
    except ValueError:
        pass
    message = "{key} must be an address of this machine like http://127.0.0.1:8401/callback"
    raise fault("E105", message, "`erpsync login` listens there while somebody signs in")


def _rate(value: object) -> float:
    found = _RATE.fullmatch(_text(value, '"10/s"'))
    if not found or not float(found[1]):
        raise fault("E105", '{key} must be a number per second, minute or hour, like "10/s" or "300/m"')
    return float(found[1]) / _SECONDS[found[2]]


def _size(value: object) -> int:
    found = _SIZE.fullmatch(_text(value, '"512MiB"'))
    if not found or not int(found[1]):
        raise fault("E105", '{key} must be a size like "512MiB" or "2GiB"')
    return int(found[1]) * _BYTES[found[2]]


def _mode(value: object) -> str:
    text = _text(value, '"0660"')
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise fault("E105", '{key} must be the bits of a file in octal, like "0660"')
    return text


def _listen(value: object) -> tuple[str, int] | None:
    if value is False or value == "false":
        return None
    host, colon, port = _text(value, '"127.0.0.1:9465", or false').rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise fault("E105", '{key} must be an address and a port like "127.0.0.1:9465", or false')
    return host.removeprefix("[").removesuffix("]"), int(port)


def _state(value: object) -> str:
    if value != "sqlite":
        raise fault("E105", '{key} must be "sqlite"', NOT_YET_HELP if isinstance(value, dict) else "")
    return "sqlite"


def _time(value: object) -> time:
    found = _TIME.fullmatch(_text(value, '"22:00"'))
    if not found:
        hint = 'the end of the day is "00:00"' if value == "24:00" else ""
        raise fault("E105", '{key} must be a time of day from "00:00" to "23:59"', hint)
    return time(int(found[1]), int(found[2]))


def _one_or_many(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _day(value: object) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    text = _text(value, '"2026-12-31"')
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007  # a day, in whatever zone
    except ValueError as error:
        raise fault("E105", f'{{key}} must be a day like "2026-12-31", not "{text}"') from error


def _day_of_year(value: object) -> tuple[int, int]:
    text = _text(value, '"12-31"')
    try:
        day = datetime.strptime(f"{_LEAP_YEAR}-{text}", "%Y-%m-%d")  # noqa: DTZ007  # as above
    except ValueError as error:
        raise fault("E105", f'{{key}} must be month and day like "12-31", not "{text}"') from error
    return day.month, day.day


def _weekday(value: object) -> int:
    text = _text(value, '"SAT"')
    if text.upper() not in _WEEKDAYS:
        message = f'{{key}} must be one of {", ".join(_WEEKDAYS)}, not "{text}"'
        raise fault("E105", message, did_you_mean(text.upper(), _WEEKDAYS))
    return _WEEKDAYS.index(text.upper())


def _month_day(value: object) -> int:
    if value == "L":
        return -1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 31:
        raise fault("E105", '{key} must be a day from 1 to 31, or "L" for the last one of the month')
    return value


def _expiry(value: object) -> datetime:
    """A day means its end: whoever is told a day may still use what expires on it."""
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value)
        except ValueError as error:
            raise fault("E105", '{key} must be a day like "2026-12-31", or a date-time') from error
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time.max, UTC)
    return _instant(value)


def _reference(value: object) -> SecretReference:
    try:
        return reference_from(value)
    except ValueError as error:
        raise fault("E111", f"{{key}} {error}") from error


def _references(value: object) -> tuple[SecretReference, ...]:
    elements = value if isinstance(value, list) else [value]
    if not elements:
        raise fault("E111", "{key} must not be empty")
    return tuple(_reference(element) for element in elements)


_DURATION_SCHEMA = {
    "type": "string",
    "pattern": r"^\s*(\d+(\.\d+)?(ms|s|m|h|d))+\s*$|\$\{",
    "examples": ["90s", "15m"],
}
_REFERENCE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
    "properties": {
        "secret": {"type": "string", "description": "looked up in the places of [secrets] from"},
        "env": {"type": "string", "description": "an environment variable"},
        "file": {"type": "string", "description": "a file, relative to this one"},
        "command": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    },
}
_REFERENCES_SCHEMA = {
    "anyOf": [_REFERENCE_SCHEMA, {"type": "array", "items": _REFERENCE_SCHEMA, "minItems": 1}],
    "description": "where the secret is found, never the secret; a list of two for roll-over",
}


def _many(element: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [element, {"type": "array", "items": element}]}


_LIST_SCHEMA = _many({"type": "string"})
_TIME_SCHEMA = {"type": "string", "pattern": r"^([01]\d|2[0-3]):[0-5]\d$|\$\{", "examples": ["22:00"]}
_DAY_SCHEMA = {"description": "a day, like 2026-12-31, quoted or not", "examples": ["2026-12-31"]}
_DAY_OF_YEAR_SCHEMA = {"type": "string", "pattern": r"^\d\d?-\d\d?$", "examples": ["12-31"]}
_MONTH_DAY_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 31}, {"const": "L"}]}
_LOOPBACK_SCHEMA = {"type": "string", "examples": ["http://127.0.0.1:8401/callback"]}
_EXPIRY_SCHEMA = {"description": "the last day, like 2026-12-31, or an offset date-time"}
_INSTANT_SCHEMA: dict[str, Any] = {"description": "an offset date-time, like 2026-12-31T23:00:00+02:00"}

Text = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, Field(strict=True)]
Natural = Annotated[int, Field(strict=True, ge=0)]
Handful = Annotated[int, Field(strict=True, ge=0, le=1000)]
Positive = Annotated[int, Field(strict=True, ge=1)]
Flag = Annotated[bool, Field(strict=True)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_list), WithJsonSchema(_LIST_SCHEMA)]
Words = Annotated[tuple[Text, ...], BeforeValidator(_words), WithJsonSchema(_LIST_SCHEMA)]
Tags = Annotated[frozenset[Text], BeforeValidator(_list), WithJsonSchema(_LIST_SCHEMA)]
PathText = Annotated[str, AfterValidator(_path)]
Url = Annotated[str, AfterValidator(_https)]
LoopbackUri = Annotated[str, AfterValidator(_loopback), WithJsonSchema(_LOOPBACK_SCHEMA)]
Zone = Annotated[str, AfterValidator(_zone)]
Duration = Annotated[timedelta, PlainValidator(_duration), WithJsonSchema(_DURATION_SCHEMA)]
Span = Annotated[
    timedelta, PlainValidator(_duration), AfterValidator(_positive), WithJsonSchema(_DURATION_SCHEMA)
]
Instant = Annotated[datetime, PlainValidator(_instant), WithJsonSchema(_INSTANT_SCHEMA)]
TimeOfDay = Annotated[time, PlainValidator(_time), WithJsonSchema(_TIME_SCHEMA)]
Days = Annotated[
    tuple[Annotated[date, PlainValidator(_day)], ...],
    BeforeValidator(_one_or_many),
    WithJsonSchema(_many(_DAY_SCHEMA)),
]
DaysOfYear = Annotated[
    tuple[Annotated[tuple[int, int], PlainValidator(_day_of_year)], ...],
    BeforeValidator(_one_or_many),
    WithJsonSchema(_many(_DAY_OF_YEAR_SCHEMA)),
]
Weekdays = Annotated[
    tuple[Annotated[int, PlainValidator(_weekday)], ...],
    BeforeValidator(_one_or_many),
    WithJsonSchema(_many({"enum": list(_WEEKDAYS)})),
]
MonthDays = Annotated[
    tuple[Annotated[int, PlainValidator(_month_day)], ...],
    BeforeValidator(_one_or_many),
    WithJsonSchema(_many(_MONTH_DAY_SCHEMA)),
]
Outcomes = Annotated[
    frozenset[Outcome],
    Field(min_length=1),
    BeforeValidator(_list),
    WithJsonSchema(_many({"enum": [outcome.value for outcome in Outcome]})),
]
Rate = Annotated[float, PlainValidator(_rate), WithJsonSchema({"type": "string", "examples": ["10/s"]})]
Size = Annotated[int, PlainValidator(_size), WithJsonSchema({"type": "string", "examples": ["512MiB"]})]
Mode = Annotated[str, PlainValidator(_mode), WithJsonSchema({"type": "string", "examples": ["0660"]})]
Listen = Annotated[
    tuple[str, int] | None,
    PlainValidator(_listen),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"const": False}], "examples": ["127.0.0.1:9465", False]}),
]
State = Annotated[str, PlainValidator(_state), WithJsonSchema({"const": "sqlite"})]
Expiry = Annotated[datetime, PlainValidator(_expiry), WithJsonSchema(_EXPIRY_SCHEMA)]
Reference = Annotated[SecretReference, PlainValidator(_reference), WithJsonSchema(_REFERENCE_SCHEMA)]
References = Annotated[
    tuple[SecretReference, ...], PlainValidator(_references), WithJsonSchema(_REFERENCES_SCHEMA)
]


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LogSection(Section):
    format: Literal["auto", "console", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class RetentionSection(Section):
    runs: Span = timedelta(days=400)
    logs: Span = timedelta(days=30)
    log_size: Size = 5 * 2**20


class DaemonSection(Section):
    data: PathText = "auto"
    state: State = "sqlite"
    timezone: Zone = "UTC"
    plugins: Names | None = None
    include: Names = ()
    max_runs: Positive = 16
    drain: Duration = timedelta(seconds=60)
    seal_key: References = ()
    log: LogSection = LogSection()
    retention: RetentionSection = Field(default_factory=RetentionSection)


class ControlSection(Section):
    socket: PathText = "auto"
    mode: Mode = "0660"
    group: Text | None = None


class MetricsSection(Section):
    listen: Listen = ("127.0.0.1", 9465)


class SecretsSection(Section):
    """`from`: "credentials", folders relative to the file, "env:PREFIX_"; the first place that has it wins."""

    from_: Names = Field(default=("credentials", "secrets", "env:ERPSYNC_SECRET_"), alias="from")


class IdentitySection(Section):
    """Which keys belong to which grant stands in `config.identity`."""

    grant: GrantKind = "client_credentials"
    instance: Text | None = None
    client_id: Text | None = None
    client_secret: References = ()
    scope: Words = ()
    auth_method: AuthMethod | None = None
    basic_encoding: Literal["rfc6749", "raw"] = "rfc6749"
    private_key: Reference | None = None
    key_id: Text | None = None
    audience: Text | None = None
    resource: Names = ()
    extra: dict[str, str] = Field(default_factory=dict)
    token: Reference | None = None
    token_header: TokenScheme = "bearer"  # noqa: S105 - no password
    token_expires: Expiry | None = None
    redirect_uri: LoopbackUri | None = None
    largest_token: Size = 16 * 1024


class InstanceSection(Section):
    kind: Literal["erpnet", "oidc"] = "erpnet"
    url: Url | None = None
    issuer: Url | None = None
    api: Annotated[tuple[Url, ...], BeforeValidator(_list), WithJsonSchema(_LIST_SCHEMA)] = ()
    tags: Tags = frozenset()
    timezone: Zone | None = None
    license_slots: Positive = 1
    max_runs: Positive | None = None
    access: Literal["full", "read"] = "full"
    ca_file: PathText | None = None
    proxy: Text | None = None
    connect_timeout: Span = timedelta(seconds=10)
    read_timeout: Span = timedelta(seconds=120)
    rate: Rate | None = None
    vars: dict[str, str] = Field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = Field(default_factory=dict)


class CronTable(Section):
    cron: Text
    timezone: Zone | None = None
    dst: Dst | None = None


class EveryTable(Section):
    every: Span
    offset: Duration = timedelta(0)


class AtTable(Section):
    at: Instant


class AfterTable(Section):
    after: Annotated[Names, Field(min_length=1)]
    on: Outcomes = After(()).on


class CalendarSection(Section):
    dates: Days = ()
    yearly: DaysOfYear = ()
    weekdays: Weekdays = ()
    month_days: MonthDays = ()
    holidays: Text | None = Field(default=None, examples=["BG", "DE-BY"])


class PoolSection(Section):
    slots: Positive


class WindowSection(Section):
    from_: TimeOfDay = Field(alias="from")
    to: TimeOfDay
    at_end: Literal["finish", "checkpoint"] = "finish"

    @model_validator(mode="after")
    def _opens_at_all(self) -> "WindowSection":
        if self.from_ == self.to:
            raise fault("E105", "{key} opens and closes at the same time", "leave it out for the whole day")
        return self


class RetrySection(Section):
    """As a job: only what is set counts."""

    attempts: Positive | None = None
    backoff: Duration | None = None
    max_backoff: Duration | None = None
    budget: Duration | None = None
    timed_out: Flag | None = None


class JobSection(Section):
    """Only what is set counts; what holds otherwise stands in `erpsync.core.job.Job`."""

    plugin: Text
    identity: Text | None = None
    instances: Names | None = None
    schedule: Any = None
    enabled: Flag | None = None
    description: str | None = None
    tags: Tags | None = None
    settings: dict[str, Any] | None = Field(default=None, alias="with")
    timezone: Zone | None = None
    dst: Dst | None = None
    start: Instant | None = None
    end: Instant | None = None
    spread: Duration | None = None
    grace: Duration | None = None
    catch_up: Literal["last", "none", "all"] | None = None
    catch_up_window: Duration | None = None
    catch_up_limit: Handful | None = None
    timeout: Span | None = None
    retry: RetrySection | None = None
    overlap: Literal["skip", "queue", "replace", "allow"] | None = None
    blackout: Names | None = None
    on_blackout: Literal["skip", "postpone"] | None = None
    window: WindowSection | None = None
    start_by: Span | None = None
    due_by: TimeOfDay | None = None
    expected_duration: Span | None = None
    formerly: Names | None = None
    pool: Text | None = None
    priority: Whole | None = None
    isolation: Literal["task", "process"] | None = None
    memory: Size | None = None
    repeatable: Flag | None = None
    max_failed: Natural | None = None
