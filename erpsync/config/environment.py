"""Overrides by the environment: ERPSYNC_DAEMON__DATA and its like, by pydantic-settings."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from erpsync.config.codes import REMEDIES
from erpsync.config.document import Document, did_you_mean
from erpsync.config.section import ControlSection, DaemonSection, MetricsSection, SecretsSection
from erpsync.core.problem import Problem

PREFIX = "ERPSYNC_"
_SECTIONS: dict[str, type[BaseModel]] = {
    "daemon": DaemonSection,
    "control": ControlSection,
    "metrics": MetricsSection,
    "secrets": SecretsSection,
}
_NUMBERS = {("daemon", "max_runs")}
_OTHERS = ("ERPSYNC_CONFIG", "ERPSYNC_DEBUG")


def apply_environment(document: Document, environ: Mapping[str, str]) -> None:
    """Put the values of variables over those of files; doing so again changes nothing."""
    variables = _variables()
    given = {name: value for name, value in environ.items() if name in variables}
    if given:
        _override(document, given, variables)


def check_environment(document: Document, environ: Mapping[str, str]) -> None:
    """Warn of variables that start as ours do and mean nothing."""
    variables = _variables()
    prefixes = ("ERPSYNC_SECRET_", *_secret_prefixes(document))
    for name in sorted(environ):
        known = name in variables or name in _OTHERS or name.startswith(prefixes)
        if name.startswith(PREFIX) and not known:
            hint = did_you_mean(name, (*variables, *_OTHERS), nearness=0.85) or REMEDIES["W102"]
            document.keep(Problem("W102", "warning", f"{name} means nothing to erpsync", key=name, help=hint))


def _variables() -> dict[str, tuple[str, ...]]:
    return {
        PREFIX + "__".join(keys).upper(): keys
        for section, model in _SECTIONS.items()
        for keys in _keys_of(model, (section,))
    }


def _keys_of(model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        keys = (*prefix, field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys_of(field.annotation, keys)
        else:
            yield keys


def _override(document: Document, given: Mapping[str, str], variables: Mapping[str, tuple[str, ...]]) -> None:
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

    class Overrides(BaseSettings):
        model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__")
        daemon: DaemonSection = DaemonSection()
        control: ControlSection = ControlSection()
        metrics: MetricsSection = MetricsSection()
        secrets: SecretsSection = SecretsSection()

    source = EnvSettingsSource(Overrides)
    for name, text in given.items():
        source.env_vars = {name.lower(): text}
        try:
            values: Any = source()
        except SettingsError:
            message = f'{name} must be a list like ["one", "two"]'
            document.keep(Problem("E104", "error", message, key=name))
            continue
        *tables, last = keys = variables[name]
        into: Any = document.root
        for key in tables:
            into = into.setdefault(key, {}) if isinstance(into, dict) else {}
            values = values[key]
        text = values[last]
        into[last] = int(text) if keys in _NUMBERS and text.isdecimal() else text
        document.environment[keys] = name


def _secret_prefixes(document: Document) -> tuple[str, ...]:
    places = document.root.get("secrets", {}).get("from", ())
    texts = [place for place in places if isinstance(place, str)] if isinstance(places, list) else []
    return tuple(place.removeprefix("env:") for place in texts if place.startswith("env:" + PREFIX))
