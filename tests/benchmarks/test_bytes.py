from __future__ import annotations

from functools import cache

import pytest

from app import events, snapshot
from app.engine import Engine
from app.events import Entry
from tests.benchmarks.made import Benchmark, entries, new_engine, stream

pytestmark = pytest.mark.benchmark

SIZES = [1, 500]


@cache
def taught_engine() -> Engine:
    """Return an engine after 30,000 events."""
    engine = new_engine()
    for entry, cursor in entries(stream(30_000)):
        engine.apply(entry, cursor)
    return engine


def test_snapshot_dump(benchmark: Benchmark) -> None:
    """The engine's state as chunks with their checksums."""
    engine = taught_engine()
    manifest, _ = benchmark(lambda: snapshot.dump(engine.state(), engine.cursor))
    benchmark.extra_info["bytes"] = manifest["bytes"]


def test_snapshot_load(benchmark: Benchmark) -> None:
    """Chunks verified and an engine made of them: what a start does before it replays the tail."""
    manifest, chunks = snapshot.dump(taught_engine().state(), "1-1")
    engine = benchmark(lambda: Engine.from_state(snapshot.load([(manifest, chunks)])))
    assert engine.n_events == 30_000


def test_hashes(benchmark: Benchmark) -> None:
    """model_hash and state_hash."""
    assert len(benchmark(taught_engine().hashes)) == 2


@pytest.mark.parametrize("n_events", SIZES)
def test_encode(benchmark: Benchmark, n_events: int) -> None:
    """An entry's wire form."""
    entry = Entry(list(stream(n_events)), 0)
    benchmark.extra_info["bytes"] = len(benchmark(events.encode, entry))


@pytest.mark.parametrize("n_events", SIZES)
def test_decode(benchmark: Benchmark, n_events: int) -> None:
    """The way back, every field checked."""
    payload = events.encode(Entry(list(stream(n_events)), 0))
    assert len(benchmark(events.decode, payload).records) == n_events


@pytest.mark.parametrize("n_events", SIZES)
def test_parse_feedback(benchmark: Benchmark, n_events: int) -> None:
    """What a client sent, after its JSON: checked, and given an id where it has none."""
    raws = [
        {"user_id": e.user_id, "item_id": e.item_id, "type": e.type, "timestamp": 1_700_000_000}
        for e in stream(n_events)
    ]
    parsed = benchmark(lambda: [events.parse_feedback(raw, new_id="n") for raw in raws])
    assert len(parsed) == n_events
