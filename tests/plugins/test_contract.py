"""The decorator, the settings base and secrets."""

import copy
import json
import pickle
import subprocess
import sys
from datetime import timedelta

import pytest

from erpsync import Duration, JobContext, JobResult, Plugin, Retry, Secret, Settings, job


class Options(Settings):
    """Settings of the plugins below."""

    entity: str
    every: Duration = timedelta(minutes=5)
    password: Secret | None = None


def test_decorator_reads_the_settings_type_from_the_annotation() -> None:
    """@job makes a Plugin that knows its settings model, its kind and its first line of documentation."""

    @job("count-rows", repeatable=True, needs=("json",), scope=("read",))
    async def count_rows(ctx: JobContext[Options]) -> JobResult:
        """Count the rows.

        And nothing else.
        """
        return ctx.result()

    assert isinstance(count_rows, Plugin)
    assert (count_rows.name, count_rows.settings_type, count_rows.is_async) == ("count-rows", Options, True)
    assert (count_rows.repeatable, count_rows.needs, count_rows.doc) == (True, ("json",), "Count the rows.")
    assert count_rows.scope == ("read",)


def test_bare_context_means_no_settings() -> None:
    """A plugin annotated with the bare context takes no settings at all."""

    @job("plain")
    def plain(ctx: JobContext) -> JobResult:  # type: ignore[type-arg]
        return ctx.result()

    assert plain.settings_type is Settings
    assert not plain.is_async


@pytest.mark.parametrize("name", ["Count", "", "a b", "-x", "a/b"])
def test_unusable_names_are_refused(name: str) -> None:
    """A plugin's name is small letters, digits, dash and underscore."""
    with pytest.raises(TypeError, match="no plugin name"):
        job(name)


def test_a_scope_is_a_tuple_of_words() -> None:
    """One word alone would be taken for its letters."""
    with pytest.raises(TypeError, match=r'scope=\("update",\)'):
        job("x", scope="update")


def test_a_function_without_a_usable_annotation_is_refused() -> None:
    """The decorator says which annotation it wants."""
    with pytest.raises(TypeError, match=r"annotate .* JobContext\[YourSettings\]"):
        job("x")(lambda ctx: None)
    with pytest.raises(TypeError, match="exactly one parameter"):
        job("x")(lambda: None)

    def wrong(ctx: list[int]) -> None: ...

    with pytest.raises(TypeError, match=r"subclass of erpsync\.Settings"):
        job("x")(wrong)


def test_a_secret_shows_itself_only_to_get() -> None:
    """The value of a secret is in no repr, string, JSON or pickle."""
    options = Options(entity="x", password=Secret("s3cret-value"))
    assert options.password is not None
    assert options.password.get() == "s3cret-value"
    shown = [repr(options), str(options.password), options.model_dump_json(), str(options.model_dump())]
    assert not any("s3cret-value" in text for text in shown)
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(options.password)
    with pytest.raises(TypeError):
        copy.copy(options.password)


def test_settings_have_a_json_schema() -> None:
    """Durations and secret references describe themselves for editors."""
    schema = Options.model_json_schema()
    assert schema["required"] == ["entity"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["every"]["type"] == "string"
    assert '"command"' in json.dumps(schema["properties"]["password"])


def test_retry_takes_a_duration_as_people_write_it() -> None:
    """Retry("10m") and Retry(timedelta) mean the same; Retry() leaves it to the job."""
    assert Retry("10m").after == timedelta(minutes=10) == Retry(timedelta(minutes=10)).after
    assert Retry().after is None


def test_importing_erpsync_loads_nothing_else() -> None:
    """The public front loads its names only when they are used, and all of them exist."""
    script = (
        "import sys, erpsync\n"
        "assert not [name for name in sys.modules if name.startswith(('erpsync.', 'pydantic', 'sqlalchemy'))]\n"
        "assert 'job' in dir(erpsync)\n"
        "erpsync.job, erpsync.JobContext, erpsync.Target\n"
        "assert not {'sqlalchemy', 'httpx2'} & set(sys.modules)\n"
        "for name in erpsync.__all__: getattr(erpsync, name)\n"
        "try: erpsync.nonsense\n"
        "except AttributeError: print('fine')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("fine\n", "")
