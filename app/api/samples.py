"""What the service is like just now, in numbers for a person who watches; and the last hour of it.

Owns a small ring and the counts that rates are taken from. Reads the engine, and changes nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from typing import Any, NamedTuple

from app.api.costs import Costs
from app.api.metrics import BUCKETS, Metrics
from app.events import format_time
from app.gate_data import Decision
from app.ingest import Ingest
from app.memory import resident_bytes

RATE_S = 10.0
"""Rates and latencies are those of the last so many seconds."""

POINT_S = 10.0
N_POINTS = 360
"""Points of the ring: an hour of them, some 100 kB."""

VERSIONS = ("shadow", "champion", "anchor")
_ROUTES = {
    "recommend": "GET /v1/recommendations/{user_id}",
    "feedback": "POST /v1/feedback",
}
_STATUSES = ("learned", "duplicate", "late", "quarantined")
_DESCRIBED = ("model", "gate", "detectors", "challenger", "users", "items", "semantics")


class _Counts(NamedTuple):
    """What only goes up, at one moment."""

    at: float
    cpu_s: float
    events: dict[str, int]
    buckets: dict[str, list[int]]


class Samples:
    """Takes samples of a service, and keeps a point of one every ten seconds."""

    def __init__(
        self,
        ingest: Ingest,
        metrics: Metrics,
        costs: Costs,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._ingest = ingest
        self._metrics = metrics
        self._costs = costs
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._counts: deque[_Counts] = deque([self._count()])
        self._points: deque[list[Any]] = deque(maxlen=N_POINTS)
        self._kept_at = -POINT_S

    def tick(self) -> None:
        """Take note of the counts, and keep a point where one is due; to be called once a second.

        Costs microseconds, but for the point.
        """
        counts = self._count()
        self._counts.append(counts)
        while len(self._counts) > 2 and self._counts[1].at <= counts.at - RATE_S:
            self._counts.popleft()
        if counts.at - self._kept_at >= POINT_S:
            self._kept_at = counts.at
            self._points.append(_point(self.take()))

    def _count(self) -> _Counts:
        events = dict.fromkeys(_STATUSES, 0)
        for label, count in self._ingest.engine.admission.counts.items():
            status = label.partition(":")[0]
            events[status] = events.get(status, 0) + count
        buckets = {
            name: list(self._metrics.times(route).buckets) for name, route in _ROUTES.items()
        }
        buckets["freshness"] = list(self._metrics.freshness.buckets)
        return _Counts(self._monotonic(), time.process_time(), events, buckets)

    def take(self) -> dict[str, Any]:
        """Return what an operator wants to see at a glance; takes some milliseconds."""
        ingest = self._ingest
        described = ingest.engine.describe()
        return {
            "time": format_time(self._wall_ms()),
            **{name: described[name] for name in _DESCRIBED},
            "versions": {name: _version(described["versions"][name]) for name in VERSIONS},
            "events": {
                "total": self._counts[-1].events,
                "per_second": self._rates(),
                "watermark": described["events"]["watermark"],
            },
            "latency": {name: self._latency(name) for name in (*_ROUTES, "freshness")},
            "process": {"cpu": self._cpu(), "memory_bytes": resident_bytes()},
            "cost": self._costs.view(),
            "lag_s": ingest.lag_s,
            "store": "up" if ingest.is_store_up else "unavailable",
            "stopped": None if ingest.stopped is None else ingest.stopped.message,
        }

    def history(self) -> dict[str, Any]:
        """Return the ring, oldest first: the names of its columns, and a row for each point."""
        return {"columns": _COLUMNS, "rows": list(self._points)}

    # -- rates --------------------------------------------------------------------------------

    @property
    def _seconds(self) -> float:
        return max(self._counts[-1].at - self._counts[0].at, 1e-3)

    def _rates(self) -> dict[str, float]:
        first, last = self._counts[0].events, self._counts[-1].events
        # A restore may have set the counts back.
        return {
            status: max(0, count - first.get(status, 0)) / self._seconds
            for status, count in last.items()
        }

    def _cpu(self) -> float:
        return (self._counts[-1].cpu_s - self._counts[0].cpu_s) / self._seconds

    def _latency(self, name: str) -> dict[str, float | None]:
        first, last = self._counts[0].buckets[name], self._counts[-1].buckets[name]
        counts = [b - a for a, b in zip(first, last, strict=True)]
        return {
            "per_second": sum(counts) / self._seconds,
            "p50_ms": quantile_ms(counts, 0.5),
            "p99_ms": quantile_ms(counts, 0.99),
        }


def decision_view(decision: Decision) -> dict[str, Any]:
    """Return a decision as it is shown."""
    shown = asdict(decision)
    return {"time": format_time(shown.pop("time_ms")), **shown}


def quantile_ms(counts: list[int], share: float) -> float | None:
    """Return a quantile in milliseconds, by a straight line within its bucket; None of nothing.

    `counts` are those of the buckets of `Times`; past the last bound it is that bound.
    """
    wanted, below = share * sum(counts), 0.0
    if wanted == 0:
        return None
    for (low, high), count in zip(pairwise((0.0, *BUCKETS)), counts, strict=False):
        if count and below + count >= wanted:
            return (low + (high - low) * (wanted - below) / count) * 1_000
        below += count
    return BUCKETS[-1] * 1_000


_COLUMNS = [
    "time",
    "state",
    *(f"{version}_{metric}" for version in VERSIONS for metric in ("hr_20", "dcg_20")),
    *(f"{status}_per_second" for status in _STATUSES),
    "recommend_per_second",
    "recommend_p99_ms",
    "freshness_p99_ms",
    "lag_s",
    "cpu",
]


def _version(described: dict[str, Any]) -> dict[str, Any]:
    """Return how old a version is, and its quality over the last 1,000 judged events."""
    recent: dict[str, Any] = described["prequential"]["recent"]
    return {name: described[name] for name in ("age_events", "watermark")} | recent


def _point(sample: dict[str, Any]) -> list[Any]:
    """Return what is kept of a sample."""
    latency, versions = sample["latency"], sample["versions"]
    return [
        sample["time"],
        sample["gate"]["state"],
        *(_short(versions[v][metric]) for v in VERSIONS for metric in ("hr_20", "dcg_20")),
        *(_short(sample["events"]["per_second"][status]) for status in _STATUSES),
        _short(latency["recommend"]["per_second"]),
        _short(latency["recommend"]["p99_ms"]),
        _short(latency["freshness"]["p99_ms"]),
        _short(sample["lag_s"]),
        _short(sample["process"]["cpu"]),
    ]


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
