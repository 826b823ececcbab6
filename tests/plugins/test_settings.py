"""Settings tables checked against a plugin's model."""

from typing import Literal

import pytest
from pydantic import Field, model_validator

from erpsync import Duration, JobContext, JobResult, Secret, Settings, Target, job
from erpsync.core.errors import InvalidSettingsError, SecretUnavailableError
from erpsync.core.secret import SecretReference
from erpsync.plugins.contract import NoValueError
from erpsync.plugins.settings import references, validate_settings


class Options(Settings):
    """One of each kind."""

    entity: str
    target: Target | None = None
    page_size: int = Field(1000, ge=1, le=1000)
    mode: Literal["fast", "slow"] = "fast"
    overlap: Duration | None = None
    select: tuple[str, ...] = ()
    headers: dict[str, str | Secret] = Field(default_factory=dict)
    password: Secret | None = None


@job("demo")
def demo(ctx: JobContext[Options]) -> JobResult:
    """Do nothing."""
    return ctx.result()


TARGET = {"url": "sqlite:///x.db", "table": "t"}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, [("entity", "entity is missing")]),
        ({"entity": 5}, [("entity", "entity must be text, not a whole number")]),
        (
            {"entity": "e", "page_sise": 5},
            [("page_sise", 'unknown setting "page_sise"; did you mean "page_size"?')],
        ),
        (
            {"entity": "e", "page_size": "many"},
            [("page_size", "page_size must be a whole number, not text")],
        ),
        ({"entity": "e", "page_size": 5000}, [("page_size", "page_size must be at most 1000")]),
        ({"entity": "e", "mode": "quick"}, [("mode", 'mode must be one of "fast" or "slow"')]),
        (
            {"entity": "e", "overlap": "soon"},
            [
                (
                    "overlap",
                    'overlap: "soon" is not a duration; write a number and a unit, like "90s", "15m", "2h" or "1d"',
                )
            ],
        ),
        ({"entity": "e", "select": "Id"}, [("select", "select must be a list, not text")]),
        ({"entity": "e", "select": ["Id", 5]}, [("select.1", "select.1 must be text, not a whole number")]),
        ({"entity": "e", "target": {"url": "sqlite:///x.db"}}, [("target.table", "target.table is missing")]),
        (
            {"entity": "e", "target": {**TARGET, "tabel": "t"}},
            [("target.tabel", 'unknown setting "target.tabel"; did you mean "table"?')],
        ),
        (
            {"entity": "e", "target": {"url": "postgresql://db/x", "table": "t"}},
            [
                (
                    "target.url",
                    'target.url: a target of kind "postgresql" is not available; use "sqlite:///name.db"',
                )
            ],
        ),
        (
            {"entity": "e", "target": {"url": "x://u:pw1@h/d", "table": "t"}},
            [
                (
                    "target.url",
                    'target.url: a password does not belong in a URL; write password = { secret = "name" } beside it',
                )
            ],
        ),
        (
            {"entity": "e", "headers": {"X-Key": 5}},
            [
                (
                    "headers.X-Key",
                    'headers.X-Key must be text or a secret reference like { secret = "name" }, not a whole number',
                )
            ],
        ),
        (
            {"entity": "e", "password": "hunter2"},
            [("password", 'password must be a secret reference like { secret = "name" }, not text')],
        ),
        (
            {"page_size": "x"},
            [("entity", "entity is missing"), ("page_size", "page_size must be a whole number, not text")],
        ),
    ],
)
def test_problems_are_told_in_plain_words(raw: dict[str, object], expected: list[tuple[str, str]]) -> None:
    """Every problem has its key path and a sentence without the library's jargon or the value."""
    with pytest.raises(InvalidSettingsError) as caught:
        validate_settings(demo, raw, None)
    assert list(caught.value.problems) == expected
    assert caught.value.literals == {key for key, message in expected if "secret reference" in message}
    assert "hunter2" not in str(caught.value)
    assert "pw1" not in str(caught.value)


class Strict(Settings):
    """Settings that look at their secret."""

    password: Secret

    @model_validator(mode="after")
    def _check(self) -> "Strict":
        if not self.password.get().isdigit():
            raise TypeError("that is no number")
        return self


@job("strict")
async def strict(ctx: JobContext[Strict]) -> JobResult:
    return ctx.result()


def test_a_validator_may_look_at_its_secret() -> None:
    """Where there is none to look at it cannot be checked; what it raises in another way is a problem, no fault."""
    raw = {"password": {"secret": "db"}}
    with pytest.raises(NoValueError):
        validate_settings(strict, raw, None)
    assert validate_settings(strict, raw, lambda _: "123456").password.get() == "123456"  # type: ignore[attr-defined]
    assert references(strict, raw) == [SecretReference("secret", ("db",))]
    with pytest.raises(
        InvalidSettingsError, match="own check of its settings fails: TypeError: that is no number"
    ):
        validate_settings(strict, raw, lambda _: "abc")


def test_secrets_are_resolved_where_they_stand() -> None:
    """Each reference is given to the resolver and its value is found by get()."""
    asked: list[SecretReference] = []

    def resolve(reference: SecretReference) -> str:
        asked.append(reference)
        return f"value of {reference}"

    raw = {
        "entity": "e",
        "password": {"secret": "db"},
        "headers": {"Accept": "x/y", "X-Key": {"command": ["pass", "x"]}},
    }
    settings = validate_settings(demo, raw, resolve)
    assert isinstance(settings, Options)
    assert settings.password is not None
    assert settings.password.get() == "value of secret:db"
    key = settings.headers["X-Key"]
    assert isinstance(key, Secret)
    assert key.get() == "value of command:pass x"
    assert settings.headers["Accept"] == "x/y"
    assert "value of" not in repr(settings)


def test_without_a_resolver_secrets_have_a_shape_only() -> None:
    """A check needs no secret; asking for one then is a mistake of the caller."""
    settings = validate_settings(demo, {"entity": "e", "password": {"env": "DB"}}, None)
    assert isinstance(settings, Options)
    assert settings.password is not None
    with pytest.raises(RuntimeError, match="no value"):
        settings.password.get()


def test_a_missing_secret_keeps_its_own_error() -> None:
    """What the resolver raises is not dressed up as a problem of the settings."""

    def resolve(reference: SecretReference) -> str:
        raise SecretUnavailableError(f"{reference} is nowhere")

    with pytest.raises(SecretUnavailableError, match="secret:db is nowhere"):
        validate_settings(demo, {"entity": "e", "password": {"secret": "db"}}, resolve)


def test_references_are_listed_in_order_and_once() -> None:
    """What must be resolved before a run can be known without any secret at hand."""
    raw = {"entity": "e", "password": {"secret": "db"}, "headers": {"A": {"env": "X"}, "B": {"env": "X"}}}
    assert [str(reference) for reference in references(demo, raw)] == ["env:X", "secret:db"]
