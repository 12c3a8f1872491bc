"""What Prometheus may scrape: counters of requests, and the engine's own numbers."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from app.api.costs import Costs
    from app.engine import Engine
    from app.feature_store import FeatureStore
    from app.impressions import Impressions
    from app.ingest import Ingest
    from app.rule_watch import RuleWatch

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# They are there from the start: Prometheus takes no series' first value for an increase.
_ALERTED = ("alarm", "ask", "hold", "promote", "promotion_refused", "rollback")
_BOUNDS = (*map(str, BUCKETS), "+Inf")


class Metrics:
    """One registry a service, so that two services in a process do not mix."""

    def __init__(self, ingest: Callable[[], Ingest]) -> None:
        self._ingest = ingest
        self.registry = CollectorRegistry()
        self.decisions = Counter(
            "sluice_gate_decisions", "Decisions of the gate", ["kind"], registry=self.registry
        )
        for kind in _ALERTED:
            self.decisions.labels(kind)
        self.tokens = Counter(
            "sluice_tokens",
            "Feedback events by the verdict on their token; none: without one",
            ["verdict"],
            registry=self.registry,
        )
        self.refused = Counter(
            "sluice_refused",
            "Requests refused with 503, as too many were waiting",
            registry=self.registry,
        )
        self._deadlines = {"kept": 0, "late": 0}
        self._degraded: dict[str, int] = {}
        self.registry.register(
            _CountCollector(
                {
                    ("sluice_deadlines", "Lists by whether they kept the deadline", "outcome"): (
                        self._deadlines
                    ),
                    ("sluice_degraded", "Lists answered with less, by why", "reason"): (
                        self._degraded
                    ),
                }
            )
        )
        self.registry.register(_EngineCollector(ingest))
        self.freshness = Durations()
        self._times: defaultdict[str, Times] = defaultdict(Times)
        self.registry.register(_RequestCollector(self._times, self.freshness))
        ProcessCollector(registry=self.registry)

    def note(self, route: str, status: int, seconds: float) -> None:
        """Count and time one request."""
        self._times[route].note(status, seconds)

    def times(self, route: str) -> Times:
        """Return the counts and times of a route."""
        return self._times[route]

    def note_applied(self, seconds: float) -> None:
        """Take note of how long an entry took from its arrival until it was felt here."""
        # Another replica's clock may be ahead of ours.
        self.freshness.add(max(0.0, seconds))

    def watch_stream(self, n_listeners: Callable[[], int]) -> None:
        """Show how many listen to the stream, too."""
        gauge = Gauge("sluice_stream_listeners", "Who listens now", registry=self.registry)
        gauge.set_function(n_listeners)

    def note_deadline(self, *, is_late: bool) -> None:
        """Count a list that was answered, by whether it came in time."""
        self._deadlines["late" if is_late else "kept"] += 1

    def note_degraded(self, reason: str) -> None:
        """Count a list that is not as good as it could be."""
        self._degraded[reason] = self._degraded.get(reason, 0) + 1

    def watch(self, impressions: Impressions) -> None:
        """Show what becomes of impressions, too."""
        self.registry.register(_ImpressionCollector(impressions))

    def watch_costs(self, costs: Costs) -> None:
        """Show what the service costs, too."""
        self.registry.register(_CostCollector(self._ingest, costs))

    def watch_features(self, store: FeatureStore) -> None:
        """Show what becomes of reads of the feature store, too."""
        name, text = "sluice_feature_reads", "Users whose features were wanted, by what was found"
        self.registry.register(_CountCollector({(name, text, "outcome"): store.n_reads}))

    def watch_rules(self, watch: RuleWatch) -> None:
        """Show what rules do, too."""
        self.registry.register(_RuleCollector(self._ingest, watch))

    def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self.registry)


class Durations:
    """A histogram of seconds; Prometheus' own takes five times as long to add to."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Add one duration."""
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds

    def cumulated(self) -> list[tuple[str, int]]:
        """Return the buckets as Prometheus has them: each with all below it."""
        return list(zip(_BOUNDS, accumulate(self.buckets), strict=True))


class Times(Durations):
    """Counts and times of one route."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: dict[int, int] = {}

    def note(self, status: int, seconds: float) -> None:
        """Add one request."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.add(seconds)


class _RequestCollector(Collector):
    """Shows what the routes have noted, and how fresh the lists are."""

    def __init__(self, times: dict[str, Times], freshness: Durations) -> None:
        self._times = times
        self._freshness = freshness

    def collect(self) -> Iterator[Metric]:
        """Yield the counts and times of now."""
        counts = CounterMetricFamily(
            "sluice_http_requests", "Requests answered", labels=["route", "status"]
        )
        latency = HistogramMetricFamily(
            "sluice_http_request_seconds", "Seconds from request to answer", labels=["route"]
        )
        for route, times in self._times.items():
            for status, count in times.statuses.items():
                counts.add_metric([route, str(status)], count)
            latency.add_metric([route], times.cumulated(), times.seconds)
        yield counts
        yield latency
        yield HistogramMetricFamily(
            "sluice_freshness_seconds",
            "Seconds from an entry's arrival at a replica until it is felt in lists here",
            buckets=self._freshness.cumulated(),
            sum_value=self._freshness.seconds,
        )


class _CountCollector(Collector):
    """Shows plain counts by one label: a Counter of Prometheus takes longer than what it counts."""

    def __init__(self, counts: dict[tuple[str, str, str], dict[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield the counts of now."""
        for (name, text, label), counts in self._counts.items():
            family = CounterMetricFamily(name, text, labels=[label])
            for value, count in counts.items():
                family.add_metric([value], count)
            yield family


class _EngineCollector(Collector):
    """Reads the engine when scraped, so that learning pays nothing for being watched."""

    def __init__(self, ingest: Callable[[], Ingest]) -> None:
        self._ingest = ingest

    def collect(self) -> Iterator[Metric]:
        """Yield the engine's numbers of now."""
        ingest = self._ingest()
        engine = ingest.engine
        events = CounterMetricFamily(
            "sluice_events", "Feedback events by what became of them", labels=["status", "reason"]
        )
        for label, count in sorted(engine.admission.counts.items()):
            status, _, reason = label.partition(":")
            events.add_metric([status, reason], count)
        yield events
        yield CounterMetricFamily(
            "sluice_log_restored_entries",
            "Entries that the store had lost and that were written again from memory",
            value=ingest.n_restored,
        )
        yield CounterMetricFamily(
            "sluice_log_lost_entries",
            "Entries applied here that the log lost for good; they were unlearned",
            value=ingest.n_lost,
        )
        quality = GaugeMetricFamily(
            "sluice_prequential", "Quality over the last 1,000 judged", labels=["version", "metric"]
        )
        for version, prequential in engine.prequential.items():
            recent = prequential.view()["recent"]
            for metric in ("hr_10", "hr_20", "mrr_20", "dcg_20", "reward_10"):
                quality.add_metric([version, metric], recent[metric])
        yield quality
        detectors = GaugeMetricFamily(
            "sluice_detector", "Statistics of the gate's detectors", labels=["detector"]
        )
        thresholds = GaugeMetricFamily(
            "sluice_detector_threshold",
            "Statistic at which a detector rings; those of drift have none",
            labels=["detector"],
        )
        for detector in engine.gate.detectors():
            detectors.add_metric([detector["name"]], detector["statistic"])
            if detector["threshold"] is not None:
                thresholds.add_metric([detector["name"]], detector["threshold"])
        yield detectors
        yield thresholds
        yield _challenger(engine)
        yield _calibration(engine)
        yield _missing(engine)
        states = GaugeMetricFamily("sluice_gate_state", "1 for the present state", labels=["state"])
        for state in ("open", "ask", "hold"):
            states.add_metric([state], engine.gate.data.state == state)
        yield states
        modes = GaugeMetricFamily("sluice_gate_mode", "1 for the present mode", labels=["mode"])
        for mode in ("normal", "frozen", "shadow_only"):
            modes.add_metric([mode], engine.gate.data.mode == mode)
        yield modes
        for name, text, value in (
            ("sluice_users", "Users known", len(engine.history.users)),
            ("sluice_items", "Items known", len(engine.history.items)),
            ("sluice_model_version", "Version that serves", engine.gate.data.version),
            ("sluice_log_lag_seconds", "How far behind the log", ingest.lag_s),
            (
                "sluice_snapshot_timestamp_seconds",
                "Log time of the newest snapshot that this process took part in; 0: none yet",
                ingest.keeper.newest_ms / 1_000,
            ),
            ("sluice_learning_delayed", "1 if its budget delays learning", ingest.is_delayed),
            ("sluice_judge_share", "Share of the events that is judged", engine.judge_share),
            ("sluice_store_up", "1 if the store answers", ingest.is_store_up),
            ("sluice_log_stopped", "1 if an entry stopped the log", ingest.stopped is not None),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))


class _RuleCollector(Collector):
    """Reads the counts of the rules in force: at most a hundred, by the names that they have."""

    def __init__(self, ingest: Callable[[], Ingest], watch: RuleWatch) -> None:
        self._ingest = ingest
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        """Yield the counts of now."""
        acted = CounterMetricFamily(
            "sluice_rule_slates", "Slates in which a rule acted", labels=["rule", "kind"]
        )
        book = self._ingest().engine.rulebook
        for rule, n in zip(book.rules, book.n_acted.tolist()) if book is not None else ():
            acted.add_metric([rule.name, rule.kind], n)
        yield acted
        yield GaugeMetricFamily(
            "sluice_rule_warnings",
            "Rules in force that match nothing or fight: GET /v1/rules says which",
            value=self._watch.n_warnings,
        )


class _CostCollector(Collector):
    """Reads what CPU and memory went into."""

    def __init__(self, ingest: Callable[[], Ingest], costs: Costs) -> None:
        self._ingest = ingest
        self._costs = costs

    def collect(self) -> Iterator[Metric]:
        """Yield the counts of now, and memory as it was surveyed last."""
        meter = self._ingest().meter
        cpu = CounterMetricFamily(
            "sluice_cpu_seconds", "CPU of this process and its copies by stage", labels=["stage"]
        )
        for stage, seconds in meter.seconds().items():
            cpu.add_metric([stage], seconds)
        yield cpu
        records = CounterMetricFamily(
            "sluice_records",
            "Records received (posted here) and applied (posted anywhere)",
            labels=["what"],
        )
        records.add_metric(["received"], meter.n_received)
        records.add_metric(["applied"], meter.n_applied)
        yield records
        memory = GaugeMetricFamily(
            "sluice_memory_bytes", "Memory that a part of the state has taken", labels=["part"]
        )
        reserved = GaugeMetricFamily(
            "sluice_memory_reserved_bytes", "The same at its capacity", labels=["part"]
        )
        for name, part in self._costs.memory.items():
            memory.add_metric([name], part.held)
            reserved.add_metric([name], part.reserved)
        yield memory
        yield reserved
        yield GaugeMetricFamily(
            "sluice_cost_per_day",
            "What CPU as of the last minutes costs a day, at the price set",
            value=self._costs.view()["per_day"],
        )


class _ImpressionCollector(Collector):
    """Reads the buffer's counts when scraped: a request only adds to them."""

    def __init__(self, impressions: Impressions) -> None:
        self._impressions = impressions

    def collect(self) -> Iterator[Metric]:
        """Yield the counts of now."""
        counts = CounterMetricFamily(
            "sluice_impressions", "Slates shown by what became of them", labels=["outcome"]
        )
        counts.add_metric(["buffered"], self._impressions.n_buffered)
        counts.add_metric(["appended"], self._impressions.n_appended)
        counts.add_metric(["dropped"], self._impressions.n_dropped)
        yield counts
        yield CounterMetricFamily(
            "sluice_stranger_slates",
            "Slates shown to users without any event",
            value=self._impressions.n_strangers,
        )


def _calibration(engine: Engine) -> Metric:
    """Return how far off each version is about clicks; nothing before the first impression."""
    family = GaugeMetricFamily(
        "sluice_calibration_error",
        "Expected calibration error of clicks over the last slates",
        labels=["version"],
    )
    for version, calibration in engine.calibration.items():
        if calibration.error is not None:
            family.add_metric([version], calibration.error)
    return family


def _missing(engine: Engine) -> Metric:
    """Return how often a declared feature was not there, and why."""
    family = CounterMetricFamily(
        "sluice_feature_missing",
        "Features that were not there: of requests and events, or of an item as it was described",
        labels=["feature", "reason"],
    )
    counts = {} if engine.features is None else engine.features.n_missing
    for (name, why), count in sorted(counts.items()):
        family.add_metric([name, why], count)
    return family


def _challenger(engine: Engine) -> Metric:
    """Return the challenger's statistics and what each has to reach; nothing while none runs."""
    family = GaugeMetricFamily(
        "sluice_challenger", "Statistics of the running challenger", labels=["statistic"]
    )
    shown = engine.challenges.view()
    if shown is not None:
        clicks = shown["interleaving"]
        for name, value in (
            ("better", shown["statistic"]),
            ("worse", shown["statistic_worse"]),
            ("threshold", shown["threshold"]),
            ("clicked_more", clicks["statistic_better"]),
            ("clicked_less", clicks["statistic_worse"]),
            ("clicked_threshold", clicks["threshold"]),
        ):
            family.add_metric([name], value)
    return family
