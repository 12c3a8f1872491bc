from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from river.reco import BiasedMF

from app.engine import Engine
from app.events import Feedback
from learners import Blend, History
from tests.benchmarks.made import BATCH, N_ITEMS, N_USERS, Benchmark, entries, new_engine, stream

pytestmark = pytest.mark.benchmark

N_BEFORE = 30_000
ROUNDS = 20


@cache
def events() -> list[Feedback]:
    """Return the one stream that all of these learn."""
    return stream(N_BEFORE + ROUNDS * BATCH)


def warm_engine(gate: str) -> tuple[Engine, list[tuple[Any, str]]]:
    """Return an engine that has seen most of the stream, and the entries that are left."""
    engine = new_engine(gate=gate)
    made = list(entries(events()))
    for entry, cursor in made[: N_BEFORE // BATCH]:
        engine.apply(entry, cursor)
    return engine, made[N_BEFORE // BATCH :]


@pytest.mark.parametrize("gate", ["off", "on"])
def test_engine_learns_500_events(benchmark: Benchmark, gate: str) -> None:
    """Admission, judging, learning, personal state and gate, 500 events to the entry."""
    engine, left = warm_engine(gate)
    following = iter(left)
    benchmark.pedantic(engine.apply, setup=lambda: (next(following), {}), rounds=ROUNDS)
    assert engine.n_events == len(events())


def learn_all(model: Any, batch: list[Feedback]) -> None:
    """Teach a River recommender, event by event."""
    for event in batch:
        model.learn_one(event.user_id, event.item_id, 1.0)


def batches() -> list[list[Feedback]]:
    """Return the stream in pieces of 500."""
    return [events()[start : start + BATCH] for start in range(0, len(events()), BATCH)]


@pytest.mark.parametrize("name", ["ours", "river-biased-mf"])
def test_learner_alone_learns_500_events(benchmark: Benchmark, name: str) -> None:
    """River's `learn_one`: our default learner beside River's factor model with its defaults."""
    history = History(max_items=N_ITEMS, max_users=N_USERS)
    model = Blend(history=history) if name == "ours" else BiasedMF(seed=1)
    for batch in batches()[: N_BEFORE // BATCH]:
        learn_all(model, batch)
    following = iter(batches()[N_BEFORE // BATCH :])
    benchmark.pedantic(learn_all, setup=lambda: ((model, next(following)), {}), rounds=ROUNDS)
