"""The kit for plugin authors: run_job and the fixtures."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from erpsync import (
    AuthFailed,
    BlockingContext,
    JobContext,
    JobResult,
    Retry,
    Secret,
    Settings,
    Skip,
    job,
)
from erpsync.core.clock import ManualClock
from erpsync.core.run import Outcome
from erpsync.sandbox.server import Sandbox
from erpsync.testing.run import RunOutcome, run_job

PRODUCTS = "General_Products_Products"


class Options(Settings):
    """Settings of the plugins below."""

    entity: str = PRODUCTS
    password: Secret | None = None


@job("count-rows")
async def count_rows(ctx: JobContext[Options]) -> JobResult:
    """Count the rows of a set."""
    async for page in ctx.erp.pages(ctx.settings.entity, select=["Id"], page_size=500):
        ctx.count(read=len(page))
        ctx.progress(ctx.counts.read, 1250)
    ctx.cursor.stage("all")
    return ctx.result("counted")


@job("count-slowly")
def count_blocking(ctx: BlockingContext[Options]) -> JobResult:
    """The same, blocking."""
    for page in ctx.erp.pages(ctx.settings.entity, select=["Id"], page_size=500):
        ctx.count(read=len(page))
    return ctx.result()


@pytest.mark.parametrize("plugin", [count_rows, count_blocking], ids=lambda plugin: plugin.name)
def test_a_plugin_runs_against_the_sandbox(sandbox: Sandbox, plugin: object) -> None:
    """async def and def plugins read real pages with a real token and give their counts."""
    outcome = run_job(plugin, {"entity": PRODUCTS}, sandbox=sandbox)  # type: ignore[arg-type]
    assert outcome.outcome is Outcome.SUCCEEDED
    assert outcome.counts.read == sandbox.rows(PRODUCTS)
    assert sandbox.stats()["token_requests"]["erpsync.sandbox/service"] == 1


def test_the_fixture_is_bound_to_the_sandbox(
    run_job: Callable[..., RunOutcome], sandbox: Sandbox, tmp_path: Path
) -> None:
    """The fixture needs only plugin and settings; note, cursor, progress and data folder are there to look at."""
    outcome = run_job(count_rows)
    assert outcome.result is not None
    assert (outcome.result.note, outcome.cursor, outcome.data) == ("counted", "all", tmp_path / "data")
    assert outcome.progress == [(500, 1250), (1000, 1250), (1250, 1250)]


async def test_it_may_be_called_inside_a_running_loop(sandbox: Sandbox) -> None:
    """Async tests may call it as it is."""
    assert run_job(count_rows, sandbox=sandbox).outcome is Outcome.SUCCEEDED


def test_a_fault_script_is_what_the_plugin_meets(
    run_job: Callable[..., RunOutcome], sandbox: Sandbox
) -> None:
    """A business error of the API fails the run with the server's words; the cursor stays."""
    sandbox.fail(
        path=f"/api/domain/odata/{PRODUCTS}",
        after=1,
        status=500,
        error={"message": "No, R123.", "code": 2029},
    )
    outcome = run_job(count_rows, cursor="before")
    assert (outcome.outcome, outcome.cursor, outcome.counts.read) == (Outcome.FAILED, "before", 500)
    assert outcome.error is not None
    assert "No, R123." in outcome.error.message


def test_refused_credentials_end_the_run(sandbox: Sandbox) -> None:
    """A wrong client secret is the identity's error, and is in no message or log line."""
    outcome = run_job(count_rows, sandbox=sandbox, client_secret="wrong-secret-of-ours")
    assert outcome.outcome is Outcome.FAILED
    assert outcome.error is not None
    assert outcome.error.type == "TokenEndpointError"
    assert "wrong-secret-of-ours" not in repr(outcome)


def _raising(error: BaseException | None) -> RunOutcome:
    @job("raises")
    def raises(ctx: JobContext[Options]) -> JobResult:
        if error is not None:
            raise error
        return None  # type: ignore[return-value]

    return run_job(raises)


@pytest.mark.parametrize(
    ("error", "outcome", "type_", "retryable"),
    [
        (Retry("5m", "not yet"), None, "Retry", True),
        (AuthFailed("no"), Outcome.FAILED, "AuthFailed", False),
        (KeyError("x"), Outcome.FAILED, "KeyError", False),
        (SystemExit(3), Outcome.FAILED, "SystemExit", False),
        (None, Outcome.FAILED, "TypeError", False),
    ],
)
def test_outcomes_are_those_of_the_runner(
    error: BaseException | None, outcome: Outcome | None, type_: str, retryable: bool
) -> None:
    """What a plugin raises or forgets to return is judged as the daemon would; None is another attempt."""
    found = _raising(error)
    assert found.error is not None
    assert (found.outcome, found.error.type, found.error.retryable) == (outcome, type_, retryable)
    assert found.exception is error


def test_skip_succeeds_with_its_reason() -> None:
    """Nothing to do is a success."""
    found = _raising(Skip("no new rows"))
    assert (found.outcome, found.reason, found.error and found.error.kind) == (
        Outcome.SUCCEEDED,
        "no new rows",
        "skip",
    )


def test_failed_rows_are_never_plain_green() -> None:
    """With one failed row the run is partial where one is allowed, else failed; the row can be looked at."""

    @job("loses-one")
    def loses_one(ctx: JobContext[Options]) -> JobResult:
        ctx.dead_letter({"Id": 1}, "no such product")
        return ctx.result()

    assert run_job(loses_one, max_failed=1).outcome is Outcome.PARTIAL
    outcome = run_job(loses_one)
    assert outcome.outcome is Outcome.FAILED
    assert [letter["error"] for letter in outcome.dead_letters] == ["no such product"]


def test_secrets_clock_and_params_are_given(tmp_path: Path) -> None:
    """References are resolved from the values given, time stands where the clock stands."""
    seen: list[object] = []

    @job("looks")
    def looks(ctx: JobContext[Options]) -> JobResult:
        assert ctx.settings.password is not None
        seen.extend([ctx.settings.password.get(), ctx.now(), ctx.params, ctx.cursor.value, ctx.dry_run])
        ctx.log.info("looked.at", password=ctx.settings.password.get())
        return ctx.result()

    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    outcome = run_job(
        looks,
        {"password": {"secret": "db"}},
        secrets={"db": "s3cret-value"},
        clock=clock,
        params={"a": 1},
        cursor="7",
        dry_run=True,
        data=tmp_path,
    )
    assert outcome.error is None
    assert seen == ["s3cret-value", datetime(2026, 5, 1, tzinfo=UTC), {"a": 1}, "7", True]
    assert "s3cret-value" not in repr(outcome)


def test_nothing_is_left_behind() -> None:
    """No thread outlives a run, and a temporary data folder goes with its outcome."""
    before = set(threading.enumerate())

    @job("writes")
    def writes(ctx: JobContext[Options]) -> JobResult:
        with ctx.artifact("a") as file:
            file.write(b"x")
        return ctx.result()

    outcome = run_job(writes)
    folder = outcome.data
    assert (outcome.artifacts / "a").read_bytes() == b"x"
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
        assert not thread.is_alive()
    del outcome
    assert not folder.exists()
