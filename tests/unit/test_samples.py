"""What is shown of the last hour: bounded, and right."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.costs import Costs
from app.api.metrics import BUCKETS, Durations, Metrics
from app.api.samples import N_POINTS, POINT_S, Samples, quantile_ms
from app.ingest import Ingest
from app.settings import Settings
from app.store import Store
from tests.factories import SMALL, configure, feed, sessions


def made(step_s: float) -> tuple[Samples, Ingest, Metrics]:
    """Return samples of a service whose clock goes by steps, one for each look at it."""
    settings = Settings(**SMALL)
    ingest = Ingest(Store("unix:///nowhere", settings), settings)
    metrics = Metrics(lambda: ingest)
    times = (n * step_s for n in count())
    samples = Samples(ingest, metrics, Costs(ingest, metrics), monotonic=lambda: next(times))
    return samples, ingest, metrics


def test_the_ring_has_an_hour_and_no_more() -> None:
    """However long the service runs, the history has a point every ten seconds of one hour."""
    samples, *_ = made(POINT_S)
    for n in range(N_POINTS + 40):
        samples.tick()
        assert len(samples.history()["rows"]) == min(n + 1, N_POINTS)


def test_points_are_ten_seconds_apart() -> None:
    """Ticks come every second, points every ten."""
    samples, *_ = made(1.0)
    for _ in range(50):
        samples.tick()
    assert len(samples.history()["rows"]) == 5


def test_rates_are_those_of_the_last_ten_seconds() -> None:
    """What happened before that counts no more; the total has everything."""
    samples, ingest, _ = made(1.0)
    feed(ingest.engine, [configure(ingest.settings.engine()), *sessions(300)])
    learned = ingest.engine.admission.counts["learned"]
    samples.tick()
    events = samples.take()["events"]
    assert events["total"]["learned"] == learned
    assert events["per_second"]["learned"] == pytest.approx(learned)
    for _ in range(12):
        samples.tick()
    assert samples.take()["events"]["per_second"]["learned"] == 0


def test_the_latency_shown_is_the_one_measured() -> None:
    """A route's quantiles are within the bucket of what was noted; of nothing there are none."""
    samples, _, metrics = made(1.0)
    assert samples.take()["latency"]["recommend"]["p99_ms"] is None
    for _ in range(100):
        metrics.note("GET /v1/recommendations/{user_id}", 200, 0.0015)
    metrics.note_applied(0.03)
    samples.tick()
    latency = samples.take()["latency"]
    assert 1 <= latency["recommend"]["p50_ms"] <= latency["recommend"]["p99_ms"] <= 2
    assert 20 <= latency["freshness"]["p50_ms"] <= 50
    assert latency["feedback"]["p50_ms"] is None


@given(st.lists(st.floats(0, 20), min_size=1, max_size=50), st.sampled_from([0.01, 0.5, 0.99, 1.0]))
def test_a_quantile_is_in_the_right_bucket(seconds: list[float], share: float) -> None:
    """The quantile by buckets is within the bucket that the true one is in."""
    durations = Durations()
    for each in seconds:
        durations.add(each)
    found = quantile_ms(durations.buckets, share)
    place = max(0, -int(-(share * len(seconds)) // 1) - 1)
    true = sorted(seconds)[place]
    bounds = (0.0, *BUCKETS)
    low = max(bound for bound in bounds if bound < true or bound == 0)
    high = min((bound for bound in BUCKETS if bound >= true), default=BUCKETS[-1])
    assert found is not None
    assert low * 1_000 - 1e-6 <= found <= high * 1_000 + 1e-6
