"""What learning an event and recommending a slate cost in process, ours and our peers', in turns.

`python -m tests.benchmarks.parts` prints it as JSON: CPU time in microseconds, the median of the
rounds. A peer that is not installed is left out (`pip install vowpalwabbit implicit`).
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import orjson
from river.reco import BiasedMF

from app import collector
from app.engine import Engine
from app.events import Feedback
from app.recommend import Request
from tests.benchmarks.made import BATCH, START_MS, entries, filled_engine, new_engine, stream

N_BEFORE, ROUNDS, SLATES = 15_000, 9, 200
# Of one learner in a row: what another one has left in the processor's caches is no part of it.
LEARNED = 4 * BATCH
FACTORS = 64

Step = Callable[[], object]
"""What is timed: one round of it, made ready before."""


def parts(sizes: list[int]) -> dict[str, float]:
    """Return all figures by name; the sources of one figure take turns, so that ratios hold."""
    return _in_turns(_learners(), LEARNED) | _in_turns(_recommenders(sizes), SLATES)


def _in_turns(steps: dict[str, Iterator[Step]], n: int) -> dict[str, float]:
    """Return CPU in us for one of the n things that a step does, by name."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(ROUNDS):
        if number == 1:  # all are there now: as in a service, the collector looks at what is new
            collector.settle()
        for name, following in steps.items():
            step = next(following)
            begin = time.process_time_ns()
            step()
            found[name].append((time.process_time_ns() - begin) / 1_000 / n)
    return {name: statistics.median(taken[1:]) for name, taken in found.items()}


# -- learning ---------------------------------------------------------------------------------


def _learners() -> dict[str, Iterator[Step]]:
    sparse = stream(N_BEFORE + ROUNDS * LEARNED)
    dense, many = (
        [
            msgspec.structs.replace(event, time_ms=START_MS + number // per_ms)
            for number, event in enumerate(sparse)
        ]
        for per_ms in (1, 60)
    )
    found = {
        "learn: River BiasedMF learn_one": _river(sparse),
        "learn: Sluice, judged and guarded, 1,000 events a second": _engine(dense),
        "learn: Sluice, judged and guarded, an event in 2 s": _engine(sparse),
        "learn: Sluice, guarded, 60,000 events a second": _engine(many),
        "learn: Sluice, unguarded, one in a hundred judged": _engine(
            dense, gate="off", judge_share=0.01
        ),
    }
    wabbit = _peer("vowpalwabbit")
    if wabbit is not None:
        found["learn: vowpalwabbit, -q ui"] = _wabbit(wabbit, sparse)
    return found


def _engine(events: list[Feedback], **changes: object) -> Iterator[Step]:
    engine: Engine = new_engine(**changes)
    log = entries(events)
    for entry, cursor in islice(log, N_BEFORE // BATCH):
        engine.apply(entry, cursor)
    while some := list(islice(log, LEARNED // BATCH)):
        yield lambda some=some: [engine.apply(entry, cursor) for entry, cursor in some]  # type: ignore[misc]


def _in_batches(events: list[Feedback], learn: Callable[[Feedback], None]) -> Iterator[Step]:
    following = iter(events)
    for event in islice(following, N_BEFORE):
        learn(event)
    while batch := list(islice(following, LEARNED)):
        yield lambda batch=batch: _each(learn, batch)  # type: ignore[misc]


def _each(learn: Callable[[Feedback], None], batch: list[Feedback]) -> None:
    for event in batch:
        learn(event)


def _river(events: list[Feedback]) -> Iterator[Step]:
    model = BiasedMF(seed=1)
    return _in_batches(events, lambda event: model.learn_one(event.user_id, event.item_id, 1.0))


def _wabbit(wabbit: Any, events: list[Feedback]) -> Iterator[Step]:
    model = wabbit.Workspace("-q ui --quiet --loss_function logistic -b 20")

    def learn(event: Feedback) -> None:
        model.learn(f"1 |u {event.user_id} |i {event.item_id}")

    return _in_batches(events, learn)


# -- recommending -----------------------------------------------------------------------------


def _recommenders(sizes: list[int]) -> dict[str, Iterator[Step]]:
    found = {f"slate of 10: Sluice, {n:,} items, every row full": _slates(n) for n in sizes}
    implicit = _peer("implicit.als")
    if implicit is not None:
        found |= {f"slate of 10: implicit ALS, {n:,} items": _als(implicit, n) for n in sizes}
    return found


def _slates(n_items: int) -> Iterator[Step]:
    engine, random = filled_engine(n_items), np.random.default_rng(2)
    while True:
        asked = [
            Request(k=10, history=[f"i{item}" for item in random.integers(0, n_items, 20)])
            for _ in range(SLATES)
        ]
        yield lambda asked=asked: [engine.recommend(one) for one in asked]  # type: ignore[misc]


def _als(implicit: Any, n_items: int) -> Iterator[Step]:
    sparse = importlib.import_module("scipy.sparse")
    model, random = implicit.AlternatingLeastSquares(factors=FACTORS), np.random.default_rng(2)
    model.user_factors = random.random((1, FACTORS), np.float32)
    model.item_factors = random.random((n_items, FACTORS), np.float32)
    had = random.choice(n_items, 20, replace=False)
    row = sparse.csr_matrix((np.ones(20, np.float32), ([0] * 20, had)), shape=(1, n_items))
    while True:
        yield lambda: [model.recommend(0, row, N=10) for _ in range(SLATES)]


def _peer(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(parts([int(size) for size in sys.argv[1:]])))
