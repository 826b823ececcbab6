"""Metrics and health: events in, exposition out."""

from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from erpsync.observe.health import health_application
from erpsync.observe.metrics import Metrics, Snapshot
from erpsync.scheduling.zone import zone_data


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def run_finished(metrics: Metrics, **fields: object) -> None:
    base: dict[str, object] = {"job": "products@acme", "instance": "acme", "outcome": "succeeded"}
    metrics.observe("run.finished", base | fields)


def test_finished_runs_are_counted_by_outcome_and_rows_by_kind() -> None:
    """A finished run adds to runs, duration, start delay, rows and the last success."""
    metrics = Metrics()
    run_finished(
        metrics, duration_seconds=2.0, lag_seconds=0.02, counts={"read": 5, "written": 3, "failed": 0}
    )
    found = samples(metrics.page())
    job = (("erp_instance", "acme"), ("job_name", "products@acme"))
    assert found["erpsync_runs_total", (job[0], job[1], ("outcome", "succeeded"), ("reason", ""))] == 1
    assert found["erpsync_run_duration_seconds_sum", job] == 2.0
    assert found["erpsync_start_delay_seconds_count", (("erp_instance", "acme"),)] == 1
    assert found["erpsync_rows_total", (job[0], job[1], ("kind", "read"))] == 5
    assert ("erpsync_rows_total", (job[0], job[1], ("kind", "failed"))) not in found
    assert found["erpsync_last_success_timestamp_seconds", job] > 1.7e9


def test_a_special_run_makes_no_data_fresh() -> None:
    """A dry run, a slice of a backfill: it is counted, and is no last success."""
    metrics = Metrics()
    run_finished(metrics, special=True)
    found = samples(metrics.page())
    job = (("erp_instance", "acme"), ("job_name", "products@acme"))
    assert found["erpsync_runs_total", (*job, ("outcome", "succeeded"), ("reason", ""))] == 1
    assert ("erpsync_last_success_timestamp_seconds", job) not in found


def test_free_text_reasons_do_not_become_labels() -> None:
    """The reason of a skip by the plugin is free text and no label; the planner's reasons are labels."""
    metrics = Metrics()
    run_finished(metrics, reason="nothing new since 12:31:07")
    run_finished(metrics, outcome="skipped", reason="overlap")
    page = metrics.page().decode()
    assert "12:31:07" not in page
    assert 'outcome="skipped",reason="overlap"' in page


def test_a_restored_success_is_shown_before_any_run() -> None:
    """The last success of the ledger is there at the first scrape after a start."""
    metrics, at = Metrics(), datetime(2026, 5, 1, 3, 0, tzinfo=UTC)
    metrics.restore_success("products", None, at)
    key = ("erpsync_last_success_timestamp_seconds", (("erp_instance", ""), ("job_name", "products")))
    assert samples(metrics.page())[key] == at.timestamp()


def test_gauges_show_the_moment_of_the_scrape() -> None:
    """Running, waiting, next fires, token expiries and loop lag are those of the last look."""
    at = datetime(2026, 5, 1, tzinfo=UTC)
    now = [Snapshot()]
    metrics = Metrics(lambda: now[0])
    assert "erpsync_waiting{" not in metrics.page().decode()
    now[0] = Snapshot(
        {"acme": 2},
        {"licence": 3},
        {"products": at},
        {"night@acme": at},
        0.25,
        troubled={"night@acme": True},
        sessions_open={"acme": 1},
        license_slots={"acme": 2},
        ready=False,
    )
    metrics.look()
    found = samples(metrics.page())
    assert found["erpsync_running", (("erp_instance", "acme"),)] == 2
    assert found["erpsync_waiting", (("reason", "licence"),)] == 3
    assert found["erpsync_next_fire_timestamp_seconds", (("job_name", "products"),)] == at.timestamp()
    assert found["erpsync_token_expiry_timestamp_seconds", (("identity", "night@acme"),)] == at.timestamp()
    assert found["erpsync_loop_lag_seconds", ()] == 0.25
    assert found["erpsync_ready", ()] == 0
    assert found["erpsync_identity_troubled", (("identity", "night@acme"),)] == 1
    assert found["erpsync_sessions_open", (("erp_instance", "acme"),)] == 1
    assert found["erpsync_license_slots", (("erp_instance", "acme"),)] == 2


def test_token_requests_and_clock_jumps_are_counted() -> None:
    """Requests count by identity and outcome, jumps of the clock count; what needed no request changes nothing."""
    metrics = Metrics()
    for outcome in ("succeeded", "failed", "rejected"):
        metrics.observe("token.requested", {"identity": "night@acme", "outcome": outcome})
    for event in ("token.renewed", "token.renewal_failed", "token.rejected", "token.login_required"):
        metrics.observe(event, {"identity": "night@acme"})
    metrics.observe("clock.jumped", {"seconds": -30})
    metrics.observe("daemon.started", {})
    found = samples(metrics.page())
    for outcome in ("succeeded", "failed", "rejected"):
        assert found["erpsync_token_requests_total", (("identity", "night@acme"), ("outcome", outcome))] == 1
    assert found["erpsync_clock_jumps_total", ()] == 1


def test_health_endpoints_and_nothing_else() -> None:
    """/healthz is alive, /readyz says why not, /metrics is Prometheus text, everything else is 404."""
    reasons: list[str] = []
    client = TestClient(health_application(Metrics(), lambda: reasons))
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").status_code == 200
    reasons.append("store: disk full")
    assert (client.get("/readyz").status_code, client.get("/readyz").json()["reasons"]) == (503, reasons)
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")
    assert f'tzdata="{zone_data()}"' in client.get("/metrics").text
    assert client.get("/docs").status_code == 404
