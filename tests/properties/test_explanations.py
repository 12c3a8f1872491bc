"""Explanations are exact: of 1,000 slates, under filters, and of what is in none."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from app.conditions import Condition, parse
from app.engine import Engine
from app.events import Feedback, Impression, ItemUpsert, Record, Rules
from app.recommend import Request, Scored
from tests.factories import click, feed, make_engine, sessions

N_SLATES = 1_000


RULES: list[dict[str, Any]] = [
    {"name": "own", "kind": "boost", "where": {"brand": "acme"}, "by": 0.5},
    {"name": "old", "kind": "bury", "where": {"price": {"max": 3}}, "by": 1.0},
    {"name": "hero", "kind": "pin", "item": "g03i3", "position": 2},
    {"name": "variety", "kind": "cap", "most": 3, "per": "categories"},
    {"name": "gone", "kind": "hide", "where": {"price": 7}},
    {"name": "new", "kind": "quota", "least": 1, "younger_than_h": 1},
    {"name": "once", "kind": "bury", "by": 0.5, "after": {"type": "purchase", "days": 1}},
]


def shop(n_events: int = 1_500, **changes: Any) -> Engine:
    """Return an engine with a stream behind it: clicks, purchases, refusals, and a catalogue."""
    chance = random.Random(5)
    events: list[Record] = []
    for event in sessions(n_events, n_users=60):
        kind = chance.choice(["click", "click", "click", "purchase", "dislike", "view"])
        events.append(Feedback(*event_parts(event, kind)))
        if chance.random() < 0.1:
            events.append(item(event.item_id, chance))
        if chance.random() < 0.2:
            items = [f"g{chance.randrange(15):02d}i{n}" for n in range(10)]
            events.append(Impression(event.event_id, event.user_id, items, [], event.time_ms or 0))
    engine = feed(make_engine(**changes), events, group=20)
    hidden = [ItemUpsert(f"g00i{n}", hidden=True) for n in range(3)]
    unseen = [item(f"new{n}", chance) for n in range(10)]
    return feed(engine, [*hidden, *unseen], group=20)


def event_parts(event: Feedback, kind: str) -> tuple[Any, ...]:
    """Return an event of another type, as its parts."""
    return event.event_id, event.user_id, event.item_id, kind, None, event.time_ms


def item(item_id: str, chance: random.Random) -> ItemUpsert:
    """Return an item with some category, brand and price."""
    attributes: dict[str, Any] = {
        "brand": chance.choice(["acme", "zeta"]),
        "price": chance.randrange(10),
    }
    return ItemUpsert(item_id, [f"c{chance.randrange(4)}"], attributes)


def requests(engine: Engine, n: int) -> Iterator[Request]:
    """Yield requests of all sorts, of users known and unknown."""
    chance = random.Random(6)
    items = [str(item_id) for item_id in engine.history.items.newest()]
    filters: list[Condition] = [(), (), parse({"brand": "acme"}), parse({"price": {"min": 4}})]
    for _ in range(n):
        yield Request(
            f"u{chance.randrange(70)}",
            chance.choice([1, 5, 10, 40]),
            exclude=chance.sample(items, chance.choice([0, 0, 3])),
            categories=chance.choice([(), (), (), ("c1", "c2")]),
            history=chance.choice([None, None, None, chance.sample(items, 4)]),
            candidates=chance.choice([None, None, None, chance.sample(items, 20)]),
            explain=True,
            filter=chance.choice(filters),
        )


def check(scored: Scored) -> None:
    """Fail unless an item's reasons add up to its score."""
    assert scored.why is not None
    assert abs(sum(part["weight"] for part in scored.why) - scored.score) <= 1e-6, scored


@pytest.mark.parametrize("rules", [[], RULES], ids=["no rules", "rules"])
def test_reasons_add_up(rules: list[dict[str, Any]]) -> None:
    """For every item of 1,000 slates the weights of its reasons add up to its score."""
    engine = shop()
    feed(engine, [Rules(rules, "tester")])
    n_items, named = 0, set()
    for request in requests(engine, N_SLATES // 2):
        for scored in engine.recommend(request).items:
            check(scored)
            n_items += 1
            named |= {part["because"] for part in scored.why or ()}
    assert n_items > 3_000
    assert {"trending", "factors", "item", "categories", "ignored"} <= named
    assert {"rule:own", "rule:old", "rule:once"} <= named or not rules


def test_reasons_of_a_river_model_add_up() -> None:
    """Also where a River model makes the totals."""
    engine = shop(400, learner="river:reco.BiasedMF(n_factors=4)")
    feed(engine, [Rules(RULES, "tester")])
    for request in requests(engine, 50):
        for scored in engine.recommend(request).items:
            check(scored)


@pytest.mark.parametrize("rules", [[], RULES], ids=["no rules", "rules"])
def test_an_explanation_is_of_the_slate(rules: list[dict[str, Any]]) -> None:
    """What it says of any item is so: place, score and reasons, and that it cannot be shown."""
    engine = shop()
    feed(engine, [Rules(rules, "tester"), click("late", "g05i5", at_s=1_500)])
    chance = random.Random(7)
    items = [str(item_id) for item_id in engine.history.items.newest()]
    seen = {"shown": 0, "named": 0, "eligible": 0, "excluded": 0}
    for request in requests(engine, 300):
        request = request._replace(history=None, candidates=None)
        slate = {scored.item_id: scored for scored in engine.recommend(request).items}
        shown = list(slate)
        for item_id in {*chance.sample(items, 2), *shown[:1], *shown[-1:]}:
            found = engine.explain(request, item_id)
            assert found["shown"] == (item_id in slate)
            assert not (found["shown"] and found["excluded"])
            alone = request._replace(candidates=[item_id])
            assert found["eligible"] == bool(engine.recommend(alone).items), found
            if found["shown"]:
                assert shown[found["position"] - 1] == item_id
                assert (found["score"], found["why"]) == (slate[item_id].score, slate[item_id].why)
            if found["eligible"]:
                check(Scored(item_id, found["rank"], found["score"], 1.0, [], found["why"]))
                assert 1 <= found["rank"] <= found["n_ranked"]
            assert item_id in found["because"]
            seen["shown"] += found["shown"]
            seen["named"] += found["named"]
            seen["eligible"] += found["eligible"]
            seen["excluded"] += bool(found["excluded"])
    assert min(seen.values()) > 100, seen
