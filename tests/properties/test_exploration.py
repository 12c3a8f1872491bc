from __future__ import annotations

import functools
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from app.engine import Engine
from app.events import Impression, Rules
from app.exploration import explored_places
from app.recommend import Request
from tests.factories import START_MS, apply, feed, make_engine, mixed, upsert

N_SLATES = 4_000
# The chance that a table of so many right propensities is taken for a wrong one.
ERROR = 1e-9


# Two pins, two things that slots must not show together, and a quota that is only just met.
RULES = [
    {"name": "first", "kind": "pin", "item": "i7", "position": 5},
    {"name": "one", "kind": "cap", "where": {"categories": "c1"}, "most": 1},
    {"name": "each", "kind": "cap", "where": {"categories": {"any": ["d1", "d2"]}}, "most": 2},
    {"name": "fresh", "kind": "quota", "least": 1, "younger_than_h": 1.0},
]


@functools.cache
def shop(share: float, *, ruled: bool = False) -> Engine:
    """Return an engine with old and new items, some of them shown; tests here only read it."""
    engine = make_engine(explore_share=share)
    feed(engine, mixed(1_200), group=100)
    feed(engine, [upsert(f"new{n}", f"c{n % 3}", f"d{n % 4}") for n in range(20)])
    for n in range(30):
        items = [f"new{(n + place) % 7}" for place in range(4)]
        apply(engine, Impression(f"s{n}", f"u{n}", items, [1.0] * 4, START_MS + n))
    if ruled:
        apply(engine, Rules(RULES, "tester"))
    return engine


@pytest.mark.parametrize(
    ("share", "k", "ruled"),
    [(0.3, 7, False), (0.05, 10, False), (1.0, 12, False), (0.5, 40, False), (0.5, 12, True)],
)
def test_propensities_are_how_often_it_happens(share: float, k: int, ruled: bool) -> None:
    """Each item stands at each place as often as is said, within a bound that holds for all.

    Bernstein's inequality, for all pairs of place and item at once. Under rules, too.
    """
    engine = shop(share, ruled=ruled)
    counts: Counter[tuple[int, str]] = Counter()
    likely: dict[tuple[int, str], float] = {}
    for n in range(N_SLATES):
        for place, scored in enumerate(engine.recommend(Request("u1", k=k), f"id-{n}").items):
            counts[place, scored.item_id] += 1
            said = likely.setdefault((place, scored.item_id), scored.propensity)
            assert said == scored.propensity, "it does not depend on what else was drawn"
    log = math.log(2 * len(likely) / ERROR)
    for pair, p in likely.items():
        bound = math.sqrt(2 * p * (1 - p) * log / N_SLATES) + 2 * log / (3 * N_SLATES)
        assert abs(counts[pair] / N_SLATES - p) <= bound, pair
    for place in range(k):
        whole = sum(p for (at, _), p in likely.items() if at == place)
        assert whole == pytest.approx(1.0), "what can stand there has all been seen"


def test_slots_are_independent() -> None:
    """Two slots explore together as often as their shares' product says."""
    share, n_both = 0.3, 0
    for n in range(N_SLATES):
        places = explored_places(shop(share).recommend(Request("u1", k=7), f"id-{n}").items)
        n_both += {3, 5} <= set(places)
    bound = math.sqrt(math.log(2 / ERROR) / (2 * N_SLATES))
    assert abs(n_both / N_SLATES - share * share) <= bound


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    id_=st.text(min_size=1, max_size=30),
    user=st.sampled_from(["u1", "u7", "stranger", None]),
    k=st.integers(1, 200),
    exclude=st.lists(st.sampled_from(["new1", "new2", "i3", "unknown"]), max_size=3),
    category=st.lists(st.sampled_from(["c1", "d2", "none"]), max_size=2),
    share=st.sampled_from([0.05, 1.0]),
)
def test_whatever_explores_keeps_to_the_request(
    id_: str,
    user: str | None,
    k: int,
    exclude: list[str],
    category: list[str],
    share: float,
) -> None:
    """As many items as without, each once, the first three the same, all of them eligible."""
    engine = shop(share)
    request = Request(user, k, exclude, category)
    slate, plain = engine.recommend(request, id_).items, engine.recommend(request).items
    ids = [scored.item_id for scored in slate]
    assert len(slate) == len(plain)
    assert len(set(ids)) == len(ids)
    assert slate[:3] == plain[:3]
    assert engine.recommend(request, id_).items == slate
    places = explored_places(slate)
    catalogue, items = engine.catalogue, engine.history.items
    for place, scored in enumerate(slate):
        assert 0.0 < scored.propensity <= 1.0
        assert scored.item_id not in exclude
        if place not in places:
            assert replace(scored, propensity=1.0) == plain[place]
        elif category:
            assert set(catalogue.view(items.get(scored.item_id))["categories"]) & set(category)
