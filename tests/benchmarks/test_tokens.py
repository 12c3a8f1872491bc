from __future__ import annotations

import pytest

from app.api.metrics import Metrics
from app.api.signing import Signing
from app.impressions import Impressions
from app.ingest import Ingest
from app.recommend import Request
from app.settings import Settings
from app.store import Store
from app.tokens import Tokens
from learners.ids import handle_of
from tests.benchmarks.made import Benchmark, entries, new_engine, stream

pytestmark = pytest.mark.benchmark

NOW_MS = 1_795_456_800_000
TOKENS = Tokens([b"k" * 32, b"o" * 32], "default", 86_400_000)


def slate(k: int) -> list[int]:
    """Return the handles of k items of a catalogue of 100,000."""
    return [handle_of(90_000 + index * 7, 0) for index in range(k)]


@pytest.mark.parametrize("k", [10, 200])
def test_mint(benchmark: Benchmark, k: int) -> None:
    """The token of a slate."""
    assert benchmark(TOKENS.mint, "abcdefghijkl", "u1", slate(k), NOW_MS)


@pytest.mark.parametrize("k", [10, 200])
def test_verify(benchmark: Benchmark, k: int) -> None:
    """The verdict on a token, for the last item of its slate."""
    token = TOKENS.mint("abcdefghijkl", "u1", slate(k), NOW_MS)
    found = benchmark(TOKENS.verify, token, user_id="u1", handle=slate(k)[-1], now_ms=NOW_MS)
    assert found.place == k - 1


@pytest.mark.parametrize("is_signed", [False, True])
def test_a_slate_with_and_without_token(benchmark: Benchmark, is_signed: bool) -> None:
    """A slate of 10 for the busiest user: the difference is what token and impression cost."""
    settings = Settings(tokens="check", token_keys="k" * 32)
    ingest = Ingest(Store("unix:///nowhere", settings), settings)
    ingest.engine, ingest.is_store_up = new_engine(), True
    for entry, cursor in entries(stream(30_000)):
        ingest.engine.apply(entry, cursor)
    users = ingest.engine.history.users
    busiest = max(users.index.values(), key=lambda u: ingest.engine.history.n_events[u])
    request = Request(str(users.ids[busiest]))
    impressions = Impressions(ingest, settings)
    signing = Signing(settings, impressions, Metrics(lambda: ingest))
    if is_signed:
        benchmark.pedantic(
            signing.recommend, (ingest.engine, request, NOW_MS), rounds=5_000, warmup_rounds=100
        )
        assert impressions.n_buffered == 5_100
    else:
        benchmark.pedantic(ingest.engine.recommend, (request,), rounds=5_000, warmup_rounds=100)
