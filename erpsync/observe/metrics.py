"""Numbers: events become counters and histograms, the state at the moment of a scrape becomes gauges."""

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from erpsync.scheduling.zone import zone_data
from erpsync.version import __version__

M = TypeVar("M", bound=MetricWrapperBase)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody asked for

_DURATIONS = (0.1, 1, 5, 30, 120, 600, 1800, 3600, 7200)
_DELAYS = (0.005, 0.01, 0.05, 0.25, 1, 5, 30, 300)
_NAMED_REASONS = frozenset({"skipped", "missed", "abandoned", "cancelled"})  # elsewhere a reason is free text


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is true at this moment; instants are aware UTC. `waiting` counts runs by what they wait for, `overdue`
    holds each (job, instance) from which a success is expected by a time of day. The configuration is refused
    where its files were broken at the last look, stale where they say something else than what runs. Not `ready`:
    nothing could start now, for the reasons that /readyz gives. `troubled`
    holds each identity in use and whether somebody should look at it; sessions and licence slots count by instance.
    """

    running: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    next_starts: Mapping[str, datetime] = field(default_factory=dict)
    token_expiries: Mapping[str, datetime] = field(default_factory=dict)
    loop_lag_seconds: float = 0.0
    overdue: Mapping[tuple[str, str], bool] = field(default_factory=dict)
    config_refused: bool = False
    config_stale: bool = False
    ready: bool = True
    troubled: Mapping[str, bool] = field(default_factory=dict)
    sessions_open: Mapping[str, int] = field(default_factory=dict)
    license_slots: Mapping[str, int] = field(default_factory=dict)


def is_success(fields: Mapping[str, object]) -> bool:
    """Whether what `run.finished` says makes its job's data fresh."""
    return fields.get("outcome") == "succeeded" and not fields.get("special")


class Metrics:
    """The metrics of design section 7 in a registry of their own; `observe` is told every event.

    `snapshot` says what is true when `look` is called. Labels never hold run ids or users.
    """

    def __init__(self, snapshot: Callable[[], Snapshot] = Snapshot) -> None:
        registry = self._registry = CollectorRegistry()
        run = ["job_name", "erp_instance"]
        self._runs = Counter(
            "erpsync_runs", "Runs that ended", [*run, "outcome", "reason"], registry=registry
        )
        self._durations = Histogram(
            "erpsync_run_duration_seconds", "From start to end", run, buckets=_DURATIONS, registry=registry
        )
        self._delays = Histogram(
            "erpsync_start_delay_seconds",
            "From the fire time to the start",
            ["erp_instance"],
            buckets=_DELAYS,
            registry=registry,
        )
        self._rows = Counter("erpsync_rows", "Rows by what happened", [*run, "kind"], registry=registry)
        self._successes = Gauge(
            "erpsync_last_success_timestamp_seconds", "End of the last success", run, registry=registry
        )
        self._tokens = Counter(
            "erpsync_token_requests", "Token requests", ["identity", "outcome"], registry=registry
        )
        self._children: dict[tuple[MetricWrapperBase, tuple[str, ...]], MetricWrapperBase] = {}
        self._jumps = Counter(
            "erpsync_clock_jumps", "Steps of the wall clock, and suspends", registry=registry
        )
        build = Gauge("erpsync_build_info", "What runs", ["version", "python", "tzdata"], registry=registry)
        build.labels(__version__, platform.python_version(), zone_data()).set(1)
        self._snapshot = snapshot
        self._moment = _SnapshotCollector()
        registry.register(self._moment)

    def observe(self, event: str, fields: Mapping[str, object]) -> None:
        """Count what `event` says; events without a number of their own change nothing."""
        if event == "run.finished":
            self._observe_run(fields)
        elif event == "token.requested":
            self._tokens.labels(str(fields.get("identity", "")), str(fields.get("outcome", ""))).inc()
        elif event == "clock.jumped":
            self._jumps.inc()

    def restore_success(self, job: str, instance: str | None, at: datetime) -> None:
        """Take the last success of a job from the ledger, so that a restart does not look like silence."""
        self._successes.labels(job, instance or "").set(at.timestamp())

    def look(self) -> None:
        """Take the snapshot that the next page shows, where its source lives."""
        self._moment.snapshot = self._snapshot()

    def page(self) -> bytes:
        """The exposition in Prometheus' text format; of thousands of jobs it takes a while: call it in a thread."""
        return generate_latest(self._registry)

    def _observe_run(self, fields: Mapping[str, object]) -> None:
        job, instance = str(fields.get("job", "")), str(fields.get("instance") or "")
        outcome = str(fields.get("outcome", ""))
        reason = str(fields.get("reason") or "") if outcome in _NAMED_REASONS else ""
        child = self._child
        child(self._runs, job, instance, outcome, reason).inc()
        duration, lag, counts = (fields.get(key) for key in ("duration_seconds", "lag_seconds", "counts"))
        if isinstance(duration, int | float):
            child(self._durations, job, instance).observe(duration)
        if isinstance(lag, int | float):
            child(self._delays, instance).observe(max(lag, 0.0))
        if isinstance(counts, Mapping):
            for kind, amount in counts.items():
                if amount:
                    child(self._rows, job, instance, kind).inc(amount)
        if is_success(fields):
            child(self._successes, job, instance).set_to_current_time()

    def _child(self, metric: M, *labels: str) -> M:
        """`metric.labels(...)`, remembered: looking it up there costs more than counting."""
        key = (metric, labels)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = metric.labels(*labels)
        return cast("M", found)


class _SnapshotCollector(Collector):
    def __init__(self) -> None:
        self.snapshot = Snapshot()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        now = self.snapshot
        yield _gauges("erpsync_running", "Runs in progress", "erp_instance", now.running)
        yield _gauges("erpsync_waiting", "Runs that wait", "reason", now.waiting)
        overdue = GaugeMetricFamily(
            "erpsync_overdue", "1: no success by due_by", labels=["job_name", "erp_instance"]
        )
        for labels, is_overdue in now.overdue.items():
            overdue.add_metric(labels, is_overdue)
        yield overdue
        yield _gauges(
            "erpsync_next_fire_timestamp_seconds",
            "When the next fire time starts, spread, blackout and window included",
            "job_name",
            _seconds(now.next_starts),
        )
        yield _gauges(
            "erpsync_token_expiry_timestamp_seconds",
            "End of the token",
            "identity",
            _seconds(now.token_expiries),
        )
        yield GaugeMetricFamily(
            "erpsync_ready", "0: nothing can start now, for the reasons that /readyz gives", value=now.ready
        )
        yield GaugeMetricFamily(
            "erpsync_config_last_reload_successful",
            "0: the files were refused",
            value=not now.config_refused,
        )
        yield GaugeMetricFamily(
            "erpsync_config_stale", "1: the files say something else than what runs", value=now.config_stale
        )
        yield _gauges(
            "erpsync_identity_troubled", "1: refused, or no new token to be had", "identity", now.troubled
        )
        yield _gauges("erpsync_sessions_open", "Sessions that may be open", "erp_instance", now.sessions_open)
        yield _gauges("erpsync_license_slots", "Licence slots we may use", "erp_instance", now.license_slots)
        yield GaugeMetricFamily(
            "erpsync_loop_lag_seconds", "How late the event loop wakes", value=now.loop_lag_seconds
        )


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _seconds(instants: Mapping[str, datetime]) -> dict[str, float]:
    return {key: instant.timestamp() for key, instant in instants.items()}
