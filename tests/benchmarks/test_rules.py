from __future__ import annotations

import pytest

from app.recommend import Request
from app.rules import read_rules
from tests.benchmarks.made import START_MS, Benchmark, describe, filled_engine, twenty_rules

pytestmark = pytest.mark.benchmark

N_ITEMS = 100_000


@pytest.mark.parametrize("k", [10, 60])
@pytest.mark.parametrize("n_rules", [0, 1, 20])
def test_recommend_under_rules(benchmark: Benchmark, n_rules: int, k: int) -> None:
    """A slate from some 130 (k=10) or 200 candidates, without rules, with one, and with twenty."""
    engine = filled_engine(N_ITEMS)
    engine.admission.watermark_ms = START_MS
    describe(engine, N_ITEMS)
    book = engine.make_rulebook(read_rules({"rules": twenty_rules()[:n_rules]}))
    slate = benchmark(engine.slate_under, book, Request("u0", k))
    assert len(slate) == k
    assert book.acted.any() == (n_rules > 0)
